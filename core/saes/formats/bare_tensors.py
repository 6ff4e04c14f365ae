"""`.pt` files of W_enc, b_enc, W_dec, b_dec alone, which mean different things by the file they come in.

Qwen Scope, layerN.sae.pt               W_enc (F, D), W_dec (D, F); TopK with k from the repository's name (`-L0_50`); b_dec stays on the input
Kissane et al. (hook_z), X.pt, X_cfg.json   W_enc (D, F), W_dec (F, D); ReLU; b_dec is taken off the input
"""

from __future__ import annotations

import re

from core.records import Site
from core.saes.formats.names import site_of_hook
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

NAMES = {"W_enc", "b_enc", "W_dec", "b_dec"}


def matches(place: Source) -> bool:
    return place.weights.suffix == ".pt" and place.keys == NAMES


def load(place: Source) -> Published:
    """Raises UsageError where neither the names nor a file beside it tell which of the two it is."""
    tensors = as_floats(place.content)
    if layer := re.fullmatch(r"layer(\d+)\.sae\.pt", place.weights.name):
        return _qwen(place, tensors, int(layer[1]))
    table = place.config(f"{place.weights.stem}_cfg.json")
    if not table.get("act_name"):
        reason = "its tensors fit several kinds of SAE, and its name and folder do not tell which"
        raise refused(
            place.name,
            reason,
            f"Put {place.weights.stem}_cfg.json beside it, or keep the name layerN.sae.pt that Qwen Scope gave it.",
        )
    sae = SAE(SAEConfig("standard", "relu"), tensors)
    return Published(
        sae,
        site_of_hook(table["act_name"], "gpt2"),
        "gpt2",
        128,
        True,
        f"Kissane et al., {place.name}",
    )


def _qwen(place: Source, tensors: dict, layer: int) -> Published:
    release = re.search(r"SAE-Res-(.+)-W\d+K-L0_(\d+)", place.path)
    if not release:
        raise refused(
            place.name,
            "its k stands only in its repository's name, which is not in its path",
            "Keep it in a folder SAE-Res-MODEL-W32K-L0_50.",
        )
    tensors |= {"W_enc": tensors["W_enc"].T, "W_dec": tensors["W_dec"].T}
    sae = SAE(SAEConfig("topk", "topk", int(release[2]), subtract_b_dec=False), tensors)
    return Published(
        sae,
        Site("resid_post", layer=layer),
        f"Qwen/{release[1]}",
        1024,
        True,
        f"Qwen Scope, {place.name}",
    )

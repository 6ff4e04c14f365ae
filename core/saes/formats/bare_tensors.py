"""`.pt` files that hold only W_enc, b_enc, W_dec and b_dec: Qwen Scope and Kissane et al.

The same four names mean different things in the two:

    Qwen Scope       layerN.sae.pt: W_enc (F, D), W_dec (D, F); TopK with k from the repository's
                     name (`-L0_50`); b_dec is not subtracted from the input
    Kissane et al.   X.pt and X_cfg.json (hook_z): W_enc (D, F), W_dec (F, D); ReLU; b_dec is
                     subtracted from the input
"""

from __future__ import annotations

import re

from torch import Tensor

from core.records import Site
from core.saes.formats.names import site_of_hook
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

NAMES = {"W_enc", "b_enc", "W_dec", "b_dec"}
QWEN_CONTEXT, KISSANE_CONTEXT = 1024, 128


def matches(source: Source) -> bool:
    """Return whether the file is a `.pt` file of just these four tensors."""
    return source.weights.suffix == ".pt" and source.keys == NAMES


def load(source: Source) -> SAE:
    """Load the SAE; raises UsageError where nothing tells which of the two releases it is from."""
    tensors = as_floats(source.table)
    if layer := re.fullmatch(r"layer(\d+)\.sae\.pt", source.weights.name):
        return _load_qwen(source, tensors, int(layer[1]))
    table = source.config(f"{source.weights.stem}_cfg.json")
    if not table.get("act_name"):
        raise refusal(
            source.name,
            "its tensors fit several kinds of SAE, and its name and folder do not tell which",
            f"Put {source.weights.stem}_cfg.json beside it, "
            "or keep the name layerN.sae.pt that Qwen Scope gave it.",
        )
    site, said = site_of_hook(table["act_name"], "gpt2"), f"Kissane et al., {source.name}"
    return SAE(SAEConfig("standard", "relu"), tensors, site, "gpt2", KISSANE_CONTEXT, said)


def _load_qwen(source: Source, tensors: dict[str, Tensor], layer: int) -> SAE:
    release = re.search(r"SAE-Res-(.+)-W\d+K-L0_(\d+)", source.path)
    if not release:
        raise refusal(
            source.name,
            "its k stands only in its repository's name, which is not in its path",
            "Keep it in a folder SAE-Res-MODEL-W32K-L0_50.",
        )
    return SAE(
        SAEConfig("topk", "topk", int(release[2]), subtract_b_dec=False),
        tensors | {"W_enc": tensors["W_enc"].T, "W_dec": tensors["W_dec"].T},
        Site("resid_post", layer=layer),
        f"Qwen/{release[1]}",
        QWEN_CONTEXT,
        f"Qwen Scope, {source.name}",
    )

"""Gemma Scope 1 (params.npz) and 2 (params.safetensors, config.json) of Google DeepMind: JumpReLU, b_dec not taken off the input.

    W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,), threshold (F,); release 2 writes w_enc and w_dec

Where an SAE belongs stands in the name of its repository and folder (`layer_20/width_16k/...`), in release 2 also in its settings. The
embedding's SAE was trained on rows of the embedding, and the subject multiplies those by sqrt(D); that scale is taken into the weights.
"""

from __future__ import annotations

import re

from core.records import Site
from core.saes.formats import folding
from core.saes.formats.names import site_of_hook
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig, check_shapes

CONTEXT = 1024
SUBLAYERS = {
    "res": "resid_post",
    "resid_post": "resid_post",
    "att": "attn_z",
    "attn_out": "attn_z",
    "mlp": "mlp_out",
    "mlp_out": "mlp_out",
}
NAMES = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}


def matches(place: Source) -> bool:
    return (
        place.weights.suffix == ".npz"
        or place.weights.suffix == ".safetensors"
        and {"w_enc", "w_dec", "threshold"} <= place.keys
    )


def load(place: Source) -> Published:
    """Raises UsageError for transcoders, those with a skip connection and those across layers."""
    table = place.config("config.json")
    tensors = as_floats(
        {name.replace("w_", "W_"): tensor for name, tensor in place.content.items()}
    )
    place_in, place_out = table.get("hf_hook_point_in"), table.get("hf_hook_point_out")
    if "affine_skip_connection" in tensors or table.get("affine_connection"):
        raise refused(
            place.name,
            "part of its reconstruction skips the features, so features alone do not say what it gives",
            "Use one without a skip connection.",
        )
    across = "W_dec" in tensors and tensors["W_dec"].ndim != 2
    if across or place_out not in (None, place_in) or re.search(r"transcoder|(^|/)clt", place.path):
        raise refused(
            place.name,
            "it is a transcoder: it does not reconstruct what it reads",
            "Use an SAE of the same release.",
        )
    if table.get("architecture", "jump_relu") != "jump_relu" or tensors.keys() != NAMES:
        raise refused(
            place.name,
            f"it is no JumpReLU SAE of this release: its tensors are {sorted(tensors)}",
            "Use an SAE of Gemma Scope.",
        )
    check_shapes(tensors)
    second = bool(table) or place.weights.suffix == ".safetensors"
    site = site_of_hook(place_in) if place_in else _site(place.path)
    if re.search(r"(^|/)embedding", place.path):
        site, tensors = (
            Site("resid_pre", layer=0),
            folding.scaled_input(tensors, tensors["b_dec"].numel() ** -0.5),
        )
    subject = table.get("model_name") or _subject(place.path)
    subject = subject if "/" in subject or not subject else f"google/{subject}"
    sae = SAE(SAEConfig("jumprelu", "jumprelu", subtract_b_dec=False), tensors)
    return Published(
        sae, site, subject, CONTEXT, True, f"Gemma Scope {2 if second else 1}, {place.name}"
    )


def _site(path: str) -> Site | None:
    """From `gemma-scope-2b-pt-res/layer_20/...` or `resid_post/layer_12_width_16k_l0_small`."""
    layer = re.search(r"layer_(\d+)", path)
    sublayer = re.search(
        r"(?:^|/)(resid_post|attn_out|mlp_out)(?:_all)?/|gemma-scope-[\w.]+-(?:pt|it)-(res|att|mlp)",
        path,
    )
    if not layer or not sublayer:
        return None
    kind = SUBLAYERS[sublayer[1] or sublayer[2]]
    if kind == "mlp_out":  # behind the norm that follows the module
        return Site("output", module=f"model.layers.{layer[1]}.post_feedforward_layernorm")
    return Site(kind, layer=int(layer[1]))


def _subject(path: str) -> str:
    """The subject that the repository's name tells: google/gemma-2-2b for gemma-scope-2b-pt-res, google/gemma-3-4b-it for gemma-scope-2-4b-it."""
    if second := re.search(r"gemma-scope-2-(\d+[bm])-(pt|it)", path):
        return f"google/gemma-3-{second[1]}" + (
            "" if second.groups() == ("270m", "pt") else f"-{second[2]}"
        )
    first = re.search(r"gemma-scope-(\d+b)-(pt|it)", path)
    return f"google/gemma-2-{first[1]}" + ("-it" if first[2] == "it" else "") if first else ""

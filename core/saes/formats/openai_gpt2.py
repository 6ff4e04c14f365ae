"""OpenAI's GPT-2 small SAEs (Gao et al. 2024, arXiv 2406.04093, and the earlier ReLU ones): one `.pt` file a layer.

    pre_bias (D,), encoder.weight (F, D), latent_bias (F,), decoder.weight (D, F), activation ("TopK" or "ReLU"), activation_state_dict

TopK SAEs read each token through a layer norm (unbiased deviation, 1e-5 added to it) and put its scale and mean back; ReLU ones read it raw.
Location and layer stand in the path: `resid_post_mlp_v5_32k/autoencoders/8.pt`.
"""

from __future__ import annotations

import re

from core.records import Site
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

CONTEXT = 64
LOCATIONS = {
    "resid_delta_attn": "attn_out",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_post_mlp": "resid_post",
}
STATISTICS = {
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
}  # of training
NAMES = {
    "pre_bias",
    "encoder.weight",
    "latent_bias",
    "decoder.weight",
    "activation",
    "activation_state_dict",
} | STATISTICS


def matches(place: Source) -> bool:
    return {"pre_bias", "latent_bias"} <= place.keys


def load(place: Source) -> Published:
    """Raises UsageError for another activation and for a file without a decoder."""
    content, state = place.content, place.content.get("activation_state_dict") or {}
    activation = content.get("activation", "ReLU")
    if unknown := place.keys - NAMES:
        raise refused(
            place.name,
            f"it holds {sorted(unknown)}, which may change what it computes",
            "Use one of the published files.",
        )
    if "decoder.weight" not in content:
        raise refused(place.name, "it was saved without its decoder", "Use the whole file.")
    if (
        activation not in ("TopK", "ReLU")
        or activation == "TopK"
        and (state.get("postact_fn") != "ReLU" or "k" not in state)
    ):
        raise refused(
            place.name,
            f"its activation {activation!r} with {state} is not known",
            "Known are ReLU, and TopK followed by ReLU.",
        )
    weights = as_floats(
        {
            name: content[name]
            for name in ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
        }
    )
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["latent_bias"],
        "W_dec": weights["decoder.weight"].T,
        "b_dec": weights["pre_bias"],
    }
    form = (
        SAEConfig("topk", "topk", int(state["k"]), "layer_norm")
        if activation == "TopK"
        else SAEConfig("standard", "relu")
    )
    return Published(
        SAE(form, tensors), _site(place.path), "gpt2", CONTEXT, True, f"OpenAI, {place.name}"
    )


def _site(path: str) -> Site | None:
    layer = re.search(r"/(\d+)\.pt$", path)
    if layer and "mlp_post_act" in path:
        return Site("output", module=f"transformer.h.{layer[1]}.mlp.act")
    kind = next((kind for location, kind in LOCATIONS.items() if location in path), None)
    return Site(kind, layer=int(layer[1])) if layer and kind else None

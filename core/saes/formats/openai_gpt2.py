"""OpenAI's GPT-2 small SAEs (Gao et al. 2024, arXiv 2406.04093, and earlier ReLU ones).

    pre_bias (D,), encoder.weight (F, D), latent_bias (F,), decoder.weight (D, F),
    activation ("TopK" or "ReLU"), activation_state_dict

There is one `.pt` file per layer. TopK SAEs read each token through a layer norm (unbiased
deviation, with 1e-5 added to it) and put its scale and mean back; ReLU ones read it raw. The path
says location and layer: `resid_post_mlp_v5_32k/autoencoders/8.pt`.
"""

from __future__ import annotations

import re
from typing import Any

from core.records import Site
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

CONTEXT = 64
LOCATIONS = {
    "resid_delta_attn": "attn_out",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_post_mlp": "resid_post",
}
WEIGHTS = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
TRAINING_STATISTICS = {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}
NAMES = {*WEIGHTS, "activation", "activation_state_dict"} | TRAINING_STATISTICS


def matches(source: Source) -> bool:
    """Return whether the file has the names that only these SAEs have."""
    return {"pre_bias", "latent_bias"} <= source.keys


def load(source: Source) -> SAE:
    """Load the SAE; raises UsageError for another activation and for a missing decoder."""
    content = source.table
    activation = content.get("activation", "ReLU")
    state = content.get("activation_state_dict") or {}
    _check(source, activation, state)
    weights = as_floats({name: content[name] for name in WEIGHTS})
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["latent_bias"],
        "W_dec": weights["decoder.weight"].T,
        "b_dec": weights["pre_bias"],
    }
    config = SAEConfig("standard", "relu")
    if activation == "TopK":
        config = SAEConfig("topk", "topk", int(state["k"]), "layer_norm")
    return SAE(config, tensors, _site(source.path), "gpt2", CONTEXT, f"OpenAI, {source.name}")


def _check(source: Source, activation: str, state: dict[str, Any]) -> None:
    """Raise UsageError for what is no SAE of this release."""
    if unknown := source.keys - NAMES:
        raise refusal(
            source.name,
            f"it holds {sorted(unknown)}, which may change what it computes",
            "Use one of the published files.",
        )
    if "decoder.weight" not in source.keys:
        raise refusal(source.name, "it was saved without its decoder", "Use the whole file.")
    topk = activation == "TopK" and state.get("postact_fn") == "ReLU" and "k" in state
    if activation != "ReLU" and not topk:
        raise refusal(
            source.name,
            f"its activation {activation!r} with {state} is not known",
            "Known are ReLU, and TopK followed by ReLU.",
        )


def _site(path: str) -> Site | None:
    layer = re.search(r"/(\d+)\.pt$", path)
    if layer and "mlp_post_act" in path:
        return Site("output", module=f"transformer.h.{layer[1]}.mlp.act")
    kind = next((kind for location, kind in LOCATIONS.items() if location in path), None)
    return Site(kind, layer=int(layer[1])) if layer and kind else None

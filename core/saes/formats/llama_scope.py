"""Llama Scope (He et al. 2024, arXiv 2410.20526) and its R1-distilled successors: JumpReLU, b_dec not taken off the input.

    encoder.weight (F, D), encoder.bias (F,), decoder.weight (D, F), decoder.bias (D,)     hyperparams.json, checkpoints/final.safetensors
    and log_jumprelu_threshold (F,)                                                    config.json, sae_weights.safetensors (R1-distill)

Trained on s x with s = sqrt(D) / mean norm of the activations, which is taken into the weights: an activation is in the units that the SAE was
trained in. The one threshold of the first release is stored in raw units and becomes s times as large. R1-distill says s in no file of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.formats import folding
from core.saes.formats.names import site_of_hook
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig, check_shapes

SUBJECT, CONTEXT = "meta-llama/Llama-3.1-8B", 1024
DISTILLED = "log_jumprelu_threshold"


def matches(place: Source) -> bool:
    return (
        DISTILLED in place.keys
        or place.weights.parent.name == "checkpoints"
        and bool(place.config("../hyperparams.json"))
    )


def load(place: Source) -> Published:
    """Raises UsageError for transcoders, for other activations, and where the scale of the activations is not said."""
    distilled = DISTILLED in place.keys
    table = place.config("config.json" if distilled else "../hyperparams.json")
    hook_in, hook_out = table.get("hook_point_in", ""), table.get("hook_point_out")
    if hook_out not in (None, hook_in):
        raise refused(
            place.name,
            f"it is a transcoder from {hook_in} to {hook_out}",
            "Use an SAE of the same release.",
        )
    weights = as_floats(place.content)
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["decoder.weight"].T,
        "b_dec": weights["decoder.bias"],
    }
    check_shapes(tensors)
    scale, threshold = (
        _distilled(place, table, weights) if distilled else _first(place, table, tensors)
    )
    sae = SAE(
        SAEConfig("jumprelu", "jumprelu", subtract_b_dec=False),
        folding.scaled_input(tensors, scale) | {"threshold": threshold},
    )
    return Published(
        sae, site_of_hook(hook_in, SUBJECT), SUBJECT, CONTEXT, True, f"Llama Scope, {place.name}"
    )


def _first(place: Source, table: dict, tensors: dict[str, Tensor]) -> tuple[float, Tensor]:
    """(scale of the input, thresholds (F,)) of the first release."""
    if (
        "jump_relu_threshold" not in table
        or table.get("act_fn", "jumprelu") != "jumprelu"
        or table.get("apply_decoder_bias_to_pre_encoder")
    ):
        raise refused(
            place.name,
            "its hyperparams.json does not describe a JumpReLU SAE as released",
            "Use one of the published folders.",
        )
    norm = (table.get("dataset_average_activation_norm") or {}).get("in")
    if not norm:
        raise refused(
            place.name,
            "its hyperparams.json does not say the norm of its activations",
            "Use one of the published folders.",
        )
    scale = tensors["b_dec"].numel() ** 0.5 / norm
    return scale, torch.full_like(tensors["b_enc"], table["jump_relu_threshold"] * scale)


def _distilled(place: Source, table: dict, weights: dict[str, Tensor]) -> tuple[float, Tensor]:
    scale = table.get("norm_scaling_factor")
    if not scale:
        reason = "it was trained on scaled activations and its files do not say by how much"
        raise refused(
            place.name,
            reason,
            'Add "norm_scaling_factor" (sqrt(D) / mean norm of the activations) to its config.json.',
        )
    return float(scale), weights[DISTILLED].exp()

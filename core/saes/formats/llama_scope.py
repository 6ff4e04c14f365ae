"""Llama Scope (He et al. 2024, arXiv 2410.20526) and its R1-distilled successors: JumpReLU SAEs.

    Llama Scope   hyperparams.json and checkpoints/final.safetensors: encoder.weight (F, D),
                  encoder.bias (F,), decoder.weight (D, F), decoder.bias (D,)
    R1-distill    config.json and sae_weights.safetensors: the same and log_jumprelu_threshold (F,)

b_dec is not subtracted from the input. The SAEs were trained on s x with s = sqrt(D) / mean norm of
the activations; s is folded into the weights, so that activations keep the units of training. The
first release stores its one threshold in raw units, so it is multiplied by s. R1-distill says s in
none of its files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.saes.formats import folding
from core.saes.formats.names import site_of_hook
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig
from core.saes.shapes import check_shapes

SUBJECT, CONTEXT = "meta-llama/Llama-3.1-8B", 1024
DISTILLED = "log_jumprelu_threshold"
USE_PUBLISHED = "Use one of the published folders."


def matches(source: Source) -> bool:
    """Return whether the weights are of either release."""
    if DISTILLED in source.keys:
        return True
    return source.weights.parent.name == "checkpoints" and bool(
        source.config("../hyperparams.json")
    )


def load(source: Source) -> SAE:
    """Load the SAE.

    Raises UsageError for transcoders, for other activations, and where no file says the scale of
    the activations.
    """
    distilled = DISTILLED in source.keys
    table = source.config("config.json" if distilled else "../hyperparams.json")
    hook_in, hook_out = table.get("hook_point_in", ""), table.get("hook_point_out")
    if hook_out not in (None, hook_in):
        raise refusal(
            source.name,
            f"it is a transcoder from {hook_in} to {hook_out}",
            "Use an SAE of the same release.",
        )
    weights = as_floats(source.table)
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["decoder.weight"].T,
        "b_dec": weights["decoder.bias"],
    }
    check_shapes(tensors)
    if distilled:
        scale, threshold = _read_scale(source, table), weights[DISTILLED].exp()
    else:
        scale, threshold = _read_first_release(source, table, tensors)
    return SAE(
        SAEConfig("jumprelu", "jumprelu", subtract_b_dec=False),
        folding.scaled_input(tensors, scale) | {"threshold": threshold},
        site_of_hook(hook_in, SUBJECT),
        SUBJECT,
        CONTEXT,
        f"Llama Scope, {source.name}",
    )


def _read_first_release(
    source: Source, table: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[float, Tensor]:
    """Return (scale of the input, thresholds (F,))."""
    if (
        "jump_relu_threshold" not in table
        or table.get("act_fn", "jumprelu") != "jumprelu"
        or table.get("apply_decoder_bias_to_pre_encoder")
    ):
        raise refusal(
            source.name,
            "its hyperparams.json does not describe a JumpReLU SAE as released",
            USE_PUBLISHED,
        )
    norm = (table.get("dataset_average_activation_norm") or {}).get("in")
    if not norm:
        raise refusal(
            source.name,
            "its hyperparams.json does not say the norm of its activations",
            USE_PUBLISHED,
        )
    scale = tensors["b_dec"].numel() ** 0.5 / norm
    return scale, torch.full_like(tensors["b_enc"], table["jump_relu_threshold"] * scale)


def _read_scale(source: Source, table: dict[str, Any]) -> float:
    scale = table.get("norm_scaling_factor")
    if not scale:
        raise refusal(
            source.name,
            "it was trained on scaled activations and its files do not say by how much",
            'Add "norm_scaling_factor" (sqrt(D) / mean norm of the activations) '
            "to its config.json.",
        )
    return float(scale)

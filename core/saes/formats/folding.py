"""Fold constants into SAE weights: each function returns tensors of an SAE that computes the same.

Tensors are those of `core.saes.sae`: W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,), and where
the SAE has them threshold (F,), gate_scale (F,) and gate_bias (F,).
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def scaled_input(tensors: Tensors, scale: float) -> Tensors:
    """Turn an SAE trained on scale * x into one that reads x.

    What is added before the activation does not change.
    """
    changed = {
        "W_enc": tensors["W_enc"] * scale,
        "W_dec": tensors["W_dec"] / scale,
        "b_dec": tensors["b_dec"] / scale,
    }
    return tensors | changed


def raw_units(tensors: Tensors, norm: float) -> Tensors:
    """Turn an SAE trained on x / norm into one that reads x.

    Its activations are `norm` times as large; its weights do not change. A threshold below 0 means
    that there is none, and stays.
    """
    names = ("b_enc", "b_dec", "gate_bias")
    changed = {name: tensors[name] * norm for name in names if name in tensors}
    if "threshold" in tensors:
        threshold = tensors["threshold"]
        changed["threshold"] = torch.where(threshold >= 0, threshold * norm, threshold)
    return tensors | changed


def unit_decoder(tensors: Tensors) -> Tensors:
    """Scale the rows of W_dec to length 1 and multiply the activations by their old length.

    For TopK this changes which features are the largest.
    """
    lengths = tensors["W_dec"].norm(dim=1).clamp(min=1e-8)  # (F,)
    changed = {"W_dec": tensors["W_dec"] / lengths[:, None], "W_enc": tensors["W_enc"] * lengths}
    for name in ("b_enc", "threshold", "gate_bias"):
        if name in tensors:
            changed[name] = tensors[name] * lengths
    return tensors | changed


def whitened_input(
    tensors: Tensors, mean: Tensor, matrix: Tensor, inverse: Tensor, subtract_b_dec: bool
) -> Tensors:
    """Turn an SAE trained on (x - mean) @ matrix (D, D) into one that reads x.

    Where b_dec is not subtracted from the input, the mean goes into the encoder's bias.
    """
    W_enc = matrix @ tensors["W_enc"]
    changed = {
        "W_enc": W_enc,
        "W_dec": tensors["W_dec"] @ inverse,
        "b_dec": tensors["b_dec"] @ inverse + mean,
    }
    if not subtract_b_dec:
        shift = mean @ W_enc
        changed["b_enc"] = tensors["b_enc"] - shift
        if "gate_bias" in tensors:
            changed["gate_bias"] = tensors["gate_bias"] - shift * tensors["gate_scale"]
    return tensors | changed

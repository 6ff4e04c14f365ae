"""Products, masks and sums that the fused passes of `core.saes.kernels` are made of."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

# (g, x, a, b): g where a < x < b, else 0, in one vectorised pass
hardtanh_backward: Any = torch.ops.aten.hardtanh_backward

PAD = 32  # columns for a bias: one of ones, then zeros; products are fast where 32 divides a width


def where_positive(g: Tensor, x: Tensor) -> Tensor:
    """Return `g` where `x` > 0, else 0.

    bfloat16 is compared as whole numbers, which have the same sign, in a third of the time.
    """
    threshold_backward: Any = torch.ops.aten.threshold_backward
    if x.dtype != torch.bfloat16:
        masked: Tensor = threshold_backward(g, x, 0)
        return masked
    bits: Tensor = threshold_backward(g.view(torch.int16), x.view(torch.int16), 0)
    return bits.view(torch.bfloat16)


def column_sums(f: Tensor) -> Tensor:
    """Return the sum over the batch (F,) in float32.

    In bfloat16 a product with ones takes a fifth of the time of a sum.
    """
    return (f.new_ones(8, len(f)) @ f)[0].float() if f.dtype == torch.bfloat16 else f.sum(0)


def append_column(matrix: Tensor, column: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Return `matrix` (n, m) followed by `column` (n,) and by zeros to a width of m + PAD."""
    out = torch.zeros(len(matrix), matrix.shape[1] + PAD, dtype=dtype, device=matrix.device)
    out[:, : matrix.shape[1]] = matrix
    out[:, matrix.shape[1]] = column
    return out


def preactivate(
    centred: Tensor, E: Tensor, b_enc: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return (centred E^T + b_enc (B, F), the inputs (B, D + PAD) of that product) in `dtype`."""
    inputs = append_column(centred, 1.0, dtype)
    return inputs @ append_column(E, b_enc, dtype).T, inputs


def products_at(g: Tensor, W: Tensor, features: Tensor) -> Tensor:
    """Return g W^T (B, F) at `features` (B, k) alone, for g (B, D) and W (F, D).

    On the CPU in float32 or float64 only these B k products are computed, a tenth of the time of
    the whole product; elsewhere the whole one is made, which matrix units do faster.
    """
    if g.device.type != "cpu" or g.dtype not in (torch.float32, torch.float64):
        return (g @ W.T).gather(1, features)
    (n, k), shape = features.shape, (len(features), len(W))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        places = torch.sparse_csr_tensor(
            torch.arange(0, n * k + 1, k),
            features.flatten(),
            g.new_zeros(n * k),
            shape,
            check_invariants=False,
        )
        products: Tensor = torch.sparse.sampled_addmm(places, g, W.T, beta=0.0).values()
    return products.view(n, k)


def encoder_gradients(g_E: Tensor, g_b_enc: Tensor, E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of E, b_enc and of b_dec through the encoder, in the type of the weights."""
    g_b_enc = g_b_enc.to(E.dtype)
    return g_E.to(E.dtype), g_b_enc, -(g_b_enc @ E)


def mean_square(error: Tensor) -> Tensor:
    """Return the mean of the squares of `error`, by a dot product."""
    return torch.dot(error.flatten(), error.flatten()) / error.numel()

"""A training step's products in the arithmetic that the hardware is fast in, with their gradients written out.

What is saved against autocast and plain autograd: nothing of size (B, F) is copied to float32; a bias goes into its product as one more row, and
so does the gradient of an L1 norm, instead of a pass over (B, F); b_dec in front of the encoder costs a product of
a matrix and a vector, not a sixth large one; and TopK is sparse from the k winners on.
Weights, their gradients, errors and losses are float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

hardtanh_backward = (
    torch.ops.aten.hardtanh_backward
)  # (g, x, a, b): g where a < x < b, else 0, in one vectorised pass

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
PAD = 32  # columns for a bias: one of ones and then zeros, because products like widths that 32 divides


def autoencode(
    x: Tensor,
    encoder: tuple[Tensor, Tensor],
    decoder: tuple[Tensor, Tensor],
    activate: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean squared error (), error (B, D), f (B, F), the sum of f over the batch (F,)) of

        f = activate((x - b_dec) W_enc + b_enc)        error = x - f W_dec - b_dec

    for x (B, D), encoder (E (F, D), the transpose of W_enc, and b_enc (F,)) and decoder (W_dec (F, D), b_dec (D,)). `activate` leaves positive
    entries as they are or makes them 0, and makes all others 0. Mean squared error and sums have gradients.
    """
    return _Autoencode.apply(x, *encoder, *decoder, activate, dtype)


def autoencode_topk(
    x: Tensor,
    encoder: tuple[Tensor, Tensor],
    decoder: tuple[Tensor, Tensor],
    k: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean squared error (), error (B, D), the k activations of each vector (B, k), their features (B, k)), where only the k largest fire.

    The mean squared error has a gradient.
    """
    return _AutoencodeTopK.apply(x, *encoder, *decoder, k, dtype)


def encode(x: Tensor, E: Tensor, b_enc: Tensor, b_dec: Tensor, dtype: torch.dtype) -> Tensor:
    """(x - b_dec) E^T + b_enc (B, F) in `dtype`, with E (F, D); x (B, D) gets no gradient."""
    return _Encode.apply(x, E, b_enc, b_dec, dtype)


def decode(f: Tensor, W_dec: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(f W_dec (B, D), the sum of f over the batch (F,)) of f (B, F) in `dtype`; both have gradients."""
    return _Decode.apply(f, W_dec, dtype)


def largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values (B, k), places (B, k)) of the k largest of each row of ReLU(pre) (B, F), in no order.

    On the CPU in two rounds, the k largest being in the k groups with the largest maxima, and each round a partition of whole numbers
    that hold value and place: together a fifth of the time of `topk` over 2,048 columns.
    """
    n_features = pre.shape[1]
    size = 1 << max(
        0, round(np.log2(max(1.0, n_features / k)) / 2)
    )  # of a group; makes both rounds about as long
    if pre.device.type != "cpu" or pre.dtype not in BITS or n_features // size > 1 << 16:
        values, places = pre.topk(k, dim=1, sorted=False)
        return values.relu(), places
    bits = pre.relu().view(
        BITS[pre.dtype]
    )  # numbers that are not negative are ordered as their bits
    if n_features % size or n_features // size < k:
        values, places = largest_bits(bits, k)
    else:
        grouped = bits.unflatten(1, (size, -1))  # (B, size, groups)
        groups = largest_bits(grouped.amax(1), k)[1]
        values, places = largest_bits(
            grouped.gather(2, groups[:, None].expand(-1, size, -1)).flatten(1), k
        )
        places = torch.div(places, k, rounding_mode="floor") * (n_features // size) + groups.gather(
            1, places % k
        )
    return values.view(pre.dtype), places


def largest_bits(bits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values (B, k), places (B, k)) of the k largest of each row of `bits` (B, n), which are not negative."""
    wide, shift = (torch.int32, 16) if bits.dtype == torch.int16 else (torch.int64, 32)
    n = bits.shape[1]
    keys = (bits.to(wide) << shift) | torch.arange(n, dtype=wide)
    kept = torch.from_numpy(
        np.ascontiguousarray(np.partition(keys.numpy(), n - k, axis=1)[:, n - k :])
    )
    return (kept >> shift).to(bits.dtype), (kept & ((1 << shift) - 1)).to(torch.int64)


def find_border(pre: Tensor, k: int) -> tuple[float, float]:
    """(the k-th largest of all entries of ReLU(pre), the largest entry that is smaller, or 0).

    Where the first number is positive, the entries that exceed the second are those that are at
    least the first. A partition by numpy is 7 to 25 times faster than `topk` over 8 million.
    """
    if pre.device.type != "cpu":
        last = pre.flatten().topk(k, sorted=False).values.min().relu()
        return float(last), float(torch.where(pre < last, pre, 0).max().relu())
    is_short = (
        pre.dtype == torch.bfloat16
    )  # of numbers that are not negative, bits order as they do
    numbers = (pre.relu().view(torch.int16) if is_short else pre).numpy()
    ordered = np.partition(numbers, -k, axis=None)
    last, rest = np.maximum(ordered[-k], 0), ordered[:-k]
    below = rest.max(initial=0)
    if below == last:
        below = np.where(rest < last, rest, 0).max(initial=0)
    found = np.stack([last, below])
    first, second = (torch.from_numpy(found).view(torch.bfloat16) if is_short else found).tolist()
    return first, second


def where_positive(g: Tensor, x: Tensor) -> Tensor:
    """`g` where `x` > 0, else 0. As whole numbers, whose sign is that of the bfloat16 with the same bits, in a third of the time."""
    threshold_backward = torch.ops.aten.threshold_backward
    if x.dtype != torch.bfloat16:
        return threshold_backward(g, x, 0)
    return threshold_backward(g.view(torch.int16), x.view(torch.int16), 0).view(torch.bfloat16)


def column_sums(f: Tensor) -> Tensor:
    """Sum over the batch (F,), float32; as a product with ones it takes a fifth of the time in bfloat16."""
    return (f.new_ones(8, len(f)) @ f)[0].float() if f.dtype == torch.bfloat16 else f.sum(0)


def by_feature(features: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """Places in the flattened `features` (B, k) in order of feature, and where each feature's begin (F + 1,)."""
    flat = features.flatten()
    starts = torch.zeros(n_features + 1, dtype=torch.int64, device=flat.device)
    starts[1:] = torch.bincount(flat, minlength=n_features).cumsum(0)
    if flat.device.type != "cpu":
        return flat.argsort(stable=True), starts
    keys = flat.numpy().astype(
        np.uint16 if n_features <= 1 << 16 else np.uint32
    )  # a radix sort where 16 bits do
    return torch.from_numpy(keys.argsort(kind="stable")), starts


def padded(matrix: Tensor, column: Tensor | float, dtype: torch.dtype) -> Tensor:
    """`matrix` (n, m) with `column` (n,) behind it and zeros to a width of m + PAD."""
    out = torch.zeros(len(matrix), matrix.shape[1] + PAD, dtype=dtype, device=matrix.device)
    out[:, : matrix.shape[1]] = matrix
    out[:, matrix.shape[1]] = column
    return out


def preactivations(
    centred: Tensor, E: Tensor, b_enc: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(centred E^T + b_enc (B, F), the inputs (B, D + PAD) whose product that is), both in `dtype`."""
    inputs = padded(centred, 1.0, dtype)
    return inputs @ padded(E, b_enc, dtype).T, inputs


def encoder_gradients(g_E: Tensor, g_b_enc: Tensor, E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of E, b_enc and, as far as it goes through the encoder, b_dec, in the type of the weights."""
    g_b_enc = g_b_enc.to(E.dtype)
    return g_E.to(E.dtype), g_b_enc, -(g_b_enc @ E)


def mean_square(error: Tensor) -> Tensor:
    return torch.dot(error.flatten(), error.flatten()) / error.numel()


class _Autoencode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, E, b_enc, W_dec, b_dec, activate, dtype):
        error = x - b_dec
        pre, inputs = preactivations(error, E, b_enc, dtype)
        f, W = activate(pre), W_dec.to(dtype)
        error -= f @ W
        ctx.save_for_backward(inputs, E, W, f, error)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(error, f)
        return mean_square(error), error, f, column_sums(f).to(W_dec.dtype)

    @staticmethod
    def backward(ctx, g_loss, _, __, g_sums):
        inputs, E, W, f, error = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        g_f = g @ W.T if g_sums is None else padded(g, 1.0, g.dtype) @ padded(W, g_sums, W.dtype).T
        g_pre = where_positive(g_f, f)
        g_E, g_b_enc, g_b_dec = encoder_gradients(
            g_pre.T @ inputs[:, : E.shape[1]], column_sums(g_pre), E
        )
        return (
            None,
            g_E,
            g_b_enc,
            (f.T @ g).to(E.dtype),
            g_b_dec + g.sum(0, dtype=E.dtype),
            None,
            None,
        )


class _AutoencodeTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, E, b_enc, W_dec, b_dec, k, dtype):
        error = x - b_dec
        pre, inputs = preactivations(error, E, b_enc, dtype)
        values, features = largest(pre, k)
        W = W_dec.to(dtype)
        error -= embedding_bag(features, W, per_sample_weights=values, mode="sum")
        ctx.save_for_backward(inputs, E, W, values, features, error)
        ctx.mark_non_differentiable(error, values, features)
        return mean_square(error), error, values, features

    @staticmethod
    def backward(ctx, g_loss, *_):
        inputs, E, W, values, features, error = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        g_values = (g @ W.T).gather(1, features) * (values > 0)
        order, starts = by_feature(features, len(W))
        rows = torch.div(order, features.shape[1], rounding_mode="floor")
        pull = lambda weights, vectors: embedding_bag(
            rows,
            vectors,
            starts,
            per_sample_weights=weights.flatten()[order],
            mode="sum",
            include_last_offset=True,
        )
        both, d = pull(g_values, inputs), E.shape[1]
        g_E, g_b_enc, g_b_dec = encoder_gradients(both[:, :d], both[:, d], E)
        return (
            None,
            g_E,
            g_b_enc,
            pull(values, g).to(E.dtype),
            g_b_dec + g.sum(0, dtype=E.dtype),
            None,
            None,
        )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, E, b_enc, b_dec, dtype):
        pre, inputs = preactivations(x - b_dec, E, b_enc, dtype)
        ctx.save_for_backward(inputs, E)
        return pre

    @staticmethod
    def backward(ctx, g):
        inputs, E = ctx.saved_tensors
        return None, *encoder_gradients(g.T @ inputs[:, : E.shape[1]], column_sums(g), E), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f, W_dec, dtype):
        W = W_dec.to(dtype)
        ctx.save_for_backward(f, W)
        ctx.wide = W_dec.dtype
        ctx.set_materialize_grads(False)
        return f @ W, column_sums(f).to(W_dec.dtype)

    @staticmethod
    def backward(ctx, g, g_sums):
        f, W = ctx.saved_tensors
        g_f = g @ W.T if g_sums is None else padded(g, 1.0, g.dtype) @ padded(W, g_sums, W.dtype).T
        return g_f, (f.T @ g).to(ctx.wide), None

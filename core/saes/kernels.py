"""Fused forward and backward passes for SAE training in bfloat16 or float32.

Each function computes what the `plain_loss` of an architecture computes, faster than autocast and
autograd would (tests/core/saes/test_trainables.py proves that they agree):

- nothing of size (B, F) is copied to float32;
- a bias is one more row of its product, and so is the gradient of an L1 norm, instead of a pass
  over (B, F);
- b_dec in front of the encoder costs a product of a matrix and a vector, not a sixth large one;
- TopK is sparse after the k largest are selected.

Weights, their gradients, errors and losses are float32.

A transcoder predicts a `target` (B, D_out) from x: f is then activate(x W_enc + b_enc), without
b_dec, and the error is target - f W_dec - b_dec. The loss has a gradient for the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag

from core.saes.products import (
    append_column,
    column_sums,
    encoder_gradients,
    hardtanh_backward,
    mean_square,
    preactivate,
    products_at,
    where_positive,
)
from core.saes.selection import largest, order_by_feature

Weights = tuple[Tensor, Tensor]  # a matrix (F, D) and its bias


def autoencode(
    x: Tensor,
    encoder: Weights,
    decoder: Weights,
    activate: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (mean squared error (), error (B, D), f (B, F), the sum of f over the batch (F,)) of

        f = activate((x - b_dec) W_enc + b_enc)        error = x - f W_dec - b_dec

    for x (B, D), encoder (E (F, D), the transpose of W_enc, and b_enc (F,)) and decoder
    (W_dec (F, D), b_dec (D,)). `activate` keeps some of the positive entries and sets all others to
    0. The mean squared error and the sums have gradients.
    """
    apply: Any = _Autoencode.apply
    results: tuple[Tensor, Tensor, Tensor, Tensor] = apply(
        x, *encoder, *decoder, activate, dtype, target
    )
    return results


def autoencode_topk(
    x: Tensor,
    encoder: Weights,
    decoder: Weights,
    k: int,
    dtype: torch.dtype,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (mean squared error (), error (B, D), activations (B, k), their features (B, k)).

    Only the k largest of each vector fire. The mean squared error has a gradient.
    """
    apply: Any = _AutoencodeTopK.apply
    results: tuple[Tensor, Tensor, Tensor, Tensor] = apply(x, *encoder, *decoder, k, dtype, target)
    return results


def autoencode_nested(
    x: Tensor,
    encoder: Weights,
    decoder: Weights,
    activate: Callable[[Tensor], Tensor],
    parts: list[int],
    dtype: torch.dtype,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (error of all features (), mean error of the prefixes (), error (B, D), f (B, F)).

    The first two are mean squared errors; only the second has a gradient. `parts` are the numbers
    of features that each prefix adds to the one before. A part of f changes the errors of all
    prefixes that hold it, so the backward pass adds the errors up from the last prefix on.
    """
    apply: Any = _AutoencodeNested.apply
    results: tuple[Tensor, Tensor, Tensor, Tensor] = apply(
        x, *encoder, *decoder, activate, parts, dtype, target
    )
    return results


def autoencode_jumprelu(
    x: Tensor,
    encoder: Weights,
    decoder: Weights,
    threshold: Tensor,
    bandwidth: float,
    dtype: torch.dtype,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (mean squared error (), mean number that fire (), how often each fires (F,)).

    The first two have gradients, those of `core.saes.architectures.jumprelu`. The thresholds stand
    in the product as a bias: so `above`, the pre-activations less the thresholds, is exact in
    bfloat16 where it matters, near 0, and masks by one number, which are fast, find both what fires
    and what lies in the rectangle.
    """
    apply: Any = _AutoencodeJumpReLU.apply
    results: tuple[Tensor, Tensor, Tensor] = apply(
        x, *encoder, *decoder, threshold, bandwidth, dtype, target
    )
    return results


def autoencode_gated(
    x: Tensor,
    encoder: Weights,
    decoder: Weights,
    magnitude: Weights,
    dtype: torch.dtype,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (mean squared error (), that of the gate alone (), L1 norm of the gate (), f (B, F)).

    The first three are means over vectors and have gradients. `magnitude` are r and b_mag (F,). The
    magnitude is computed from the gate: exp(r) gate + (b_mag - exp(r) b_enc).
    """
    apply: Any = _AutoencodeGated.apply
    results: tuple[Tensor, Tensor, Tensor, Tensor] = apply(
        x, *encoder, *decoder, *magnitude, dtype, target
    )
    return results


def encode(x: Tensor, E: Tensor, b_enc: Tensor, b_dec: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (x - b_dec) E^T + b_enc (B, F) in `dtype`, with E (F, D); x (B, D) has no gradient."""
    apply: Any = _Encode.apply
    pre: Tensor = apply(x, E, b_enc, b_dec, dtype)
    return pre


def decode(f: Tensor, W_dec: Tensor, dtype: torch.dtype) -> Tensor:
    """Return f W_dec (B, D) of f (B, F) in `dtype`, with gradients."""
    apply: Any = _Decode.apply
    x_hat: Tensor = apply(f, W_dec, dtype)
    return x_hat


# ---------------------------------------------------------------- passes


def start(x: Tensor, b_dec: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (what the encoder multiplies (B, D), what the features are to add up to).

    They are one tensor where there is no target.
    """
    if target is not None:
        return x, target - b_dec
    centred = x - b_dec
    return centred, centred


def finish(ctx: Any, g: Tensor, g_b_dec: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the gradients of the target and of b_dec from that of the reconstruction, g (B, D).

    `g_b_dec` (D,) is what reaches b_dec through the encoder: nothing where there is a target.
    """
    own = g.sum(0, dtype=g_b_dec.dtype)
    if not ctx.predicts:
        return None, g_b_dec + own
    return (-g.to(g_b_dec.dtype) if ctx.needs_input_grad[-1] else None), own


class _Autoencode(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        E: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        activate: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        centred, error = start(x, b_dec, target)
        pre, inputs = preactivate(centred, E, b_enc, dtype)
        f, W = activate(pre), W_dec.to(dtype)
        error -= f @ W
        ctx.predicts = target is not None
        ctx.save_for_backward(inputs, E, W, f, error)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(error, f)
        return mean_square(error), error, f, column_sums(f).to(W_dec.dtype)

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor, _: Any, __: Any, g_sums: Tensor | None) -> Any:
        inputs, E, W, f, error = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        if g_sums is None:
            g_f = g @ W.T
        else:
            g_f = append_column(g, 1.0, g.dtype) @ append_column(W, g_sums, W.dtype).T
        g_pre = where_positive(g_f, f)
        g_E, g_b_enc, g_b_dec = encoder_gradients(
            g_pre.T @ inputs[:, : E.shape[1]], column_sums(g_pre), E
        )
        g_W_dec = (f.T @ g).to(E.dtype)
        g_target, g_b_dec = finish(ctx, g, g_b_dec)
        return None, g_E, g_b_enc, g_W_dec, g_b_dec, None, None, g_target


class _AutoencodeTopK(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        E: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        k: int,
        dtype: torch.dtype,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        centred, error = start(x, b_dec, target)
        pre, inputs = preactivate(centred, E, b_enc, dtype)
        values, features = largest(pre, k)
        W = W_dec.to(dtype)
        error -= embedding_bag(features, W, per_sample_weights=values, mode="sum")
        ctx.predicts = target is not None
        ctx.save_for_backward(inputs, E, W, values, features, error)
        ctx.mark_non_differentiable(error, values, features)
        return mean_square(error), error, values, features

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor, *_: Any) -> Any:
        inputs, E, W, values, features, error = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        g_values = products_at(g, W, features) * (values > 0)
        order, starts = order_by_feature(features, len(W))
        rows = torch.div(order, features.shape[1], rounding_mode="floor")

        def sum_per_feature(weights: Tensor, vectors: Tensor) -> Tensor:
            return embedding_bag(
                rows,
                vectors,
                starts,
                per_sample_weights=weights.flatten()[order],
                mode="sum",
                include_last_offset=True,
            )

        both, d = sum_per_feature(g_values, inputs), E.shape[1]
        g_E, g_b_enc, g_b_dec = encoder_gradients(both[:, :d], both[:, d], E)
        g_W_dec = sum_per_feature(values, g).to(E.dtype)
        g_target, g_b_dec = finish(ctx, g, g_b_dec)
        return None, g_E, g_b_enc, g_W_dec, g_b_dec, None, None, g_target


class _AutoencodeNested(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        E: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        activate: Callable[[Tensor], Tensor],
        parts: list[int],
        dtype: torch.dtype,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        centred, error = start(x, b_dec, target)
        pre, inputs = preactivate(centred, E, b_enc, dtype)
        f, W, errors = activate(pre), W_dec.to(dtype), []
        for part, rows in zip(torch.split(f, parts, 1), torch.split(W, parts), strict=True):
            error = error - part @ rows
            errors.append(error)
        losses = [mean_square(e) for e in errors]
        ctx.predicts = target is not None
        ctx.save_for_backward(inputs, E, W, f, *errors)
        ctx.parts = parts
        ctx.mark_non_differentiable(losses[-1], error, f)
        return losses[-1], torch.stack(losses).mean(), error, f

    @staticmethod
    def backward(ctx: Any, _: Any, g_loss: Tensor, *__: Any) -> Any:
        inputs, E, W, f, *errors = ctx.saved_tensors
        pulls: list[Tensor] = []
        total, weight = (
            torch.zeros_like(errors[0]),
            g_loss * (-2 / (errors[0].numel() * len(errors))),
        )
        for error in reversed(errors):
            total = total + error
            pulls.insert(0, total.to(W.dtype) * weight)
        parts = torch.split(f, ctx.parts, 1), torch.split(W, ctx.parts)
        each = list(zip(pulls, *parts, strict=True))
        g_pre = where_positive(torch.cat([g @ rows.T for g, _, rows in each], 1), f)
        g_W_dec = torch.cat([part.T @ g for g, part, _ in each]).to(E.dtype)
        g_E, g_b_enc, g_b_dec = encoder_gradients(
            g_pre.T @ inputs[:, : E.shape[1]], column_sums(g_pre), E
        )
        g_target, g_b_dec = finish(ctx, pulls[0], g_b_dec)
        return None, g_E, g_b_enc, g_W_dec, g_b_dec, None, None, None, g_target


class _AutoencodeJumpReLU(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        E: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        threshold: Tensor,
        bandwidth: float,
        dtype: torch.dtype,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        (centred, error), W = start(x, b_dec, target), W_dec.to(dtype)
        above, inputs = preactivate(centred, E, b_enc - threshold, dtype)
        f = where_positive(above + threshold.to(dtype), above)
        error -= f @ W
        ctx.predicts = target is not None
        ctx.save_for_backward(inputs, E, W, above, f, error, threshold)
        ctx.bandwidth = bandwidth
        firings = column_sums(f.sign())
        ctx.mark_non_differentiable(firings)
        return mean_square(error), firings.sum().to(E.dtype) / len(f), firings

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor, g_l0: Tensor, _: Any) -> Any:
        inputs, E, W, above, f, error, threshold = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        g_f, half = g @ W.T, ctx.bandwidth / 2
        at_jump = torch.addcmul((g_l0 / len(f)).to(W.dtype), g_f, threshold.to(W.dtype))
        at_jump = hardtanh_backward(at_jump, above, -half, half)
        g_pre = where_positive(g_f, above).add_(at_jump, alpha=1 / ctx.bandwidth)
        g_E, g_b_enc, g_b_dec = encoder_gradients(
            g_pre.T @ inputs[:, : E.shape[1]], column_sums(g_pre), E
        )
        g_W_dec = (f.T @ g).to(E.dtype)
        g_target, g_b_dec = finish(ctx, g, g_b_dec)
        g_threshold = column_sums(at_jump).to(E.dtype) / -ctx.bandwidth
        return None, g_E, g_b_enc, g_W_dec, g_b_dec, g_threshold, None, None, g_target


class _AutoencodeGated(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        E: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        r: Tensor,
        b_mag: Tensor,
        dtype: torch.dtype,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (centred, wanted), W, scale = start(x, b_dec, target), W_dec.to(dtype), r.exp()
        pre, inputs = preactivate(centred, E, b_enc, dtype)
        gate = pre.relu()
        magnitude = torch.addcmul((b_mag - scale * b_enc).to(dtype), pre, scale.to(dtype)).relu()
        f = where_positive(magnitude, pre)
        error, by_gate = wanted - f @ W, wanted - gate @ W
        ctx.predicts = target is not None
        ctx.save_for_backward(inputs, E, W, gate, f, error, by_gate, scale, b_mag)
        ctx.mark_non_differentiable(f)
        l1 = column_sums(gate).sum().to(E.dtype) / len(x)
        return mean_square(error), mean_square(by_gate), l1, f

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor, g_by_gate: Tensor, g_l1: Tensor, _: Any) -> Any:
        inputs, E, W, gate, f, error, by_gate, scale, b_mag = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        h = by_gate.to(W.dtype) * (g_by_gate * (-2 / by_gate.numel()))
        g_mag = where_positive(g @ W.T, f)
        product = append_column(h, 1.0, h.dtype) @ append_column(W, g_l1 / len(f), W.dtype).T
        g_gate = where_positive(product, gate)
        g_W = f.T @ g
        sums, gate_sums = column_sums(g_mag).to(E.dtype), column_sums(g_gate).to(E.dtype)
        g_product = torch.addcmul(g_gate, g_mag, scale.to(W.dtype))
        g_E, _, g_b_dec = encoder_gradients(
            g_product.T @ inputs[:, : E.shape[1]], gate_sums + scale * sums, E
        )
        # where f fires, exp(r) product is f - b_mag; the sum of g_f f is that of g_W W
        g_r = (g_W * W).sum(1, dtype=E.dtype) - b_mag * sums
        g_target, g_b_dec = finish(ctx, g, g_b_dec)
        return None, g_E, gate_sums, g_W.to(E.dtype), g_b_dec, g_r, sums, None, g_target


class _Encode(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, E: Tensor, b_enc: Tensor, b_dec: Tensor, dtype: torch.dtype
    ) -> Tensor:
        pre, inputs = preactivate(x - b_dec, E, b_enc, dtype)
        ctx.save_for_backward(inputs, E)
        return pre

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        inputs, E = ctx.saved_tensors
        return None, *encoder_gradients(g.T @ inputs[:, : E.shape[1]], column_sums(g), E), None


class _Decode(Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, W_dec: Tensor, dtype: torch.dtype) -> Tensor:
        W = W_dec.to(dtype)
        ctx.save_for_backward(f, W)
        ctx.wide = W_dec.dtype
        return f @ W

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        f, W = ctx.saved_tensors
        return g @ W.T, (f.T @ g).to(ctx.wide), None

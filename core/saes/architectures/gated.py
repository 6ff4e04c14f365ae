"""Gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2404.16014): one path decides what fires, another how strongly.

    product = W_enc (x - b_dec)        gate = product + b_enc        magnitude = exp(r) product + b_mag
    f = ReLU(magnitude) where gate > 0        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of |ReLU(gate)|_1 + mean squared error of (ReLU(gate) W_dec + b_dec), with W_dec and b_dec
           frozen in the last term

The L1 norm shrinks only the gate, never a magnitude. Recipe of the paper: unit decoder rows, tied encoder weights up to the scale exp(r).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.architectures.protocol import TrainingLoss, sampled_l0
from core.saes.architectures.untied import Untied
from core.saes.kernels import (
    column_sums,
    encoder_gradients,
    mean_square,
    padded,
    preactivations,
    where_positive,
)
from core.saes.sae import SAE, SAEConfig


class Gated(Untied):
    """`r` and `b_mag` (F,) beside the four tensors; b_enc belongs to the gate."""

    architecture = "gated"
    default_rate = 2e-3
    default_penalty = 8e-3

    def __init__(self, d_in: int, n_features: int):
        super().__init__(d_in, n_features)
        self.r = nn.Parameter(torch.zeros(n_features))
        self.b_mag = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        self.b_enc.copy_(self.quiet_biases(sample))
        self.b_mag.copy_(self.b_enc)

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        reconstruction, by_gate, l1, f = _Gate.apply(
            x, self.E, self.b_enc, self.W_dec, self.b_dec, self.r, self.b_mag, dtype
        )
        total = reconstruction + penalty * l1 + by_gate
        return TrainingLoss(
            total, reconstruction.detach(), l1.detach(), sampled_l0(f), column_sums(f) > 0
        )

    @torch.no_grad()
    def finished(self, scale: float) -> SAE:
        extras = {"gate_scale": self.r.exp().cpu(), "gate_bias": self.b_mag.cpu() * scale}
        return SAE(SAEConfig(self.architecture, "gated"), self.tensors(scale) | extras)


class _Gate(torch.autograd.Function):
    """x (B, D), weights -> (mean squared error (), that of the gate's own reconstruction (), mean L1 norm of the gate (), f (B, F)).

    The gate is the product with E, and the magnitude is computed from it: exp(r) gate + (b_mag - exp(r) b_enc).
    """

    @staticmethod
    def forward(ctx, x, E, b_enc, W_dec, b_dec, r, b_mag, dtype):
        centred, W, scale = x - b_dec, W_dec.to(dtype), r.exp()
        pre, inputs = preactivations(centred, E, b_enc, dtype)
        gate = pre.relu()
        f = where_positive(
            torch.addcmul((b_mag - scale * b_enc).to(dtype), pre, scale.to(dtype)).relu(), pre
        )
        error, by_gate = centred - f @ W, centred - gate @ W
        ctx.save_for_backward(inputs, E, W, gate, f, error, by_gate, scale, b_mag)
        ctx.mark_non_differentiable(f)
        return (
            mean_square(error),
            mean_square(by_gate),
            column_sums(gate).sum().to(E.dtype) / len(x),
            f,
        )

    @staticmethod
    def backward(ctx, g_loss, g_by_gate, g_l1, _):
        inputs, E, W, gate, f, error, by_gate, scale, b_mag = ctx.saved_tensors
        g, h = (
            e.to(W.dtype) * (factor * (-2 / e.numel()))
            for e, factor in ((error, g_loss), (by_gate, g_by_gate))
        )
        g_mag = where_positive(g @ W.T, f)
        g_gate = where_positive(padded(h, 1.0, h.dtype) @ padded(W, g_l1 / len(f), W.dtype).T, gate)
        g_W, sums, gate_sums = (
            f.T @ g,
            column_sums(g_mag).to(E.dtype),
            column_sums(g_gate).to(E.dtype),
        )
        g_product = torch.addcmul(g_gate, g_mag, scale.to(W.dtype))
        g_E, _, g_b_dec = encoder_gradients(
            g_product.T @ inputs[:, : E.shape[1]], gate_sums + scale * sums, E
        )
        g_r = (
            (g_W * W).sum(1, dtype=E.dtype) - b_mag * sums
        )  # where f fires, exp(r) product is f - b_mag; the sum of g_f f is that of g_W W
        return (
            None,
            g_E,
            gate_sums,
            g_W.to(E.dtype),
            g_b_dec + g.sum(0, dtype=E.dtype),
            g_r,
            sums,
            None,
        )

"""Gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2404.16014).

    product = W_enc (x - b_dec)
    gate = product + b_enc        magnitude = exp(r) product + b_mag
    f = ReLU(magnitude) where gate > 0, else 0        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of |ReLU(gate)|_1
           + mean squared error of (ReLU(gate) W_dec + b_dec), W_dec and b_dec frozen in this term

The gate decides what fires, the magnitude how strongly. The L1 norm shrinks only the gate, never a
magnitude. Recipe of the paper: unit decoder rows, encoder weights tied up to the scale exp(r).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.architectures.protocol import TrainingLoss, describe_loss, sampled_l0
from core.saes.architectures.untied import Untied
from core.saes.kernels import autoencode_gated
from core.saes.products import column_sums
from core.saes.sae import SAE


class Gated(Untied):
    """`r` and `b_mag` (F,) beside the four tensors; b_enc belongs to the gate."""

    architecture = "gated"
    default_lr = 2e-3
    default_penalty = 8e-3

    def __init__(self, d_in: int, n_features: int) -> None:
        super().__init__(d_in, n_features)
        self.r = nn.Parameter(torch.zeros(n_features))
        self.b_mag = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Set sparse biases of gate and magnitude."""
        self.b_enc.copy_(self.compute_sparse_biases(sample))
        self.b_mag.copy_(self.b_enc)

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss."""
        product, wanted = self.multiply(x), self.wanted(x, target)
        gate = (product + self.b_enc).relu()
        magnitude = self.r.exp() * product + self.b_mag
        f = magnitude.relu() * (gate > 0)
        error = wanted - self.reconstruct(f)
        by_gate = wanted.detach() - gate @ self.W_dec.detach() - self.b_dec.detach()
        l1 = gate.sum(1).mean()
        total = error.square().mean() + penalty * l1 + by_gate.square().mean()
        return describe_loss(total, error, l1, f)

    def training_loss(
        self,
        x: Tensor,
        penalty: float,
        dead: Tensor,
        dtype: torch.dtype = torch.float32,
        target: Tensor | None = None,
    ) -> TrainingLoss:
        """Return `plain_loss` by a fused pass."""
        encoder, decoder = (self.E, self.b_enc), (self.W_dec, self.b_dec)
        z, wanted = self.take_apart(x, target)
        reconstruction, by_gate, l1, f = autoencode_gated(
            z, encoder, decoder, (self.r, self.b_mag), dtype, wanted
        )
        total = reconstruction + penalty * l1 + by_gate
        return TrainingLoss(
            total, reconstruction.detach(), l1.detach(), sampled_l0(f), column_sums(f) > 0
        )

    @torch.no_grad()
    def finish(self, scale: float) -> SAE:
        """Return the SAE, with gate and magnitude for raw activations."""
        bias: Tensor = self.b_mag
        if self.centre is not None:
            bias = bias - self.r.exp() * (self.centre @ self.E.T)
        extras = {"gate_scale": self.r.exp().cpu(), "gate_bias": bias.cpu() * scale}
        return SAE(self.describe("gated"), self.raw_tensors(scale) | extras)

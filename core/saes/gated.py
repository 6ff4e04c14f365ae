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

from core.saes.kernels import decode, encode
from core.saes.protocol import TrainingLoss, sampled_l0
from core.saes.sae import SAE, Form
from core.saes.untied import Untied


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

    def training_loss(self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32) -> TrainingLoss:
        product = encode(x, self.E, torch.zeros_like(self.b_enc), self.b_dec, dtype)
        gate = (product + self.b_enc.to(dtype)).relu()
        f = (product * self.r.exp().to(dtype) + self.b_mag.to(dtype)).relu() * (gate > 0)
        out, sums = decode(f, self.W_dec, dtype)
        gate_out, gate_sums = decode(gate, self.W_dec.detach(), dtype)
        centred = x - self.b_dec
        reconstruction, l1 = (centred - out).square().mean(), gate_sums.sum() / len(x)
        total = reconstruction + penalty * l1 + (centred.detach() - gate_out).square().mean()
        return TrainingLoss(total, reconstruction.detach(), l1.detach(), sampled_l0(f.detach()), sums.detach() > 0)

    @torch.no_grad()
    def finished(self, scale: float) -> SAE:
        extras = {"gate_scale": self.r.exp().cpu(), "gate_bias": self.b_mag.cpu() * scale}
        return SAE(Form(self.architecture, "gated"), self.tensors(scale) | extras)

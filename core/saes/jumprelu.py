"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2407.14435): each feature has a threshold of its own, trained with L0 itself.

    f = pre where pre > threshold, with pre = W_enc (x - b_dec) + b_enc        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of the number of features that fire

The jump has no slope, so a rectangle of width `BANDWIDTH` around the threshold stands in for it (the paper's equations 11 and 12):

    d f / d threshold   = -threshold / BANDWIDTH  where |pre - threshold| < BANDWIDTH / 2, else 0
    d L0 / d threshold  = -1 / BANDWIDTH          likewise

Recipe: unit decoder rows, the penalty rises over warm-up. Other than in the paper the threshold is learned itself, in float32, and kept at 0 or above: its
logarithm moves too slowly in a short training. Bandwidth and start are the paper's 0.001 times about the square root of a width of
some hundreds, because here activations have unit variance in each dimension and there unit mean square length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.kernels import decode
from core.saes.protocol import TrainingLoss, sampled_l0
from core.saes.sae import SAE, Form
from core.saes.untied import Untied

BANDWIDTH, START = 0.05, 0.05


class JumpReLU(Untied):
    """`threshold` (F,) beside the four tensors."""

    architecture = "jumprelu"
    default_rate = 2e-3
    default_penalty = 2e-3

    def __init__(self, d_in: int, n_features: int):
        super().__init__(d_in, n_features)
        self.threshold = nn.Parameter(torch.full((n_features,), START))

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        self.b_enc.copy_(self.quiet_biases(sample))

    def training_loss(self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32) -> TrainingLoss:
        f, l0 = _Jump.apply(self.preactivations(x, dtype), self.threshold)
        out, sums = decode(f, self.W_dec, dtype)
        reconstruction = (x - self.b_dec - out).square().mean()
        return TrainingLoss(reconstruction + penalty * l0, reconstruction.detach(), l0.detach(), sampled_l0(f.detach()), sums.detach() > 0)

    @torch.no_grad()
    def after_step(self) -> None:
        super().after_step()
        self.threshold.clamp_(min=0.0)

    @torch.no_grad()
    def finished(self, scale: float) -> SAE:
        return SAE(Form(self.architecture, "jumprelu"), self.tensors(scale) | {"threshold": self.threshold.cpu() * scale})


class _Jump(torch.autograd.Function):
    """pre (B, F), threshold (F,) -> (f (B, F), mean number that fire ())."""

    @staticmethod
    def forward(ctx, pre, threshold):
        fires = pre > threshold
        ctx.save_for_backward(pre, threshold, fires)
        return pre * fires, torch.count_nonzero(fires) / len(pre)

    @staticmethod
    def backward(ctx, g, g_l0):
        pre, threshold, fires = ctx.saved_tensors
        near = (pre - threshold).abs() < BANDWIDTH / 2
        slope = threshold * torch.where(near, g, 0.0).sum(0, dtype=threshold.dtype) + g_l0 / len(pre) * near.sum(0)
        return g * fires, -slope / BANDWIDTH

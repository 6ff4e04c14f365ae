"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2407.14435).

    pre = W_enc (x - b_dec) + b_enc
    f = pre where pre > threshold, else 0        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of the number of features that fire

Each feature has a threshold of its own, trained with L0 itself. The jump has no slope, so a
rectangle of width `BANDWIDTH` around the threshold replaces it (equations 11 and 12):

    d f / d threshold   = -threshold / BANDWIDTH  where |pre - threshold| < BANDWIDTH / 2, else 0
    d L0 / d threshold  = -1 / BANDWIDTH          likewise

Unlike in the paper, d / d pre has the same terms with the other sign, besides its own 1 where f
fires, so that encoder and biases learn to be sparse, too (Anthropic 2025, "Circuits Updates -
January 2025"): a threshold moves by at most the learning rate in a step, and alone does not get far
in a short training. The rectangle is wide for the same reason. The threshold is learned itself, in
float32, and kept at 0 or above: its logarithm would move more slowly still. Unit decoder rows; the
penalty rises over warm-up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.architectures.protocol import TrainingLoss, describe_loss
from core.saes.architectures.untied import Untied
from core.saes.kernels import autoencode_jumprelu
from core.saes.sae import SAE

BANDWIDTH, START = 0.5, 0.05


class JumpReLU(Untied):
    """`threshold` (F,) beside the four tensors."""

    architecture = "jumprelu"
    default_lr = 2e-3
    default_penalty = 2e-3

    def __init__(self, d_in: int, n_features: int) -> None:
        super().__init__(d_in, n_features)
        self.threshold = nn.Parameter(torch.full((n_features,), START))

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Set sparse encoder biases."""
        self.b_enc.copy_(self.compute_sparse_biases(sample))

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss.

        `slope` is 0 everywhere, and its gradient is the rectangle divided by BANDWIDTH.
        """
        pre = self.preactivate(x)
        fires = (pre > self.threshold).to(x.dtype)
        ramp = ((pre - self.threshold) / BANDWIDTH).clamp(-0.5, 0.5)
        slope = ramp - ramp.detach()
        f = pre * fires + self.threshold.detach() * slope
        error = self.wanted(x, target) - self.reconstruct(f)
        l0 = (fires + slope).sum(1).mean()
        return describe_loss(error.square().mean() + penalty * l0, error, l0, f)

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
        reconstruction, l0, firings = autoencode_jumprelu(
            z, encoder, decoder, self.threshold, BANDWIDTH, dtype, wanted
        )
        return TrainingLoss(
            reconstruction + penalty * l0,
            reconstruction.detach(),
            l0.detach(),
            l0.detach(),
            firings > 0,
        )

    @torch.no_grad()
    def after_step(self) -> None:
        """Scale the decoder's rows to length 1 and keep the thresholds at 0 or above."""
        super().after_step()
        self.threshold.clamp_(min=0.0)

    @torch.no_grad()
    def finish(self, scale: float) -> SAE:
        """Return the SAE, with thresholds for raw activations."""
        tensors = self.raw_tensors(scale) | {"threshold": self.threshold.cpu() * scale}
        return SAE(self.describe("jumprelu"), tensors)

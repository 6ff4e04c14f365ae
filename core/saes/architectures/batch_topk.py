"""BatchTopK sparse autoencoder (Bussmann et al. 2024, arXiv 2412.06410).

    pre = W_enc (x - b_dec) + b_enc
    f = ReLU(pre) where pre is among the k B largest of the batch        x_hat = f W_dec + b_dec

The k B largest pre-activations of a batch of B vectors fire, so a vector takes as many features as
it needs, k on average. A finished one may not look at a batch: it is a JumpReLU with one threshold
for all, the running mean of the thresholds of batches. The paper takes a batch's smallest
activation; we take the point halfway from it to the largest pre-activation that does not fire. A
pre-activation that equals its threshold would fire or not as it is rounded.

Recipe: that of TopK, AuxK included; the running mean moves by a tenth a step from the first batch
on (a slower one lags behind in a short training, and L0 in use is off). Until k B pre-activations
of a batch are positive, all positive ones fire.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import threshold

from core.saes.architectures.protocol import TrainingLoss, describe_loss, sampled_l0
from core.saes.architectures.untied import Untied, auxk, check_k
from core.saes.kernels import autoencode
from core.saes.sae import SAE
from core.saes.selection import find_border

EMA = 0.1


class BatchTopK(Untied):
    """`k` features fire on a vector on average; `cut` () is the threshold for use."""

    architecture = "batch_topk"
    cut: Tensor

    def __init__(self, d_in: int, n_features: int, k: int) -> None:
        check_k(k, n_features)
        super().__init__(d_in, n_features)
        self.k = k
        self.register_buffer("cut", torch.tensor(-1.0))  # below 0: no batch was seen yet

    def activate(self, pre: Tensor) -> Tensor:
        """Return activations (B, F); in training, move the threshold.

        Pre-activations that tie for the last place all fire.
        """
        if not self.training:
            return threshold(pre, max(0.0, float(self.cut)), 0.0)
        smallest, below = find_border(pre.detach(), min(self.k * len(pre), pre.numel()))
        f = threshold(pre, below, 0.0)
        if smallest == 0 and bool((f > 0).any()):
            smallest = float(f[f > 0].min())
        self.cut += ((smallest + below) / 2 - self.cut) * (EMA if self.cut >= 0 else 1.0)
        return f

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss; there is no penalty."""
        f = self.activate(self.preactivate(x))
        error = self.wanted(x, target) - self.reconstruct(f)
        total = error.square().mean() + auxk(self, x, error, dead, x.dtype)
        return describe_loss(total, error, error.new_zeros(()), f)

    def training_loss(
        self,
        x: Tensor,
        penalty: float,
        dead: Tensor,
        dtype: torch.dtype = torch.float32,
        target: Tensor | None = None,
    ) -> TrainingLoss:
        """Return `plain_loss` by a fused pass."""
        z, wanted = self.take_apart(x, target)
        reconstruction, error, f, sums = autoencode(
            z, (self.E, self.b_enc), (self.W_dec, self.b_dec), self.activate, dtype, wanted
        )
        total = reconstruction + auxk(self, x, error, dead, dtype)
        return TrainingLoss(
            total, reconstruction.detach(), error.new_zeros(()), sampled_l0(f), sums.detach() > 0
        )

    @torch.no_grad()
    def finish(self, scale: float) -> SAE:
        """Return the SAE, a JumpReLU with one threshold for all features."""
        cut = self.cut.clamp(min=0.0).cpu() * scale
        tensors = self.raw_tensors(scale) | {"threshold": cut.repeat(self.n_features)}
        return SAE(self.describe("jumprelu"), tensors)

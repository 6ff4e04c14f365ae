"""BatchTopK sparse autoencoder (Bussmann et al. 2024, arXiv 2412.06410): the k B largest pre-activations of a batch of B vectors fire.

    f = ReLU(pre) where pre is among the k B largest of the batch, with pre = W_enc (x - b_dec) + b_enc        x_hat = f W_dec + b_dec

So a vector takes as many features as it needs, k on average. A finished one may not look at a batch:
it is a JumpReLU with one threshold for all, the running mean of the thresholds of batches. The paper
takes a batch's smallest activation; we take the point halfway from it to the largest pre-activation
that does not fire. A pre-activation that equals its threshold would fire or not as it is rounded.

Recipe: that of TopK, AuxK included; the running mean moves by a tenth a step from the first batch's on
(a slower one lags behind in a short training, and L0 in use is off). Until k B pre-activations of a
batch are positive, all positive ones fire.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import threshold

from core.saes.architectures.protocol import TrainingLoss, sampled_l0
from core.saes.architectures.untied import Untied, auxk, check_k
from core.saes.kernels import autoencode, find_border
from core.saes.sae import SAE, SAEConfig

EMA = 0.1


class BatchTopK(Untied):
    """`k` features fire on a vector on average; `cut` () is the threshold for use."""

    architecture = "batch_topk"

    def __init__(self, d_in: int, n_features: int, k: int):
        check_k(k, n_features)
        super().__init__(d_in, n_features)
        self.k = k
        self.register_buffer("cut", torch.tensor(-1.0))  # below 0: no batch was seen yet

    @torch.no_grad()
    def activate(self, pre: Tensor) -> Tensor:
        """Activations (B, F); moves the threshold, in training. Of pre-activations that tie for the last place all fire."""
        if not self.training:
            return threshold(pre, max(0.0, float(self.cut)), 0.0)
        smallest, below = find_border(pre, min(self.k * len(pre), pre.numel()))
        f = threshold(pre, below, 0.0)
        if smallest == 0 and bool((f > 0).any()):
            smallest = float(f[f > 0].min())
        self.cut += ((smallest + below) / 2 - self.cut) * (EMA if self.cut >= 0 else 1.0)
        return f

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        reconstruction, error, f, sums = autoencode(
            x, (self.E, self.b_enc), (self.W_dec, self.b_dec), self.activate, dtype
        )
        total = reconstruction + auxk(self, x, error, dead, dtype)
        return TrainingLoss(
            total, reconstruction.detach(), error.new_zeros(()), sampled_l0(f), sums.detach() > 0
        )

    @torch.no_grad()
    def finished(self, scale: float) -> SAE:
        cut = self.cut.clamp(min=0.0).cpu() * scale
        return SAE(
            SAEConfig(self.architecture, "jumprelu"),
            self.tensors(scale) | {"threshold": cut.repeat(self.n_features)},
        )

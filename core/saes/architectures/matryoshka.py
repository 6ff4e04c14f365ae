"""Matryoshka BatchTopK sparse autoencoder (Bussmann et al. 2025, arXiv 2503.17547).

    loss = mean over prefixes m of the mean squared error of (f[:m] W_dec[:m] + b_dec)
           + AuxK of the whole

Its first features alone reconstruct, too, so early features stay general instead of being split by
later ones. Prefixes are 1/16, 1/8, 1/4, 1/2 and all of the features, as in the paper. The paper
sums the losses; we take their mean, which only changes the learning rate and AuxK's share.
Activations, threshold and AuxK are those of BatchTopK.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from core.saes.architectures.batch_topk import BatchTopK
from core.saes.architectures.protocol import TrainingLoss, describe_loss, sampled_l0
from core.saes.architectures.untied import auxk
from core.saes.kernels import autoencode_nested
from core.saes.products import column_sums

HALVINGS = 4


class Matryoshka(BatchTopK):
    """`parts` are the numbers of features that each prefix adds to the one before."""

    architecture = "matryoshka"

    def __init__(self, d_in: int, n_features: int, k: int) -> None:
        super().__init__(d_in, n_features, k)
        ends = sorted({max(1, n_features >> i) for i in range(HALVINGS + 1)})
        self.parts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss; there is no penalty."""
        f = self.activate(self.preactivate(x))
        wanted = self.wanted(x, target) - self.b_dec
        errors = [wanted - f[:, :m] @ self.W_dec[:m] for m in accumulate(self.parts)]
        mean = torch.stack([error.square().mean() for error in errors]).mean()
        total = mean + auxk(self, x, errors[-1], dead, x.dtype)
        return describe_loss(total, errors[-1], x.new_zeros(()), f)

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
        reconstruction, mean, error, f = autoencode_nested(
            z, encoder, decoder, self.activate, self.parts, dtype, wanted
        )
        total = mean + auxk(self, x, error, dead, dtype)
        return TrainingLoss(
            total, reconstruction, error.new_zeros(()), sampled_l0(f), column_sums(f) > 0
        )

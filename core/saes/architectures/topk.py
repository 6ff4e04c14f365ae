"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093).

    f = ReLU(top_k(W_enc (x - b_dec) + b_enc))        x_hat = f W_dec + b_dec
    loss = mean squared error + AuxK

The k largest pre-activations of a vector fire. Recipe of the paper: the encoder starts as the
decoder's transpose, decoder rows keep unit length, the decoder's gradient along a row is removed,
AuxK with D / 2 dead features and weight 1/32. b_dec starts at the mean, not at the geometric
median.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.architectures.protocol import TrainingLoss, describe_loss
from core.saes.architectures.untied import Untied, auxk, check_k
from core.saes.kernels import autoencode_topk
from core.saes.sae import SAE


class TopK(Untied):
    """`k` features fire on a vector, or fewer where pre-activations are negative."""

    architecture = "topk"

    def __init__(self, d_in: int, n_features: int, k: int) -> None:
        check_k(k, n_features)
        super().__init__(d_in, n_features)
        self.k = k

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss; there is no penalty."""
        pre = self.preactivate(x)
        values, features = pre.topk(self.k, dim=1)
        f = torch.zeros_like(pre).scatter(1, features, values.relu())
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
        reconstruction, error, values, features = autoencode_topk(
            z, (self.E, self.b_enc), (self.W_dec, self.b_dec), self.k, dtype, wanted
        )
        total = reconstruction + auxk(self, x, error, dead, dtype)
        sums = torch.zeros(self.n_features, device=x.device)
        sums.scatter_add_(0, features.flatten(), values.flatten().float())
        return TrainingLoss(
            total,
            reconstruction.detach(),
            reconstruction.new_zeros(()),
            (values > 0).sum() / len(x),
            sums > 0,
        )

    def finish(self, scale: float) -> SAE:
        """Return the SAE, in which the k largest of each vector fire."""
        return SAE(self.describe("topk", self.k), self.raw_tensors(scale))

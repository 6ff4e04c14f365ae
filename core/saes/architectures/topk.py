"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of a vector fire.

    f = ReLU(top_k(W_enc (x - b_dec) + b_enc))        x_hat = f W_dec + b_dec        loss = mean squared error + AuxK

Recipe of the paper: encoder starts as the decoder's transpose, decoder rows keep unit length, the decoder's gradient along a row is
taken out, AuxK with D / 2 dead features and weight 1/32. b_dec starts at the mean, not at the geometric median.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.architectures.protocol import TrainingLoss
from core.saes.architectures.untied import Untied, auxk, check_k
from core.saes.kernels import autoencode_topk
from core.saes.sae import SAE, SAEConfig


class TopK(Untied):
    """`k` features fire on a vector, or fewer where pre-activations are negative."""

    architecture = "topk"

    def __init__(self, d_in: int, n_features: int, k: int):
        check_k(k, n_features)
        super().__init__(d_in, n_features)
        self.k = k

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        reconstruction, error, values, features = autoencode_topk(
            x, (self.E, self.b_enc), (self.W_dec, self.b_dec), self.k, dtype
        )
        total = reconstruction + auxk(self, x, error, dead, dtype)
        sums = torch.zeros(self.n_features, device=x.device).scatter_add_(
            0, features.flatten(), values.flatten().float()
        )
        return TrainingLoss(
            total,
            reconstruction.detach(),
            reconstruction.new_zeros(()),
            (values > 0).sum() / len(x),
            sums > 0,
        )

    def finished(self, scale: float) -> SAE:
        return SAE(SAEConfig(self.architecture, "topk", self.k), self.tensors(scale))

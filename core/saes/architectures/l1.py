"""Standard sparse autoencoder with an L1 penalty (Conerly et al. 2024).

    f = ReLU(W_enc (x - b_dec) + b_enc)        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of sum_i f_i |d_i|

d_i are the rows of W_dec. The source is Transformer Circuits, April 2024 update, "How we train
SAEs". Decoder rows are free: their length stands in the penalty, so shrinking f while growing d
gains nothing, and `finish` moves it into the encoder.

Recipe: rows start with length 1 (the paper takes .05 to 1), the encoder as their transpose,
gradients are clipped at norm 1, the penalty rises over warm-up, dead features are not revived. The
paper has no b_dec in front of the encoder; with the mean of the data there, the start is centred,
and encoder biases that make it sparse replace the effect of the uncentred mean. Short rows grow
fast while biases cannot, so that after 50 steps a third of all features fired from a start that was
sparse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.architectures.protocol import TrainingLoss, describe_loss, sampled_l0
from core.saes.architectures.untied import Untied
from core.saes.kernels import autoencode
from core.saes.sae import SAE


class L1(Untied):
    """Decoder rows have any length."""

    architecture = "l1"
    default_lr = 2e-3
    default_penalty = 5e-3

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Set sparse encoder biases."""
        self.b_enc.copy_(self.compute_sparse_biases(sample))

    def before_step(self) -> None:
        """Leave the gradients as they are: rows may change their length."""

    def after_step(self) -> None:
        """Leave the rows as they are."""

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss."""
        f = self.preactivate(x).relu()
        error = self.wanted(x, target) - self.reconstruct(f)
        l1 = (f @ self.W_dec.norm(dim=1)).mean()
        return describe_loss(error.square().mean() + penalty * l1, error, l1, f)

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
        reconstruction, _, f, sums = autoencode(
            z, (self.E, self.b_enc), (self.W_dec, self.b_dec), torch.relu, dtype, wanted
        )
        l1 = sums @ self.W_dec.norm(dim=1) / len(x)
        return TrainingLoss(
            reconstruction + penalty * l1,
            reconstruction.detach(),
            l1.detach(),
            sampled_l0(f),
            sums.detach() > 0,
        )

    @torch.no_grad()
    def finish(self, scale: float) -> SAE:
        """Return the SAE with rows of unit length; their length goes into the encoder."""
        tensors = self.raw_tensors(scale)
        length = tensors["W_dec"].norm(dim=1).clamp(min=1e-8)
        tensors |= {
            "W_dec": tensors["W_dec"] / length[:, None],
            "W_enc": tensors["W_enc"] * length,
            "b_enc": tensors["b_enc"] * length,
        }
        return SAE(self.describe("relu"), tensors)

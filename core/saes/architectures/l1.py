"""Standard sparse autoencoder with an L1 penalty, as in Conerly et al. 2024 (Transformer Circuits, April update, "How we train SAEs").

    f = ReLU(W_enc (x - b_dec) + b_enc)        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of sum_i f_i |d_i|        with d_i the rows of W_dec

Decoder rows are free: their length stands in the penalty, so shrinking f while growing d gains nothing, and `finished` moves it into the
encoder. Recipe: rows start with length 1 (the paper takes .05 to 1), the encoder as their transpose, gradients clipped at norm 1, the penalty rises over
warm-up, dead features are not revived. The paper has no b_dec in front of the encoder; with the mean of the data there, the start is centred, and
encoder biases that make it sparse take the place of what the uncentred mean did. Short rows grow fast while biases cannot, so that a start which was
sparse has a third of all features firing after 50 steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.architectures.protocol import TrainingLoss, sampled_l0
from core.saes.architectures.untied import Untied
from core.saes.kernels import autoencode
from core.saes.sae import SAE, SAEConfig


class L1(Untied):
    """Decoder rows have any length."""

    architecture = "l1"
    default_rate = 2e-3
    default_penalty = 5e-3

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        self.b_enc.copy_(self.quiet_biases(sample))

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        pass

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        reconstruction, _, f, sums = autoencode(
            x, (self.E, self.b_enc), (self.W_dec, self.b_dec), torch.relu, dtype
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
    def finished(self, scale: float) -> SAE:
        """Rows of unit length; their length goes into the encoder."""
        tensors = self.tensors(scale)
        length = tensors["W_dec"].norm(dim=1).clamp(min=1e-8)
        tensors |= {
            "W_dec": tensors["W_dec"] / length[:, None],
            "W_enc": tensors["W_enc"] * length,
            "b_enc": tensors["b_enc"] * length,
        }
        return SAE(SAEConfig(self.architecture, "relu"), tensors)

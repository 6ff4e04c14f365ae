"""Tied-weight autoencoder with an L1 penalty (Cunningham et al. 2023, arXiv 2309.08600).

    M = rows of E divided by their length       f = ReLU(M (x - t) + b)       x_hat = M^T f + t
    loss = mean over vectors and dimensions of (x_hat - x)^2 + alpha * mean over vectors of |f|_1

E (F, D) and b (F,) are learned; t (D,) is the data's mean, fixed, as the paper's code has it in its centring transform. Trained on
activations divided by one constant scale, which `finished` takes into b and t.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.architectures.protocol import TrainingLoss, sampled_l0
from core.saes.kernels import autoencode
from core.saes.sae import SAE, SAEConfig


class TiedL1(nn.Module):
    """Weights E (F, D), b (F,) and the centre t (D,)."""

    architecture = "tied_l1"
    default_rate = 1e-3
    default_penalty = 1e-3

    def __init__(self, d_in: int, n_features: int):
        super().__init__()
        self.d_in, self.n_features = d_in, n_features
        self.E = nn.Parameter(torch.zeros(n_features, d_in))
        self.b = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("t", torch.zeros(d_in))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Xavier-uniform E and zero b, as in the paper's code; t is the data's mean (D,)."""
        bound = (6 / (self.n_features + self.d_in)) ** 0.5
        self.E.uniform_(-bound, bound, generator=generator)
        self.t.copy_(mean)

    def start(self, sample: Tensor) -> None:
        pass

    @property
    def W_dec(self) -> Tensor:
        return self.E / self.E.norm(dim=1, keepdim=True).clamp(min=1e-8)

    def _reconstruct(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mean squared error, error (B, D), f (B, F), sums of f (F,))."""
        directions = self.W_dec
        return autoencode(x, (directions, self.b), (directions, self.t), torch.relu, dtype)

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        """The paper's loss at alpha = `penalty`. Dead features are revived by `revive`, not by the loss."""
        reconstruction, _, f, sums = self._reconstruct(x, dtype)
        l1 = sums.sum() / len(x)
        return TrainingLoss(
            reconstruction + penalty * l1,
            reconstruction.detach(),
            l1.detach(),
            sampled_l0(f),
            sums.detach() > 0,
        )

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        pass

    @torch.no_grad()
    def revive(self, dead: Tensor, x: Tensor, generator: torch.Generator) -> None:
        """Point the features `dead` (n,) at errors of x (B, D), drawn in proportion to their square (Bricken et al. 2023)."""
        error = self._reconstruct(x, x.dtype)[1]
        chosen = torch.multinomial(
            error.square().sum(1), len(dead), replacement=True, generator=generator
        )
        alive = torch.ones(self.n_features, dtype=torch.bool, device=x.device)
        alive[dead] = False
        length = self.E[alive].norm(dim=1).mean() if bool(alive.any()) else 1.0
        self.E[dead] = torch.nn.functional.normalize(error[chosen], dim=1) * length
        self.b[dead] = 0.0

    @torch.no_grad()
    def finished(self, scale: float) -> SAE:
        """Encoder and decoder are M; the centre is b_dec."""
        directions = self.W_dec.cpu()
        tensors = {
            "W_enc": directions.T.contiguous(),
            "b_enc": self.b.cpu() * scale,
            "W_dec": directions,
            "b_dec": self.t.cpu() * scale,
        }
        return SAE(SAEConfig(self.architecture, "relu"), tensors)

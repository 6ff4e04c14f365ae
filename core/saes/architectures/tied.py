"""Tied-weight autoencoder with an L1 penalty (Cunningham et al. 2023, arXiv 2309.08600).

    M = rows of E divided by their length       f = ReLU(M (x - t) + b)       x_hat = M^T f + t
    loss = mean squared error + penalty * mean over vectors of |f|_1

E (F, D) and b (F,) are learned; t (D,) is the data's mean, fixed, as the centring transform of the
paper's code has it. Trained on activations divided by one constant scale, which `finish` folds into
b and t.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.architectures.protocol import TrainingLoss, describe_loss, sampled_l0
from core.saes.kernels import autoencode
from core.saes.sae import SAE, SAEConfig


class TiedL1(nn.Module):
    """Weights E (F, D), b (F,) and the centre t (D,)."""

    architecture = "tied_l1"
    default_lr = 1e-3
    default_penalty = 1e-3
    t: Tensor

    def __init__(self, d_in: int, n_features: int) -> None:
        super().__init__()
        self.d_in, self.d_out, self.n_features = d_in, d_in, n_features
        self.E = nn.Parameter(torch.zeros(n_features, d_in))
        self.b = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("t", torch.zeros(d_in))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Set Xavier-uniform E and zero b, as the paper's code, and t to the data's mean (D,)."""
        bound = (6 / (self.n_features + self.d_in)) ** 0.5
        self.E.uniform_(-bound, bound, generator=generator)
        self.t.copy_(mean)

    def start(self, sample: Tensor) -> None:
        """Change nothing."""

    @property
    def W_dec(self) -> Tensor:
        """The rows of E at length 1 (F, D): encoder and decoder."""
        lengths: Tensor = self.E.norm(dim=1, keepdim=True).clamp(min=1e-8)
        return self.E / lengths

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the formula's loss; `revive` treats dead features, not the loss."""
        directions = self.W_dec
        f = ((x - self.t) @ directions.T + self.b).relu()
        error = x - (f @ directions + self.t)
        l1 = f.sum(1).mean()
        return describe_loss(error.square().mean() + penalty * l1, error, l1, f)

    def _autoencode(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (mean squared error, error (B, D), f (B, F), sums of f (F,))."""
        directions = self.W_dec
        return autoencode(x, (directions, self.b), (directions, self.t), torch.relu, dtype)

    def training_loss(
        self,
        x: Tensor,
        penalty: float,
        dead: Tensor,
        dtype: torch.dtype = torch.float32,
        target: Tensor | None = None,
    ) -> TrainingLoss:
        """Return `plain_loss` by a fused pass."""
        reconstruction, _, f, sums = self._autoencode(x, dtype)
        l1 = sums.sum() / len(x)
        return TrainingLoss(
            reconstruction + penalty * l1,
            reconstruction.detach(),
            l1.detach(),
            sampled_l0(f),
            sums.detach() > 0,
        )

    def before_step(self) -> None:
        """Leave the gradients as they are."""

    def after_step(self) -> None:
        """Leave the weights as they are."""

    @torch.no_grad()
    def revive(self, dead: Tensor, x: Tensor, generator: torch.Generator) -> None:
        """Point the features `dead` (n,) at errors of x (B, D).

        The errors are drawn in proportion to their square (Bricken et al. 2023).
        """
        error = self._autoencode(x, x.dtype)[1]
        squares = error.square().sum(1)
        rows = torch.multinomial(squares, len(dead), replacement=True, generator=generator)
        alive = torch.ones(self.n_features, dtype=torch.bool, device=x.device)
        alive[dead] = False
        length = self.E[alive].norm(dim=1).mean() if bool(alive.any()) else 1.0
        self.E[dead] = torch.nn.functional.normalize(error[rows], dim=1) * length
        self.b[dead] = 0.0

    @torch.no_grad()
    def finish(self, scale: float) -> SAE:
        """Return the SAE: encoder and decoder are M, the centre is b_dec."""
        directions = self.W_dec.cpu()
        tensors = {
            "W_enc": directions.T.contiguous(),
            "b_enc": self.b.cpu() * scale,
            "W_dec": directions,
            "b_dec": self.t.cpu() * scale,
        }
        return SAE(SAEConfig(self.architecture, "relu"), tensors)

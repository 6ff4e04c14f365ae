"""What every sparse autoencoder offers, whatever its architecture.

Activations f are in the SAE's own units on *raw* activations of the subject: any constant scaling that training used is folded into
the weights. Directions are rows of W_dec (F, D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingLoss:
    """What one step is trained on and what it tells: all are scalars but `fired` (F,) bool."""

    total: Tensor
    reconstruction: Tensor  # mean squared error per vector and dimension
    l1: Tensor  # mean over vectors of the sum of activations
    l0: Tensor  # mean features that fire on a vector
    fired: Tensor


class SAE(Protocol):
    architecture: str
    d_in: int
    n_features: int
    W_dec: Tensor  # (F, D)

    def encode(self, x: Tensor) -> Tensor:
        """Activations f (..., F) of raw vectors x (..., D)."""

    def decode(self, f: Tensor) -> Tensor:
        """Reconstructions (..., D), raw, of activations f (..., F)."""

    def edit(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """What to add to raw x (..., D) so that `features` (m,) have activations `values` (..., m): delta (..., D), float32.

        The SAE's error at x is kept: only the difference that the edited features make is added.
        """

    def settings(self) -> dict:
        """What, beside the tensors, is needed to make it again."""


class Trainable(SAE, Protocol):
    """An SAE that `train` can train."""

    default_rate: float  # peak learning rate of Adam

    def initialise(self, mean: Tensor, generator: torch.Generator) -> None: ...

    def training_loss(self, x: Tensor, penalty: float, dead: Tensor) -> TrainingLoss: ...

    def before_step(self) -> None:
        """After the gradients, before the optimiser."""

    def after_step(self) -> None:
        """After the optimiser: constraints on the weights."""

    def fold_scale(self, scale: float) -> None:
        """Make an SAE that was trained on x / scale read raw x."""

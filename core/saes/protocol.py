"""What `train` asks of an architecture. A finished one is a `core.saes.sae.SAE`; here is only what training needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.saes.sae import SAE


@dataclass(frozen=True)
class TrainingLoss:
    """What one step is trained on and what it tells: all are scalars but `fired` (F,) bool."""

    total: Tensor
    reconstruction: Tensor  # mean squared error per vector and dimension
    l1: Tensor  # mean over vectors of the sum of activations
    l0: Tensor  # mean features that fire on a vector
    fired: Tensor


class Trainable(Protocol):
    """An autoencoder in training, on activations that were divided by one constant."""

    architecture: str
    d_in: int
    n_features: int
    default_rate: float  # peak learning rate of Adam

    def initialise(self, mean: Tensor, generator: torch.Generator) -> None: ...

    def training_loss(self, x: Tensor, penalty: float, dead: Tensor) -> TrainingLoss: ...

    def before_step(self) -> None:
        """After the gradients, before the optimiser."""

    def after_step(self) -> None:
        """After the optimiser: constraints on the weights."""

    def finished(self, scale: float) -> SAE:
        """The SAE that reads raw x, when this one was trained on x / scale. Shares no memory with it."""

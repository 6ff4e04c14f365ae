"""What `train` asks of an architecture. A finished one is a `core.saes.sae.SAE`; here is only what training needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.saes.sae import SAE

L0_VECTORS = 512  # a count over all of a batch costs as much as two of its products


@dataclass(frozen=True)
class TrainingLoss:
    """What one step is trained on and what it tells: all are scalars but `fired`."""

    total: Tensor
    reconstruction: Tensor  # mean squared error per vector and dimension
    sparsity: Tensor  # what the penalty multiplies: an L1 norm or L0, mean over vectors; 0 without a penalty
    l0: Tensor  # mean features that fire on a vector; over about L0_VECTORS of them where that is dear
    fired: Tensor  # (F,) bool


class Trainable(Protocol):
    """An autoencoder in training, on activations that were divided by one constant. While `training` is False, its loss is that of the SAE
    which `finished` would give."""

    architecture: str
    d_in: int
    n_features: int
    default_rate: float  # peak learning rate of Adam
    default_penalty: float  # 0: there is no penalty, and L0 is set otherwise

    def initialise(self, mean: Tensor, generator: torch.Generator) -> None: ...

    def start(self, sample: Tensor) -> None:
        """Before the first step: what depends on vectors (n, D) of the data, scaled."""

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype
    ) -> TrainingLoss:
        """The loss on x (B, D) float32, with large products in `dtype`; `dead` (n,) are the features that count as dead."""

    def before_step(self) -> None:
        """After the gradients, before the optimiser."""

    def after_step(self) -> None:
        """After the optimiser: constraints on the weights."""

    def finished(self, scale: float) -> SAE:
        """The SAE that reads raw x, when this one was trained on x / scale. Shares no memory with it."""


def sampled_l0(f: Tensor) -> Tensor:
    """Mean number of positive entries of a row of f (B, F), none being negative, over evenly spaced rows."""
    rows = f[:: max(1, len(f) // L0_VECTORS)]
    return rows.sign().sum(dtype=torch.float32) / len(
        rows
    )  # a third of the time of a comparison and a count

"""What training asks of an architecture; a finished autoencoder is a `core.saes.sae.SAE`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.saes.sae import SAE

L0_VECTORS = 512  # a count over all of a batch costs as much as two of its products


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of one step, and what it measures. All are scalars but `fired`."""

    total: Tensor
    reconstruction: Tensor  # mean squared error per vector and dimension
    sparsity: Tensor  # what the penalty multiplies, mean over vectors; 0 without a penalty
    l0: Tensor  # mean features that fire on a vector, of all or about L0_VECTORS vectors
    fired: Tensor  # (F,) bool


class Trainable(Protocol):
    """An autoencoder in training, on activations that were divided by one constant.

    While `training` is False, its loss is that of the SAE which `finish` would return. To add an
    architecture, derive from `core.saes.architectures.untied.Untied`, write `plain_loss` and
    `finish`, and enter the class in `core.training.trainer.KINDS` and its name in
    `core.settings.ARCHITECTURES`.
    """

    architecture: str
    d_in: int
    d_out: int
    n_features: int
    default_lr: float  # peak learning rate of Adam
    default_penalty: float  # 0: there is no penalty, and L0 is set otherwise

    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Set the weights; `mean` (D,) is the mean of the data, scaled."""

    def start(self, sample: Tensor) -> None:
        """Set what depends on vectors (n, D) of the data, scaled, before the first step."""

    def training_loss(
        self,
        x: Tensor,
        penalty: float,
        dead: Tensor,
        dtype: torch.dtype,
        target: Tensor | None = None,
    ) -> TrainingLoss:
        """Return the loss on x (B, D) float32, with large products in `dtype`.

        `dead` (n,) are the features that count as dead. A transcoder predicts `target` (B, d_out).
        """
        ...

    def before_step(self) -> None:
        """Change gradients before the optimiser's step."""

    def after_step(self) -> None:
        """Restore constraints on the weights after the optimiser's step."""

    def finish(self, scale: float) -> SAE:
        """Return the SAE that reads raw x, where this one was trained on x / scale.

        It shares no memory with this one.
        """
        ...

    # what `torch.nn.Module` gives

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...
    def to(self, device: torch.device) -> Any: ...
    def train(self) -> Any: ...
    def eval(self) -> Any: ...


def sampled_l0(f: Tensor) -> Tensor:
    """Return the mean number of positive entries of evenly spaced rows of f (B, F) >= 0."""
    rows = f[:: max(1, len(f) // L0_VECTORS)]
    # the signs' sum takes a third of the time of a comparison and a count
    return rows.sign().sum(dtype=torch.float32) / len(rows)


def describe_loss(total: Tensor, error: Tensor, sparsity: Tensor, f: Tensor) -> TrainingLoss:
    """Return the loss `total` with what follows from the error (B, D) and activations f (B, F)."""
    f = f.detach()
    return TrainingLoss(
        total, error.detach().square().mean(), sparsity.detach(), sampled_l0(f), (f > 0).any(0)
    )

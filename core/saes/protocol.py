"""What every sparse autoencoder offers, whatever its architecture.

Activations f are in the SAE's own units on *raw* activations of the subject: any constant scaling that training used is folded into
the weights. Directions are rows of W_dec (F, D).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


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

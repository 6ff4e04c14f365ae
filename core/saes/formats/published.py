"""What every layout gives back, and how one refuses."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import UsageError
from core.records import Site
from core.saes.sae import SAE


@dataclass(frozen=True)
class Published:
    """A published SAE and what its files say about where it belongs."""

    sae: SAE
    site: Site | None  # None where the files do not say, or name a place that has no site here
    subject: str  # name on the hub; "" where the files do not say
    context: int  # tokens of a row in training; 0 where the files do not say
    prepend_bos: bool  # whether rows began with BOS in training
    source: str  # layout, and where it was loaded from


def refused(name: str, reason: str, next_step: str) -> UsageError:
    """The error for an SAE called `name` that would not mean here what its authors meant."""
    return UsageError(f"{name} is refused: {reason}.", next_step)

"""The error with which a layout refuses an SAE that it cannot load as its authors meant it."""

from __future__ import annotations

from core.errors import UsageError


def refusal(name: str, reason: str, next_step: str) -> UsageError:
    """Return the error for an SAE called `name`: why it is refused, and what to do next."""
    return UsageError(f"{name} is refused: {reason}.", next_step)

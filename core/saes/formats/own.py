"""Our own layout: one sae.safetensors whose header holds the SAE's config."""

from __future__ import annotations

from safetensors import SafetensorError, safe_open

from core.saes.checkpoint import NAME, load_own
from core.saes.formats.sources import Source
from core.saes.sae import SAE


def matches(source: Source) -> bool:
    """Return whether the weights are a file that `SAE.save` wrote."""
    if source.weights.name != NAME:
        return False
    try:
        with safe_open(source.weights, framework="pt") as file:
            return "sae" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load(source: Source) -> SAE:
    """Load the SAE; raises UsageError where the header and the tensors do not fit."""
    return load_own(source.weights.parent, f"our own, {source.name}")

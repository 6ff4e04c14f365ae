"""Sparse autoencoders: training architectures, one form for use, and the published layouts."""

from core.saes.sae import SAE, SAEConfig

__all__ = ["SAE", "SAEConfig"]

"""Sparse autoencoders: one module for each architecture in training, one form for use, one file format of our own."""

from core.saes.checkpoint import load_sae, save_sae
from core.saes.sae import SAE, SAEConfig

__all__ = ["SAE", "SAEConfig", "load_sae", "save_sae"]

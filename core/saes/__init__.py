"""Sparse autoencoders: one module for each architecture in training, one form for use, one file format of our own."""

from core.saes.checkpoint import load_sae, save_sae
from core.saes.sae import SAE, Form

__all__ = ["SAE", "Form", "load_sae", "save_sae"]

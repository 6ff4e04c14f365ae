"""Sparse autoencoders: one module for each architecture, one protocol, one file format of our own."""

from core.saes.checkpoint import load_sae, save_sae

__all__ = ["load_sae", "save_sae"]

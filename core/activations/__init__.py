"""Activations of the subject at a site: captured, stored, or read from the loaded model."""

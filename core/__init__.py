"""Capture activations, train or load sparse autoencoders, index every firing, clamp features."""

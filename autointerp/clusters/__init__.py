"""Decoder directions: neighbours, map, clusters, and how features are related."""

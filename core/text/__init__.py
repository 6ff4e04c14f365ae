"""Corpora, documents, splits, and the tokens that a capture keeps."""

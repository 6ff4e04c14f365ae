"""The language model whose features are studied: load it, read and edit sites, generate text."""

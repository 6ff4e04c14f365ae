"""The language model under study: load, read, edit, generate."""

"""From a corpus to documents, tokens and splits."""

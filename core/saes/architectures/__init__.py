"""One module for each architecture in training, on one protocol."""

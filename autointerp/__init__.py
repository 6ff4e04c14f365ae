"""What features mean: examples, labels, scores, clusters. Works on numpy arrays and never imports torch."""

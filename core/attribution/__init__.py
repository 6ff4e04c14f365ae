"""Which features, at which tokens, made the subject say its next token; checked by ablation."""

"""Names of clusters."""

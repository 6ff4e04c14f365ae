"""Set features while the subject generates, and measure what changes."""

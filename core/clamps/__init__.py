"""Set features while the subject writes, and measure what changes."""

"""What each feature does to the subject's output."""

"""Figures, the terminal and the report: arrays in, pictures out. Never imports torch."""

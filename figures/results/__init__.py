"""The report that the plan of results fills: its numbers, its figures, its text."""

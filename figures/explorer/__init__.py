"""The explorer: one page to roam all features, read one, test a text, turn one up."""

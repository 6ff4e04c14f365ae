"""The language of rule labels, and the search that fits a rule to a feature."""

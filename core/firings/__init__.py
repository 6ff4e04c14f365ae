"""Every firing of every feature, inverted as a search engine's posting lists are."""

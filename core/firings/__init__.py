"""Every firing of every feature, inverted like a search engine's posting lists."""

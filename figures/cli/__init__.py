"""The command line: parse, call a method of `Study`, print."""

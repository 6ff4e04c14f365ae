"""Export to other tools' formats, and import from them."""

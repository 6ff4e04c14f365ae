"""Shapes and affixes of a lexeme, which is the text of a token without leading spaces."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable

import numpy as np

ENGLISH = (
    "a an the this that these those of to in on at by for from with without as into over under "
    "between and or nor but if then than when where while is are was were be been being has have "
    "had do does did will would can could may might must should shall not no it its they them "
    "their he she his her we you your i which who whose what how there here all any each some such "
    "other only also so very more most"
)
STOP_WORDS = frozenset(ENGLISH.split())
BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
OPENING, CLOSING = "([{", ")]}"
HEX = re.compile(r"(?=.*[0-9])(?=.*[a-fA-F])[0-9a-fA-F]{2,}")
OPERATOR = re.compile(r"[-+*/%=<>!&|^~@:]+")


def _punctuation(x: str) -> bool:
    return bool(x) and not any(c.isalnum() or c.isspace() for c in x)


# Phrase -> whether a lexeme has the shape.
SHAPES: dict[str, Callable[[str], bool]] = {
    "a word": lambda x: len(x) > 1 and x.isalpha(),
    "a lower-case word": lambda x: len(x) > 1 and x.isalpha() and x.islower(),
    "a capitalised word": lambda x: (
        len(x) > 1 and x.isalpha() and x[0].isupper() and x[1:].islower()
    ),
    "an ALL-CAPS word": lambda x: len(x) > 1 and x.isalpha() and x.isupper(),
    "a letter": lambda x: len(x) == 1 and x.isalpha(),
    "digits": str.isdigit,
    "hex digits": lambda x: bool(HEX.fullmatch(x)),
    "a stop word": lambda x: x.lower() in STOP_WORDS,
    "a keyword": keyword.iskeyword,
    "a builtin name": BUILTINS.__contains__,
    "an exception name": lambda x: x.endswith(("Error", "Exception", "Warning")),
    "punctuation": _punctuation,
    "an operator": lambda x: bool(OPERATOR.fullmatch(x)),
    "a quote": lambda x: _punctuation(x) and ('"' in x or "'" in x),
    "an opening bracket": lambda x: _punctuation(x) and any(c in OPENING for c in x),
    "a closing bracket": lambda x: _punctuation(x) and any(c in CLOSING for c in x),
    "a sentence end": lambda x: bool(x) and x[-1] in ".?!" and _punctuation(x),
    "a newline": lambda x: x.isspace() and "\n" in x,
    "a blank line": lambda x: x.isspace() and x.count("\n") > 1,
    "indentation": lambda x: x.isspace() and "\n" not in x,
}
# Phrase -> whether a lexeme has the affix.
AFFIXES: dict[str, Callable[[str, str], bool]] = {
    "words starting with": str.startswith,
    "words ending in": str.endswith,
    "words containing": lambda x, part: part in x,
}
SHAPE_BITS = {name: np.uint32(1 << i) for i, name in enumerate(SHAPES)}


def shape_bits(x: str) -> int:
    """The shapes of a lexeme as a bit set."""
    return sum(int(SHAPE_BITS[name]) for name, has in SHAPES.items() if has(x))

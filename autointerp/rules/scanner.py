"""Strings, docstrings, comments and brackets in a text, found in one pass of a regular expression.

It is right for Python; in other text it finds quotations, `#` lines and parentheses, which does no
harm. A quote mark inside a word (don't) opens nothing, a single-line string ends with its line, and
brackets that were left open are forgotten at an unindented line after a blank one. An unfinished
triple quote runs to the end of the text.
"""

from __future__ import annotations

import re

import numpy as np

STRING, DOCSTRING, COMMENT, BRACKETS = 1, 2, 4, 8  # bits of a character

LEXER = re.compile(
    r"""(?P<comment>\#[^\n]*)
      | (?P<string>(?<!\w)[rbfuRBFU]{0,2}(?:
            \"{3}(?:[^"\\]|\\.|\"(?!\"\"))*(?:\"{3}|\Z) | '{3}(?:[^'\\]|\\.|'(?!''))*(?:'{3}|\Z)
          | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' ))
      | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<reset>\n[ \t]*\n(?=[^\s)\]}]))""",
    re.VERBOSE | re.DOTALL,
)


def scan(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(bits uint8 (characters,), position int32 (characters,) of the innermost bracket or -1).

    A string includes its quotes. Brackets include the opening one but not the closing one, so the
    entry of a character is the state after it.
    """
    bits, opener = np.zeros(len(text), np.uint8), np.full(len(text), -1, np.int32)
    stack: list[int] = []
    since = 0  # position at which the current state of the brackets began
    for found in LEXER.finditer(text):
        kind, start, end = found.lastgroup, found.start(), found.end()
        if kind == "comment":
            bits[start:end] |= COMMENT
        elif kind == "string":
            bits[start:end] |= DOCSTRING if not stack and _begins_statement(text, start) else STRING
        else:
            if stack:
                bits[since:start] |= BRACKETS
                opener[since:start] = stack[-1]
            since = start
            if kind == "open":
                stack.append(start)
            elif kind == "reset":
                stack.clear()
            elif stack:
                stack.pop()
    if stack:
        bits[since:] |= BRACKETS
        opener[since:] = stack[-1]
    return bits, opener


def _begins_statement(text: str, start: int) -> bool:
    """Whether only white space precedes `start` on its line, which continues no other line."""
    line = text.rfind("\n", 0, start) + 1
    return not text[line:start].strip() and text[max(line - 2, 0) : line] != "\\\n"


def line_heads(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(starts (lines,), heads (lines,)): positions of each line and of its first visible character.

    The head of a blank line is -1. A newline belongs to the line that it ends.
    """
    starts, heads, position = [], [], 0
    for line in text.split("\n"):
        starts.append(position)
        bare = line.lstrip()
        heads.append(position + len(line) - len(bare) if bare else -1)
        position += len(line) + 1
    return np.array(starts, np.int64), np.array(heads, np.int64)

"""Text to and from an LLM: quoting, chat messages, JSON objects and numbers in replies."""

from __future__ import annotations

import json
import re
from typing import Any

# What may open the marker << or a special token of a chat template, such as <|im_end|>, </s> or
# <start_of_turn>.
OPENING = re.compile(r"<(?=[<|｜]|/?\w+>|$)|(?<=<)<")


def quoted(text: str) -> str:
    """A JSON string on one line that reads as `text`.

    Characters that are invisible, or that could be taken for structure, are escaped.
    """
    escaped = "".join(json.dumps(c)[1:-1] if c in '"\\' or not c.isprintable() else c for c in text)
    return '"' + OPENING.sub(r"\\u003c", escaped) + '"'


def messages(system: str, lines: list[str]) -> list[dict]:
    """A conversation of a system message and one user message with these lines."""
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


# ------------------------------------------------------------ read a reply


def final_part(text: str | None) -> str | None:
    """The text after a reasoning model's thoughts; None when they were cut off."""
    text = text or ""
    if "<think>" in text and "</think>" not in text:
        return None
    return text.rpartition("</think>")[2].strip()


def json_at(text: str, start: int) -> Any:
    """The JSON value that begins at `start`, or None when it is malformed or cut off."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def last_object(text: str | None, *fields: str) -> dict | None:
    """The last JSON object of a reply that has all the fields, or None.

    Any text may stand around it. Objects within a reasoning model's thoughts do not count.
    """
    part = final_part(text) or ""
    for start in reversed([brace.start() for brace in re.finditer(r"\{", part)]):
        value = json_at(part, start)
        if isinstance(value, dict) and all(field in value for field in fields):
            return value
    return None


def number(value: object) -> float | None:
    """A JSON number, or a string that holds one, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None

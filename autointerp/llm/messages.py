"""Text on its way to and from an LLM: quoting, chat messages, and reading JSON objects and numbers from replies."""

from __future__ import annotations

import json
import re

# What may open the marker << or a special token of a chat template, such as <|im_end|>, </s> or <start_of_turn>.
OPENING = re.compile(r"<(?=[<|｜]|/?\w+>|$)|(?<=<)<")


def quoted(text: str) -> str:
    """A JSON string on one line that reads as `text`, without characters that are invisible or could be taken for structure."""
    escaped = "".join(json.dumps(c)[1:-1] if c in '"\\' or not c.isprintable() else c for c in text)
    return '"' + OPENING.sub(r"\\u003c", escaped) + '"'


def final_part(text: str) -> str | None:
    """The text after a reasoning model's thoughts; None when they were cut off."""
    if "<think>" in text and "</think>" not in text:
        return None
    return text.rpartition("</think>")[2].strip()


def json_at(text: str, start: int):
    """The JSON value that begins at `start`, or None when it is malformed or cut off."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def number(value) -> float | None:
    """A JSON number, or a string that holds one, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def messages(system: str, lines: list[str]) -> list[dict]:
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def read_object(text: str | None, *fields: str) -> dict | None:
    """The last JSON object in a reply that has all the fields, or None."""
    part = (text or "").rpartition("</think>")[2]
    for start in reversed([found.start() for found in re.finditer(r"\{", part)]):
        try:
            value = json.JSONDecoder().raw_decode(part, start)[0]
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and all(field in value for field in fields):
            return value
    return None

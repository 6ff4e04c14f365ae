"""Text to and from an LLM: quoting, chat messages, JSON objects and numbers in replies."""

from __future__ import annotations

import json
import re
from typing import Any

from autointerp.llm.repair import (
    THOUGHTS,
    lower_keys,
    note_repair,
    repair_numbered,
    repair_object,
)

MOST_STARTS = 500  # opening braces at which an answer is looked for
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
    for opening, closing in THOUGHTS:
        ends = [mark.end() for mark in re.finditer(re.escape(closing), text, re.IGNORECASE)]
        if not ends and re.search(re.escape(opening), text, re.IGNORECASE):
            return None
        text = text[ends[-1] :] if ends else text
    return text.strip()


def json_at(text: str, start: int) -> Any:
    """The JSON value that begins at `start`, or None when it is malformed or cut off."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def last_object(text: str | None, *fields: str) -> dict[str, Any] | None:
    """The last JSON object of a reply that has all the fields, or None.

    Any text may stand around it. Objects within a reasoning model's thoughts do not count. Where no
    object is JSON, one that is nearly JSON counts, as `repair` reads it.
    """
    part = final_part(text) or ""
    starts = [brace.start() for brace in re.finditer(r"\{", part)]
    # each try may read to the end, so a reply of thousands of braces is not tried at each of them
    for start in [*reversed(starts[-MOST_STARTS:]), *starts[:-MOST_STARTS][:1]]:
        value = json_at(part, start)
        if isinstance(value, dict) and all(field in value for field in fields):
            return lower_keys(value)
    table = repair_object(part, fields)
    if table is not None:
        note_repair()
    return table


def numbered_part(text: str | None) -> str | None:
    """A reply whose answer names numbers, as strict JSON; the reply itself where it is strict.

    None when it holds only thoughts.
    """
    part = final_part(text)
    if not text or not part:
        return None
    repaired = repair_numbered(part)
    if repaired is None:
        return text
    note_repair()
    return repaired


def number(value: object) -> float | None:
    """A JSON number, a string that holds one, or a list of one of these, as a float."""
    if isinstance(value, list) and len(value) == 1:
        note_repair()
        return number(value[0])
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None

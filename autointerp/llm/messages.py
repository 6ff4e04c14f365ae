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
# `Set 2`, `#3`
NAMED_NUMBER = re.compile(
    r"\s*(?:#|(?:label|text|set|option|window|token|no\.?|number)\s*#?)\s*(\d{1,6})\s*",
    re.IGNORECASE,
)
# What opens the answer after the thoughts of gpt-oss
FINAL = re.compile(r"<\|channel\|>final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")


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
    """The text after a reasoning model's thoughts; None when they were cut off.

    A mark of thoughts that stands within an answer, as a label of such marks has it, is a word.
    """
    text = FINAL.sub("<|channel|>final<|message|>", text or "")
    for opening, closing in THOUGHTS:
        if not any(mark.casefold() in text.casefold() for mark in (opening, closing)):
            continue
        end = re.compile(re.escape(closing), re.IGNORECASE)
        closed = False
        while found := end.search(_hide_answer(text, opening)):
            text, closed = text[found.end() :], True
        seen = _hide_answer(text, opening)
        if not closed and re.search(re.escape(opening), seen, re.IGNORECASE):
            return None
    return text.strip()


def _hide_answer(text: str, opening: str) -> str:
    """The text with blanks in place of the object of JSON that begins at its first brace.

    What follows the opening of a thought is no answer, and stays.
    """
    start = text.find("{")
    if start < 0 or re.search(re.escape(opening), text[:start], re.IGNORECASE):
        return text
    try:
        end = json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return text
    return text[:start] + " " * (end - start) + text[end:]


def json_at(text: str, start: int) -> Any:
    """The JSON value that begins at `start`, or None when it is malformed or cut off.

    An object that says two things under one name is malformed.
    """
    try:
        return json.JSONDecoder(object_pairs_hook=_read_pairs).raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(reversed(pairs))
    if any(table[key] is not value and table[key] != value for key, value in pairs):
        raise ValueError("two values under one name")
    return dict(pairs)


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
    """A JSON number, a string that holds one or names it, or a list of one of these, as a float."""
    if isinstance(value, list) and len(value) == 1:
        note_repair()
        return number(value[0])
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and (named := NAMED_NUMBER.fullmatch(value)):
        note_repair()
        return float(named[1])
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None

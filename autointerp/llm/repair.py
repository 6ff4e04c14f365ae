"""Read replies that are nearly JSON, and count them.

A person reads `{'Label': 'cats', "confidence": 0.8,}` without doubt, and so does this module, with
json-repair. Three rules keep it from making anything up:

    whole     an object counts only if its closing brace is there, so a reply that was cut off stays
              cut off
    the same  the words and numbers of the result are those of the reply, in the same order
    counted   `note_repair` puts the reply among those of the session that were repaired
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import json_repair

# What may stand around a reasoning model's thoughts, in any case of the letters
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<analysis>", "</analysis>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
WORD = re.compile(r"\d*\.?\d+(?:[eE][+-]?\d+)?|[^\W\d_]+")
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
COMMENT = re.compile(r"(?m)(?:(?<=[\s,{\[])|^)(?://|#)[^\n]*|/\*.*?\*/", re.DOTALL)
# `Label: cats`, also as `**Label:** cats`, `- "label" = "cats",`
LINE = re.compile(r"^[\s>*_\-#\"'`]*(\w{1,20})[\s*_\"'`]*[:=][\s*_]*(\S.*?)[\s,;]*$", re.MULTILINE)
TAG = re.compile(r"<(\w{1,20})>\s*([^<>]*?)\s*</\1>")
LONGEST = 100_000  # characters of a reply that is repaired

_repaired: ContextVar[set[str] | None] = ContextVar("repaired", default=None)
_reading: ContextVar[str] = ContextVar("reading", default="")


@contextlib.contextmanager
def keep_repairs(keys: set[str]) -> Iterator[None]:
    """Context manager: `keys` receives the keys of the replies that are repaired within."""
    token = _repaired.set(keys)
    try:
        yield
    finally:
        _repaired.reset(token)


@contextlib.contextmanager
def reading(reply_key: str) -> Iterator[None]:
    """Context manager: what is repaired within belongs to this reply."""
    token = _reading.set(reply_key)
    try:
        yield
    finally:
        _reading.reset(token)


def note_repair() -> None:
    """Count the reply that is being read as repaired."""
    keys = _repaired.get()
    if keys is not None:
        keys.add(_reading.get())


# ------------------------------------------------------------ objects


def repair_object(part: str, fields: tuple[str, ...]) -> dict[str, Any] | None:
    """The last nearly-JSON object of `part` that has all the fields, or the lines that name them.

    Keys are compared without their case. None where there is none, or where repair would have to
    drop or invent a word.
    """
    if len(part) > LONGEST:
        return None
    quoted = _read_quoted(part)
    if quoted is not None:
        return repair_object(quoted, fields)
    for source in _braced(part):
        spoken = source.casefold()
        table = _repair_whole(source) if all(field in spoken for field in fields) else None
        if table is not None and (named := _name_fields(table, fields)) is not None:
            return named
    if "{" in part:
        return None
    pairs = TAG.findall(part) or LINE.findall(part)
    return _name_fields({key: _unquote(value) for key, value in pairs}, fields)


def _read_quoted(part: str) -> str | None:
    """The text of a reply that is one JSON string, which holds the answer once more encoded."""
    if not part.startswith('"'):
        return None
    with contextlib.suppress(ValueError):
        value = json.loads(part)
        return value if isinstance(value, str) else None
    return None


def _braced(part: str) -> Iterator[str]:
    """The stretches of `part` from a brace to a closing brace, from the last opening brace on.

    For each of the last 40 opening braces: to the last closing brace, and to the first one.
    """
    closing = [brace.end() for brace in re.finditer(r"\}", part)]
    opening = [brace.start() for brace in re.finditer(r"\{", part)]
    for start in reversed(opening[-40:]):
        ends = [end for end in closing if end > start]
        for end in dict.fromkeys(ends[-1:] + ends[:1]):
            yield part[start:end]


def _repair_whole(source: str) -> dict[str, Any] | None:
    """The object that `source` means, or None where its words are not those of `source`."""
    try:
        table = json_repair.loads(source)
    except (ValueError, RecursionError, IndexError):
        return None
    if not isinstance(table, dict):
        return None
    words = _words(" ".join(_flatten(table)))
    return table if words in (_words(source), _words(COMMENT.sub(" ", source))) else None


def _words(text: str) -> list[str | float]:
    """Words and numbers of a text, escapes resolved; null and None are one word."""

    def resolve(escape: re.Match[str]) -> str:
        if escape[1]:
            return chr(int(escape[1], 16))
        return " " if escape[2] in "nrtbf" else escape[2]

    words = WORD.findall(ESCAPE.sub(resolve, text))
    return [
        float(word) if word[0].isdecimal() or word[0] == "." else word.casefold()
        for word in words
        if word.casefold() not in ("null", "none")
    ]


def _flatten(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _flatten(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flatten(inner)
    elif value is not None:
        yield str(value).replace("\\", "\\\\")


def lower_keys(table: dict[str, Any]) -> dict[str, Any]:
    """The table with keys in lower case; one that had others counts as repaired."""
    if all(key == key.strip().casefold() for key in table):
        return table
    note_repair()
    return {key.strip().casefold(): value for key, value in table.items()} | table


def _name_fields(table: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any] | None:
    """The table with plain lower-case keys, or None where a field is missing."""
    plain = {key if key in fields else str(key).strip().casefold(): v for key, v in table.items()}
    return plain if plain and all(field in plain for field in fields) else None


def _unquote(value: str) -> str:
    value = value.strip("*` ")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


# ------------------------------------------------------------ numbered answers


NUMBERED_LINE = re.compile(
    r"^\W*(\d{1,6})\W*?[:=.)]\s*(\[[\d\s,.\[\]()]*\]|\d)[\s,;]*$", re.MULTILINE
)


def repair_numbered(part: str) -> str | None:
    """An answer that names numbers (`{'1': 8, 2: "3"}`, or a line each) as strict JSON.

    None where it is strict already, or no such answer.
    """
    if len(part) > LONGEST or _is_strict(part):
        return None
    quoted = _read_quoted(part)
    if quoted is not None:
        return quoted if _is_strict(quoted) else repair_numbered(quoted)
    start, end = part.find("{"), part.rfind("}")
    table: Any = _repair_whole(part[start : end + 1]) if 0 <= start < end else None
    if table is None and "{" not in part:
        lines = NUMBERED_LINE.findall(part)
        table = {place: json_repair.loads(value) for place, value in lines}
    return json.dumps(_to_numbers(table)) if table else None


def _is_strict(part: str) -> bool:
    """Whether an object of JSON numbers begins at the first brace of `part`."""
    start = part.find("{")
    if start < 0:
        return False
    try:
        value = json.JSONDecoder().raw_decode(part, start)[0]
    except (ValueError, RecursionError):
        return False
    return json.dumps(_to_numbers(value)) == json.dumps(value)


def _to_numbers(value: Any) -> Any:
    """`value` with every string that holds a whole number as that number."""
    if isinstance(value, dict):
        return {str(key).strip(): _to_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_to_numbers(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,6}\s*", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value

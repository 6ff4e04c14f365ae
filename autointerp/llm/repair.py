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
    ("<longcat_think>", "</longcat_think>"),
    ("<reasoning_content>", "</reasoning_content>"),
    ("<ant_thinking>", "</ant_thinking>"),
    ("Here is my thought process:", "Here is my response:"),
)
WORD = re.compile(r"\d*\.?\d+(?:[eE][+-]?\d+)?|[^\W\d_]+")
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
COMMENT = re.compile(r"(?m)(?:(?<=[\s,{\[])|^)(?://|#)[^\n]*|/\*.*?\*/", re.DOTALL)
# `Label: cats`, also as `**Label:** cats`, `1. "label" = "cats",`
LINE = re.compile(
    r"^[\s>*_\-#\"'`|]*(?:\d{1,2}[.)]\s*)?[*_\"'`]*(\w{1,20})[\s*_\"'`]*[:=][\s*_]*(\S.*?)[\s,;|]*$",
    re.MULTILINE,
)
TAG = re.compile(
    r"<(?:parameter[ =](?:name=)?[\"']?)?(\w{1,20})[\"']?>\s*([^<>]*?)\s*</(?:\1|parameter)>"
)
# `answer(label="cats", confidence=0.8)`
ARGUMENT = re.compile(
    r"\b(\w{1,20})\s*=\s*(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[\d.]+%?)(?=\s*(?:[,)\n]|$))"
)
HEADING = re.compile(
    r"^(?:#{1,6}\s*|\*\*)(\w{1,20})[:*\s]*\n\s*(\S[^\n]*)$", re.MULTILINE
)  # a value on the line below its name
# what stands in one line with a label: `Label: cats (Confidence: 0.8)`
BESIDE = re.compile(
    r"[,;|(]\s*(?=[*_\"']{0,3}(?:confidence|covers|second|kind)[*_\"']{0,3}\s*[:=])", re.IGNORECASE
)
# Quotation marks and punctuation of other scripts, as those of JSON
PUNCTUATION = {
    **dict.fromkeys(map(ord, "“”„‟«»「」『』〝〞＂"), '"'),
    **dict.fromkeys(map(ord, "‘’‚‛‹›＇`"), "'"),
    **dict(zip(map(ord, "｛｝［］：，＝；"), "{}[]:,=;", strict=True)),
}
EQUALS = re.compile(r"(?<=[\"'])\s*=>?\s*(?=[\"'\d.\[{])")  # between a key and its value
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


def forget_repair(reply_key: str) -> None:
    """Take a reply back from those that were repaired, because it could not be read after all."""
    keys = _repaired.get()
    if keys is not None:
        keys.discard(reply_key)


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
    for form in dict.fromkeys((part, plain_punctuation(part))):
        found = _find_object(form, fields)
        if found is not None:
            return found
    return None


def plain_punctuation(part: str) -> str:
    """The reply with the quotation marks, colons and braces of JSON in place of other ones."""
    return EQUALS.sub(": ", part.replace("``", '"').replace("''", '"').translate(PUNCTUATION))


def _find_object(part: str, fields: tuple[str, ...]) -> dict[str, Any] | None:
    """The last object of `part` with the fields, in braces or without any; None where none is."""
    for source in _braced(part):
        spoken = source.casefold()
        table = _repair_whole(source) if all(field in spoken for field in fields) else None
        if table is not None and (named := _name_fields(table, fields)) is not None:
            return named
    if "{" in part:
        return None
    apart = BESIDE.sub("\n", part)
    for pairs in (TAG.findall(part), ARGUMENT.findall(part), LINE.findall(apart)):
        table = {key: _unquote(value) for key, value in pairs}
        if (named := _name_fields(table, fields)) is not None:
            return named
    return _name_fields({k: _unquote(v) for k, v in HEADING.findall(part) + _cells(part)}, fields)


def _cells(part: str) -> list[tuple[str, str]]:
    """(name, cell) of the only row of a table in Markdown; empty where there is none."""
    rows = [line.strip().strip("|").split("|") for line in part.splitlines() if "|" in line]
    if len(rows) != 3 or len(rows[0]) != len(rows[2]) or set("".join(rows[1])) - set(" :-"):
        return []
    return [(key.strip(" *`"), value.strip()) for key, value in zip(rows[0], rows[2], strict=True)]


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


def _repair_whole(source: str, said: str = "") -> dict[str, Any] | None:
    """The object that `source` means, or None where its words are not those of `source`.

    `said` is the part of `source` that the reply holds, where that is not all of it.
    """
    try:
        table = json_repair.loads(source)
    except (ValueError, RecursionError, IndexError):
        return None
    if not isinstance(table, dict):
        return None
    words = _words(" ".join(_flatten(table["list"] if said else table)))
    said = said or source
    return table if words in (_words(said), _words(COMMENT.sub(" ", said))) else None


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
    if value.endswith(")") and "(" not in value:  # of what stood beside it
        value = value[:-1].rstrip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


# ------------------------------------------------------------ numbered answers


NUMBERED_LINE = re.compile(
    r"^\W*(?:(?:text|set|window|item)\W*)?(\d{1,6})\W*?[:=.)\-|]\s*(\[[\d\s,.\[\]()]*\]|\d)[\s,;|]*$",
    re.MULTILINE | re.IGNORECASE,
)
BETWEEN = re.compile(r"[,;]\s*(?=\d{1,6}\s*[:=])")  # of `1: 9, 2: 3`
PLACE = re.compile(r"(?:text|set|window|item|sequence|example)?[\s_#\-]*(\d{1,6})", re.IGNORECASE)
LIST = re.compile(r"[\s`]*(?:json)?\s*\[")  # an answer that is a list
PLACES = ("text", "set", "window", "item", "sequence", "id", "index", "number", "n")


def repair_numbered(part: str) -> str | None:
    """An answer that names numbers (`{'1': 8, 2: "3"}`, or a line each) as strict JSON.

    None where it is strict already, or no such answer.
    """
    if len(part) > LONGEST or _is_strict(part):
        return None
    quoted = _read_quoted(part)
    if quoted is not None:
        return quoted if _is_strict(quoted) else repair_numbered(quoted)
    forms = dict.fromkeys((part, plain_punctuation(part)))
    tables = [_to_numbers(_find_numbered(form)) for form in forms]
    table = max(tables, key=_count_answers)
    return json.dumps(table) if isinstance(table, dict) and table else None


def _count_answers(table: Any) -> int:
    """How many numbers of a repaired answer have an answer beside them."""
    if not isinstance(table, dict):
        return -1
    answered = sum(
        key.isdecimal() and isinstance(v, (int, float, list)) for key, v in table.items()
    )
    return answered + sum(max(0, _count_answers(inner)) for inner in table.values())


def _find_numbered(part: str) -> Any:
    start, end = part.find("{"), part.rfind("}")
    table: Any = _repair_whole(part[start : end + 1]) if 0 <= start < end else None
    if (table is None or LIST.match(part)) and 0 <= part.find("[") < start:
        return _repair_list(part[part.find("[") : part.rfind("]") + 1])
    if table is None and "{" not in part:
        lines = NUMBERED_LINE.findall(BETWEEN.sub("\n", part))
        return {place: json_repair.loads(value) for place, value in lines}
    return table


def _repair_list(source: str) -> dict[Any, Any] | None:
    """{place: number} of a list of objects that name both: `[{"text": 1, "rating": 9}]`."""
    table = _repair_whole('{"list": ' + source + "}", source)
    records = table["list"] if table else None
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        return None
    out: dict[Any, Any] = {}
    for record in records:
        name = next((k for k in record if str(k).strip().casefold() in PLACES), None)
        rest = {k: v for k, v in record.items() if k != name}
        if name is None:
            out |= rest
        else:
            out[record[name]] = rest
    return out


def _is_strict(part: str) -> bool:
    """Whether an object of JSON numbers begins at the first brace of `part`."""
    start = part.find("{")
    if start < 0 or LIST.match(part):
        return False
    try:
        value = json.JSONDecoder().raw_decode(part, start)[0]
    except (ValueError, RecursionError):
        return False
    return json.dumps(_to_numbers(value)) == json.dumps(value)


def _to_numbers(value: Any) -> Any:
    """`value` with every string that holds a whole number as that number.

    A name such as `Text 1` is the number, and an object under a number that holds one number, which
    other words explain, is that one.
    """
    if isinstance(value, dict):
        out = {}
        for key, inner in value.items():
            place = PLACE.fullmatch(str(key).strip())
            inner = _to_numbers(inner)
            if place and isinstance(inner, dict):
                numbers = [v for v in inner.values() if isinstance(v, (int, float))]
                inner = numbers[0] if len(numbers) == 1 else inner
            out[place[1] if place else str(key).strip()] = inner
        return out
    if isinstance(value, list):
        return [_to_numbers(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,6}\s*", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value

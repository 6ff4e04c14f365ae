"""Alternatives for one token, as labels say them: quoted words, shapes, words that begin or end alike, words that the subject puts together.

    terms     = "anything" | term {", " term} [" or " term]
    term      = literal | shape | affix | field
    literal   = JSON string, in double or single quotes: a lexeme, the text of a token without leading spaces, case kept
    shape     = "digits" | "a capitalised word" | ...                      the phrases of lexemes.SHAPES
    affix     = "words " ("starting with" | "ending in" | "containing") " " literal
    field     = "words like " literal "/" literal {"/" literal}            the smallest node of the tree over words (core.fields) that holds them all

A word outside the tree stands for itself alone in a field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from autointerp.rules.lexemes import AFFIXES, SHAPES
from core.errors import UsageError

LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'")
EXAMPLE = 'Write, for example: "self" or digits after "(" in a line starting with "def"'
FIELD = "words like"
SHAPE_ORDER = list(SHAPES)
LONGEST_FIRST = sorted(SHAPES, key=len, reverse=True)


@dataclass(frozen=True)
class Terms:
    """Alternatives for one token; without any, anything."""

    literals: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    affixes: tuple[tuple[str, str], ...] = ()  # (phrase of lexemes.AFFIXES, characters)
    fields: tuple[tuple[str, ...], ...] = ()  # words of each

    def __len__(self) -> int:
        return len(self.literals) + len(self.shapes) + len(self.affixes) + len(self.fields)


# ---------------------------------------------------------------- printing


def render_terms(terms: Terms) -> str:
    words = [quote(text) for text in terms.literals] + list(terms.shapes)
    words += [f"{phrase} {quote(text)}" for phrase, text in terms.affixes]
    words += [f"{FIELD} {'/'.join(map(quote, field))}" for field in terms.fields]
    if len(words) > 1:
        return f"{', '.join(words[:-1])} or {words[-1]}"
    return words[0] if words else "anything"


def quote(text: str) -> str:
    """JSON in double quotes, or in single ones where that spares an escape; characters that do not print are escaped."""
    printable = text.replace("\n", "").isprintable()
    inside = json.dumps(text, ensure_ascii=not printable)[1:-1]
    if '"' in text and "'" not in text:
        return "'" + inside.replace('\\"', '"') + "'"
    return f'"{inside}"'


# ---------------------------------------------------------------- reading


class Reader:
    """A cursor over a label: takes phrases, which end at a word boundary, and literals."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1

    def at_end(self) -> bool:
        self._skip()
        return self.at == len(self.text)

    def take(self, phrase: str) -> bool:
        self._skip()
        end = self.at + len(phrase)
        if not self.text.startswith(phrase, self.at) or (
            phrase[-1].isalnum() and self.text[end : end + 1].isalnum()
        ):
            return False
        self.at = end
        return True

    def take_pattern(self, pattern: re.Pattern) -> str | None:
        self._skip()
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found and found[0]

    def take_literal(self) -> str | None:
        """The text of a literal, None when there is none here."""
        quoted = self.take_pattern(LITERAL)
        if quoted is None:
            return None
        inside = (
            quoted[1:-1]
            if quoted[0] == '"'
            else re.sub(r"\\.|\"", lambda m: {"\\'": "'", '"': '\\"'}.get(m[0], m[0]), quoted[1:-1])
        )
        try:
            return json.loads(f'"{inside}"')
        except ValueError:
            raise self.error("a JSON string") from None

    def error(self, expected: str) -> UsageError:
        rest = self.text[self.at :].strip()
        found = f"found {rest[:40]!r}" if rest else "it ends there"
        return UsageError(
            f"The label {self.text!r} is not a rule: expected {expected} after {self.text[: self.at]!r}, {found}.",
            EXAMPLE,
        )


def read_terms(reader: Reader) -> Terms:
    """The terms that stand at the cursor; raises UsageError when there are none."""
    if reader.take("anything"):
        return Terms()
    found: dict[str, list] = {"literal": [], "shape": [], "affix": [], "field": []}
    while True:
        kind, value = _read_term(reader)
        found[kind].append(value)
        if not (reader.take(",") or reader.take("or")):
            break
    distinct = {kind: tuple(dict.fromkeys(values)) for kind, values in found.items()}
    return Terms(
        distinct["literal"],
        tuple(sorted(distinct["shape"], key=SHAPE_ORDER.index)),
        distinct["affix"],
        distinct["field"],
    )


def _read_term(reader: Reader) -> tuple[str, object]:
    text = reader.take_literal()
    if text is not None:
        return "literal", text
    if reader.take(FIELD):
        words = [_required_literal(reader)]
        while reader.take("/"):
            words.append(_required_literal(reader))
        return "field", tuple(dict.fromkeys(words))
    for phrase in AFFIXES:
        if reader.take(phrase):
            return "affix", (phrase, _required_literal(reader))
    for phrase in LONGEST_FIRST:
        if reader.take(phrase):
            return "shape", phrase
    raise reader.error(
        f'a quoted token, "anything", {FIELD} ..., or one of: ' + ", ".join([*AFFIXES, *SHAPES])
    )


def _required_literal(reader: Reader) -> str:
    text = reader.take_literal()
    if not text:
        raise reader.error("a quoted word")
    return text

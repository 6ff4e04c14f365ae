"""Alternatives for one token in a label: quoted words, shapes, affixes, words similar to others.

terms     = "anything" | term {", " term} [" or " term]
term      = literal | shape | affix | similar
literal   = JSON string, in double or single quotes: a lexeme (the text of a token without
            leading spaces), case kept; ↵ in it is a newline
shape     = "digits" | "a capitalised word" | ...            the phrases of lexemes.SHAPES
affix     = "words " ("starting with" | "ending in" | "containing") " " literal
similar   = "words like " literal "/" literal {"/" literal}
            the smallest node of the subject's tree over words (core.text.word_tree) that holds
            all of these words; a word outside the tree stands for itself alone
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from autointerp.rules.lexemes import AFFIXES, SHAPES
from core.errors import UsageError

LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'")
EXAMPLE = 'Write, for example: "self" or digits after "(" in a line starting with "def"'
LIKE = "words like"
NEWLINE = "↵"  # how a literal prints a newline; the sign itself is escaped
ESCAPES = re.compile(r"\\.")
AS_JSON = {"\\'": "'", '"': '\\"'}  # piece of a literal in single quotes -> piece of a JSON string
SHAPE_ORDER = list(SHAPES)
LONGEST_FIRST = sorted(SHAPES, key=len, reverse=True)


@dataclass(frozen=True)
class Terms:
    """Alternatives for one token; without any, anything."""

    literals: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    affixes: tuple[tuple[str, str], ...] = ()  # (phrase of lexemes.AFFIXES, characters)
    similar: tuple[tuple[str, ...], ...] = ()  # the words that name each node of the tree

    def __len__(self) -> int:
        return len(self.literals) + len(self.shapes) + len(self.affixes) + len(self.similar)


# ---------------------------------------------------------------- printing


def render_terms(terms: Terms) -> str:
    """The terms as a label prints them; `read_terms` reads them back."""
    words = [quote(text) for text in terms.literals] + list(terms.shapes)
    words += [f"{phrase} {quote(text)}" for phrase, text in terms.affixes]
    words += [f"{LIKE} {'/'.join(map(quote, similar))}" for similar in terms.similar]
    if len(words) > 1:
        return f"{', '.join(words[:-1])} or {words[-1]}"
    return words[0] if words else "anything"


def quote(text: str) -> str:
    """A JSON string in double quotes, or in single quotes where that avoids an escape.

    A newline is printed as snippets print it, ↵; other characters that do not print are escaped.
    """
    printable = text.replace("\n", "").isprintable()
    inside = json.dumps(text, ensure_ascii=not printable)[1:-1]
    inside = ESCAPES.sub(_show_newline, inside.replace(NEWLINE, "\\u21b5"))
    if '"' in text and "'" not in text:
        return "'" + inside.replace('\\"', '"') + "'"
    return f'"{inside}"'


def _show_newline(escape: re.Match[str]) -> str:
    return NEWLINE if escape[0] == "\\n" else escape[0]


# ---------------------------------------------------------------- reading


class Reader:
    """A cursor over a label that reads phrases and literals."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1

    def at_end(self) -> bool:
        """Whether only spaces are left."""
        self._skip()
        return self.at == len(self.text)

    def take(self, phrase: str) -> bool:
        """Step over `phrase` where it stands here and ends at a word boundary."""
        self._skip()
        end = self.at + len(phrase)
        if not self.text.startswith(phrase, self.at) or (
            phrase[-1].isalnum() and self.text[end : end + 1].isalnum()
        ):
            return False
        self.at = end
        return True

    def take_pattern(self, pattern: re.Pattern[str]) -> str | None:
        """Step over a match of `pattern` and return its text; None without a match here."""
        self._skip()
        match = pattern.match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[0]

    def take_literal(self) -> str | None:
        """Step over a literal and return its text; None without one here."""
        literal = self.take_pattern(LITERAL)
        if literal is None:
            return None
        inside = literal[1:-1].replace(NEWLINE, "\\n")
        if literal[0] == "'":  # as JSON: unescape single quotes, escape double ones
            inside = re.sub(r"\\.|\"", lambda m: AS_JSON.get(m[0], m[0]), inside)
        try:
            return json.loads(f'"{inside}"')
        except ValueError:
            raise self.error("a JSON string") from None

    def error(self, expected: str) -> UsageError:
        """The error to raise where something else was expected here."""
        rest, before = self.text[self.at :].strip(), self.text[: self.at]
        found = f"found {rest[:40]!r}" if rest else "it ends there"
        return UsageError(
            f"The label {self.text!r} is not a rule: "
            f"expected {expected} after {before!r}, {found}.",
            EXAMPLE,
        )


def read_terms(reader: Reader) -> Terms:
    """The terms at the cursor; raises UsageError when there are none."""
    if reader.take("anything"):
        return Terms()
    terms: dict[str, dict] = {"literals": {}, "shapes": {}, "affixes": {}, "similar": {}}
    while True:
        kind, value = _read_term(reader)
        terms[kind][value] = True  # a dict keeps the order and drops duplicates
        if not (reader.take(",") or reader.take("or")):
            break
    return Terms(
        tuple(terms["literals"]),
        tuple(sorted(terms["shapes"], key=SHAPE_ORDER.index)),
        tuple(terms["affixes"]),
        tuple(terms["similar"]),
    )


def _read_term(reader: Reader) -> tuple[str, object]:
    """(field of Terms, its entry)"""
    text = reader.take_literal()
    if text is not None:
        return "literals", text
    if reader.take(LIKE):
        words = [_take_word(reader)]
        while reader.take("/"):
            words.append(_take_word(reader))
        return "similar", tuple(dict.fromkeys(words))
    for phrase in AFFIXES:
        if reader.take(phrase):
            return "affixes", (phrase, _take_word(reader))
    for phrase in LONGEST_FIRST:
        if reader.take(phrase):
            return "shapes", phrase
    raise reader.error(
        f'a quoted token, "anything", {LIKE} ..., or one of: ' + ", ".join([*AFFIXES, *SHAPES])
    )


def _take_word(reader: Reader) -> str:
    text = reader.take_literal()
    if not text:
        raise reader.error("a quoted word")
    return text

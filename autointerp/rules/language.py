"""The language of rule labels: the printed label is the predictor.

    label     = "unclear" | ["unclear: "] [name ": "] predicate {"; " predicate}
                                              at most 4 predicates and 200 characters
    name      = one to six words of letters, digits, "-", "/" and "+", which predict nothing
    predicate = ["weak: "] terms {modifier} [" (weak)"]
                                              "weak: " and " (weak)" mean the same
    terms     = alternatives for one token (see rules.terms)
    modifier  = "after " terms {" then " terms}
                                              the one to three tokens before, in text order
              | "within " N " after " terms    one of the N tokens before
              | "before " terms                the next token
              | "in a line starting with " terms
                                              the first token of the line
              | "in brackets opened after " terms
                                              the token before the innermost open bracket
              | "in a text with " terms        any token of the row, before or after
              | ["not "] context               a phrase of annotations.CONTEXTS: "in a docstring"

Each kind of modifier stands at most once (each context once), and all must hold. The prediction
at a token is the largest level of the predicates that match it: 1 for strong ones, WEAK for
"(weak)", 0 when none matches; "unclear" alone predicts 0 everywhere. A rule does not see tokens of
other rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from autointerp.rules.annotations import CONTEXT_BITS, CONTEXTS, Annotations
from autointerp.rules.terms import Reader, Terms, read_terms, render_terms
from core.errors import UsageError

WEAK = 0.4
MAX_PREDICATES, MAX_CHARACTERS, MAX_AFTER, MAX_WITHIN = 4, 200, 3, 64
UNCLEAR = "unclear"
WEAK_LEAD = "weak:"  # before a part of a label that holds for weak firings alone
FURTHER = re.compile(r"; (?=or: |weak: )")  # between the parts of a label in free words
NAME_WORDS, NAME_CHARACTERS = 6, 48  # of a name, at most
NAME = re.compile(r"-?[^\W_][\w /+-]*(?=:)")
LEADS = {
    "before": "before",
    "in a line starting with": "line",
    "in brackets opened after": "call",
    "in a text with": "text",
}


@dataclass(frozen=True)
class Predicate:
    """A condition on a token and its context."""

    here: Terms = Terms()
    after: tuple[Terms, ...] = ()  # in text order: the last one is the previous token
    within: tuple[int, Terms] | None = None
    before: Terms | None = None
    line: Terms | None = None
    call: Terms | None = None
    contexts: tuple[tuple[str, bool], ...] = ()  # (phrase, holds)
    weak: bool = False
    text: Terms | None = None


@dataclass(frozen=True)
class Rule:
    """What a label says; `unclear` means that the labeller does not trust it."""

    predicates: tuple[Predicate, ...] = ()
    unclear: bool = False
    name: str = ""  # what its tokens have in common, for people


# ---------------------------------------------------------------- printing


def render(rule: Rule) -> str:
    """The label of a rule; `parse` reads it back."""
    body = "; ".join(_render_predicate(p) for p in rule.predicates)
    if not body:
        return UNCLEAR
    leads = (UNCLEAR if rule.unclear else "", rule.name)
    return "".join(f"{lead}: " for lead in leads if lead) + body


def _render_predicate(p: Predicate) -> str:
    parts = [render_terms(p.here)]
    if p.after:
        parts.append("after " + " then ".join(render_terms(t) for t in p.after))
    if p.within:
        parts.append(f"within {p.within[0]} after {render_terms(p.within[1])}")
    parts += [
        f"{lead} {render_terms(terms)}"
        for lead, name in LEADS.items()
        if (terms := getattr(p, name)) is not None
    ]
    parts += [name if holds else f"not {name}" for name, holds in p.contexts]
    return " ".join(parts) + (" (weak)" if p.weak else "")


# ---------------------------------------------------------------- parts


def parts_of(text: str) -> list[str]:
    """The parts of a label, as a person reads them: the first one with its name.

    A label in free words is parted before `or: ` and `weak: `. A label of one part is itself.
    """
    rule = read_rule(text)
    if rule is None:
        return FURTHER.split(text)
    if len(rule.predicates) < 2:
        return [text]
    first = render(replace(rule, predicates=(replace(rule.predicates[0], weak=False),)))
    return [first, *map(_render_predicate, rule.predicates[1:])]


def without_weak(text: str) -> str:
    """A label without its parts for weak firings alone; itself where it has none, or only those."""
    rule = read_rule(text)
    if rule is None:
        strong = [part for part in FURTHER.split(text) if not part.startswith(WEAK_LEAD)]
        return "; ".join(strong) or text
    kept = tuple(p for p in rule.predicates if not p.weak)
    return render(replace(rule, predicates=kept)) if 0 < len(kept) < len(rule.predicates) else text


# ---------------------------------------------------------------- reading


def parse(text: str) -> Rule:
    """The rule that a label says; raises UsageError when it is not in the language."""
    reader = Reader(text)
    unclear = reader.take(UNCLEAR)
    if unclear and reader.at_end():
        return Rule((), True)
    if unclear and not reader.take(":"):
        raise reader.error("':' after unclear")
    name = _read_name(reader)
    predicates = [_read_predicate(reader)]
    while reader.take(";"):
        predicates.append(_read_predicate(reader))
    if not reader.at_end():
        raise reader.error("a modifier, '; ' or the end")
    if len(predicates) > MAX_PREDICATES or len(text) > MAX_CHARACTERS:
        raise UsageError(
            f"The label has {len(predicates)} parts and {len(text)} characters.",
            f"Use at most {MAX_PREDICATES} parts and {MAX_CHARACTERS} characters.",
        )
    return Rule(tuple(predicates), unclear, name)


@lru_cache(maxsize=1 << 16)
def read_rule(text: str) -> Rule | None:
    """The rule that a label says, or None for free text. Cached, since labels are read often."""
    try:
        return parse(text)
    except UsageError:
        return None


def is_rule(text: str) -> bool:
    """Whether a label is in the language, so that it predicts without a language model."""
    return read_rule(text) is not None


def _read_name(reader: Reader) -> str:
    """The name in front of a rule, or an empty text; raises UsageError for one that is too long."""
    start = reader.at
    name = (reader.take_pattern(NAME) or "").strip()
    if not name or name == WEAK_LEAD[:-1] or not reader.take(":"):
        reader.at = start
        return ""
    if len(name.split()) > NAME_WORDS or len(name) > NAME_CHARACTERS:
        raise UsageError(
            f"The name {name!r} has {len(name.split())} words and {len(name)} characters.",
            f"Use at most {NAME_WORDS} words and {NAME_CHARACTERS} characters before the ':'.",
        )
    return name


def _read_predicate(reader: Reader) -> Predicate:
    weak = reader.take(WEAK_LEAD)
    predicate = Predicate(read_terms(reader), weak=weak)
    while True:
        if reader.take("("):
            if not (reader.take("weak") and reader.take(")")):
                raise reader.error("'weak)'")
            return replace(predicate, weak=True)
        name, value = _read_modifier(reader)
        if name is None:
            return predicate
        if name == "contexts":
            if any(value[0] == known for known, _ in predicate.contexts):
                raise reader.error(f"{value[0]!r} only once")
            contexts = (*predicate.contexts, value)
            value = tuple(sorted(contexts, key=lambda c: CONTEXTS.index(c[0])))
        elif getattr(predicate, name):
            raise reader.error(f"{name!r} only once")
        predicate = replace(predicate, **{name: value})


def _read_modifier(reader: Reader) -> tuple[str | None, Any]:
    """(field of Predicate, its value); (None, None) where no modifier stands here."""
    for lead, name in LEADS.items():
        if reader.take(lead):
            return name, read_terms(reader)
    negated = reader.take("not")
    for phrase in CONTEXTS:
        if reader.take(phrase):
            return "contexts", (phrase, not negated)
    if negated:
        raise reader.error(f"one of: {', '.join(CONTEXTS)}")
    if reader.take("after"):
        slots = [read_terms(reader)]
        while reader.take("then"):
            slots.append(read_terms(reader))
        if len(slots) > MAX_AFTER:
            raise reader.error(f"at most {MAX_AFTER} tokens")
        return "after", tuple(slots)
    if reader.take("within"):
        distance = reader.take_pattern(re.compile(r"\d{1,3}\b"))
        if not distance or not 1 <= int(distance) <= MAX_WITHIN or not reader.take("after"):
            raise reader.error(f"a number from 1 to {MAX_WITHIN} and 'after'")
        return "within", (int(distance), read_terms(reader))
    return None, None


# ---------------------------------------------------------------- predicting


def predict(rule: Rule, annotations: Annotations, ordinals: np.ndarray) -> np.ndarray:
    """The rule's prediction float32 (len(ordinals),), 0 to 1, at tokens of the annotations."""
    ordinals = np.asarray(ordinals, np.int64)
    out = np.zeros(len(ordinals), np.float32)
    for predicate in rule.predicates:
        level = np.float32(WEAK if predicate.weak else 1.0)
        np.maximum(out, level * matches(predicate, annotations, ordinals), out=out)
    return out


def matches(predicate: Predicate, annotations: Annotations, ordinals: np.ndarray) -> np.ndarray:
    """bool (len(ordinals),): the predicate holds at the token.

    Later conditions are looked up only where the earlier ones hold.
    """
    left = np.arange(len(ordinals))  # indices of `ordinals` at which all conditions so far hold
    for relation, terms in slots(predicate):
        where = annotations.related(relation, ordinals[left])
        left = left[(where >= 0) & annotations.are(terms, where)]
    for name, holds in predicate.contexts:
        left = left[((annotations.contexts[ordinals[left]] & CONTEXT_BITS[name]) > 0) == holds]
    if predicate.within:
        distance, terms = predicate.within
        seen = np.zeros(len(left), bool)
        for step in range(1, distance + 1):
            where = annotations.back(ordinals[left], step)
            seen |= (where >= 0) & annotations.are(terms, where)
        left = left[seen]
    if predicate.text is not None:
        left = left[annotations.rows_with(predicate.text, ordinals[left])]
    out = np.zeros(len(ordinals), bool)
    out[left] = True
    return out


def slots(predicate: Predicate) -> list[tuple[str, Terms]]:
    """(relation, terms) of every condition on one related token."""
    conditions = [("here", predicate.here)] if len(predicate.here) else []
    conditions += [
        (f"after {distance}", terms) for distance, terms in enumerate(reversed(predicate.after), 1)
    ]
    return conditions + [
        (name, terms)
        for name in ("before", "line", "call")
        if (terms := getattr(predicate, name)) is not None
    ]

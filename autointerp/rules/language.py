"""The language of rule labels: the printed label is the predictor.

    label     = "unclear" | ["unclear: "] predicate {"; " predicate}       at most 4 predicates and 200 characters
    predicate = terms {modifier} [" (weak)"]
    terms     = alternatives for one token: quoted words, shapes, words that begin alike, words like others (see terms)
    modifier  = "after " terms {" then " terms}                            the one, two or three tokens before, in the order of the text
              | "within " N " after " terms                                one of the N tokens before
              | "before " terms                                            the next token
              | "in a line starting with " terms                           the first token of the line
              | "in brackets opened after " terms                          the token before the innermost open bracket
              | "in a text with " terms                                      some token of the row, before or behind
              | ["not "] context                                           the phrases of contexts.CONTEXTS: "in a docstring", ...

Each kind of modifier stands at most once (contexts: each of them once), all must hold. A token's prediction is the largest level of
the predicates that match it: 1 for strong, WEAK for "(weak)", 0 when none does; "unclear" alone predicts 0 everywhere. Tokens of other rows do not
exist for a rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from autointerp.rules.annotations import CONTEXT_BITS, CONTEXTS, Annotations
from autointerp.rules.terms import Reader, Terms, read_terms, render_terms
from core.errors import UsageError

WEAK = 0.4
MAX_PREDICATES, MAX_CHARACTERS, MAX_AFTER, MAX_WITHIN = 4, 200, 3, 64
UNCLEAR = "unclear"
LEADS = {
    "before": "before",
    "in a line starting with": "line",
    "in brackets opened after": "call",
    "in a text with": "text",
}


@dataclass(frozen=True)
class Predicate:
    """A condition on a token and its surroundings."""

    here: Terms = Terms()
    after: tuple[Terms, ...] = ()  # in the order of the text: the last one is the previous token
    within: tuple[int, Terms] | None = None
    before: Terms | None = None
    line: Terms | None = None
    call: Terms | None = None
    contexts: tuple[tuple[str, bool], ...] = ()  # (phrase, holds)
    weak: bool = False
    text: Terms | None = None


@dataclass(frozen=True)
class Rule:
    """What a label says; `unclear` says that the labeller does not trust it."""

    predicates: tuple[Predicate, ...] = ()
    unclear: bool = False


# ---------------------------------------------------------------- printing


def render(rule: Rule) -> str:
    """The label of a rule; `parse` reads it back."""
    body = "; ".join(_render_predicate(p) for p in rule.predicates)
    if not body:
        return UNCLEAR
    return f"{UNCLEAR}: {body}" if rule.unclear else body


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


# ---------------------------------------------------------------- reading


def parse(text: str) -> Rule:
    """The rule that a label says; raises UsageError when it is not in the language."""
    reader = Reader(text)
    unclear = reader.take(UNCLEAR)
    if unclear and reader.at_end():
        return Rule((), True)
    if unclear and not reader.take(":"):
        raise reader.error("':' after unclear")
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
    return Rule(tuple(predicates), unclear)


@lru_cache(maxsize=1 << 16)
def read_rule(text: str) -> Rule | None:
    """The rule that a label says, or None when it is in free words. A label of every feature is read once a process."""
    try:
        return parse(text)
    except UsageError:
        return None


def is_rule(text: str) -> bool:
    """Whether a label is in the language, so that it predicts without a language model."""
    return read_rule(text) is not None


def _read_predicate(reader: Reader) -> Predicate:
    found = Predicate(read_terms(reader))
    while True:
        if reader.take("("):
            if not (reader.take("weak") and reader.take(")")):
                raise reader.error("'weak)'")
            return replace(found, weak=True)
        name, value = _read_modifier(reader)
        if name is None:
            return found
        if name == "contexts":
            if any(value[0] == known for known, _ in found.contexts):
                raise reader.error(f"{value[0]!r} only once")
            value = tuple(sorted((*found.contexts, value), key=lambda c: CONTEXTS.index(c[0])))
        elif getattr(found, name):
            raise reader.error(f"{name!r} only once")
        found = replace(found, **{name: value})


def _read_modifier(reader: Reader) -> tuple[str | None, object]:
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


def predict(rule: Rule, corpus: Annotations, ordinals: np.ndarray) -> np.ndarray:
    """The rule's prediction float32 (len(ordinals),) at tokens of the corpus."""
    ordinals = np.asarray(ordinals, np.int64)
    out = np.zeros(len(ordinals), np.float32)
    for predicate in rule.predicates:
        np.maximum(
            out,
            np.float32(WEAK if predicate.weak else 1.0) * matches(predicate, corpus, ordinals),
            out=out,
        )
    return out


def matches(predicate: Predicate, corpus: Annotations, ordinals: np.ndarray) -> np.ndarray:
    """bool (len(ordinals),): the predicate holds there. Later conditions are looked up only where the earlier ones hold."""
    alive = np.arange(len(ordinals))
    for relation, terms in slots(predicate):
        where = corpus.related(relation, ordinals[alive])
        alive = alive[(where >= 0) & corpus.are(terms, where)]
    for name, holds in predicate.contexts:
        alive = alive[((corpus.contexts[ordinals[alive]] & CONTEXT_BITS[name]) > 0) == holds]
    if predicate.within:
        distance, terms = predicate.within
        near = ordinals[alive]
        found = np.zeros(len(alive), bool)
        for step in range(1, distance + 1):
            where = corpus.back(near, step)
            found |= (where >= 0) & corpus.are(terms, where)
        alive = alive[found]
    if predicate.text is not None:
        alive = alive[corpus.rows_with(predicate.text, ordinals[alive])]
    out = np.zeros(len(ordinals), bool)
    out[alive] = True
    return out


def slots(predicate: Predicate) -> list[tuple[str, Terms]]:
    """(relation, terms) of every condition on one related token."""
    found = [("here", predicate.here)] if len(predicate.here) else []
    found += [
        (f"after {distance}", terms) for distance, terms in enumerate(reversed(predicate.after), 1)
    ]
    return found + [
        (name, terms)
        for name in ("before", "line", "call")
        if (terms := getattr(predicate, name)) is not None
    ]

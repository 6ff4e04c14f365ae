"""Titles without an LLM: what the labels of a cluster's members say that other labels do not.

A label is read as *marks*: `"if" after "("; digits (weak)` has the marks here "if", kind keywords,
after "(" and kind digits. A title is made of marks that the members of a cluster have and other
features lack, ranked by the z-score of the log-odds with an informative prior (Monroe, Colaresi
and Quinn 2008, equations 15 to 22): at most one kind, some terms, and one mark that says where. A
cluster is also compared with its siblings, the others in its parent or else in its level. Its
title differs from those of the clusters inside it. Where no mark of the labels stands out,
promoted tokens are tried; where none of those does either, the title is `mixed (number)`. Nearly
equal titles are told apart by their next marks, and at last by the number of the cluster.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from autointerp.rules import language as rules
from autointerp.rules.lexemes import SHAPES
from autointerp.rules.terms import LITERAL, Reader, Terms, quote
from core.errors import UsageError

Z = 2.5  # of some hundred marks of a cluster's members, 1 in 160 passes by chance
PRIOR = 10.0  # pseudo-members with the shares of all features
WORDS = 3  # marks in a title, at most
PROMOTED = 5  # promoted tokens of each feature that count as evidence beside its label
MIN_SHARE = 0.2  # share of the members, at least, that have a mark of the title
LONGEST = 44  # characters
MIXED = "mixed"

# Slot -> how its terms stand in a title, in this order.
SLOTS = {
    "kind": "{}",
    "here": "{}",
    "after": "after {}",
    "within": "soon after {}",
    "before": "before {}",
    "line": "in {} lines",
    "call": "in brackets after {}",
    "text": "in texts with {}",
    "context": "{}",
    "promotes": "promotes {}",
}
SEPARATOR = re.compile(r"[;,/]|\bor\b")  # between the phrases of a label in free words
HIDDEN = "\0"  # stands for a literal while the text around it is split

Mark = tuple[str, str]  # (slot, term): ("after", '"("'), ("context", "in a docstring")
RankedMark = tuple[Mark, int, float]  # (mark, members that have it, z)


@dataclass(frozen=True)
class Title:
    """A title and the marks that it is made of; none when mixed."""

    text: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Evidence:
    """What a cluster's title can be made of."""

    ranked: list[RankedMark]  # most telling first
    size: int


def mark_features(
    alive: pd.DataFrame, labels: pd.DataFrame, effects: pd.DataFrame
) -> dict[int, set[Mark]]:
    """The marks of each feature in `alive`: those of its label, and its promoted tokens."""
    of_label = dict(zip(labels["feature"], map(read_marks, labels["text"]), strict=True))
    promoted = {
        feature: {("promotes", quote_token(t)) for t in tokens[:PROMOTED] if t.strip()}
        for feature, tokens in zip(effects["feature"], effects["promoted"], strict=True)
    }
    return {f: of_label.get(f, set()) | promoted.get(f, set()) for f in alive["feature"]}


def gather_evidence(
    members: dict[int, list[int]], parents: dict[int, list[int]], marks: dict[int, set[Mark]]
) -> dict[int, Evidence]:
    """Rank the marks of each cluster of a level.

    `members` are the features of each cluster, `parents` those of the cluster around it. A cluster
    is compared with all features and with its siblings: the others in its parent or, where that
    holds few others, in its level. The smaller z counts, so that a title says what siblings do not;
    where nothing stands out from the siblings, z against all features counts.
    """
    of_all = count_marks(marks, list(marks))
    level = [f for part in members.values() for f in part]
    of_level = count_marks(marks, level)
    out = {}
    for cluster, part in members.items():
        inside = count_marks(marks, part)
        ranked = rank(inside, len(part), of_all, len(marks))
        around, n_around = of_level, len(level)
        parent = parents.get(cluster, [])
        if len(parent) - len(part) >= len(part) / 2:
            around, n_around = count_marks(marks, parent), len(parent)
        if n_around - len(part) >= len(part) / 2:
            near = {mark: z for mark, _, z in rank(inside, len(part), around, n_around)}
            smaller = [(mark, n, min(z, near[mark])) for mark, n, z in ranked]
            if any(z >= Z for _, _, z in smaller):
                ranked = sorted(smaller, key=sort_key)
        out[cluster] = Evidence(ranked, len(part))
    return out


def count_marks(marks: dict[int, set[Mark]], features: list[int]) -> Counter[Mark]:
    """How many of the features have each mark."""
    return Counter(mark for feature in features for mark in marks[feature])


def make_titles(
    evidence: dict[int, Evidence], inside: dict[int, list[str]] | None = None
) -> dict[int, Title]:
    """A title for each cluster of a level.

    No two are equal or nearly so, and none is one of the titles in `inside`, which gives those of
    the clusters inside each cluster.
    """
    candidates = {c: choose_candidates(e.ranked, e.size) for c, e in evidence.items()}
    return tell_apart(candidates, inside or {})


# ------------------------------------------------------------ labels to marks


def read_marks(label: str) -> set[Mark]:
    """The marks of a label.

    A rule is read by the parser of the label language; contexts that must not hold are no marks. Of
    other text, the phrases between separators are marks.
    """
    rule = rules.read_rule(label)
    if rule is None:
        return {mark for phrase in split_phrases(label) for mark in mark_here(phrase)}
    return {mark for predicate in rule.predicates for mark in mark_predicate(predicate)}


def mark_predicate(predicate: rules.Predicate) -> set[Mark]:
    """The marks of one predicate of a rule."""
    marks = {mark for phrase in list_terms(predicate.here) for mark in mark_here(phrase)}
    related: list[tuple[str, Terms]] = [("after", terms) for terms in predicate.after]
    if predicate.within:
        related.append(("within", predicate.within[1]))
    for slot in ("before", "line", "call", "text"):
        terms = getattr(predicate, slot)
        if terms is not None:
            related.append((slot, terms))
    marks |= {(slot, phrase) for slot, terms in related for phrase in list_terms(terms)}
    return marks | {("context", phrase) for phrase, holds in predicate.contexts if holds}


def list_terms(terms: Terms) -> list[str]:
    """Each alternative as a label prints it; of similar words, the words that name them."""
    affixes = [f"{phrase} {quote(part)}" for phrase, part in terms.affixes]
    words = [*terms.literals, *(word for similar in terms.similar for word in similar)]
    return [*map(quote, words), *terms.shapes, *affixes]


def mark_here(phrase: str) -> set[Mark]:
    """The marks of a term for the token itself: its kinds, and the term unless it is a kind."""
    marks = {("kind", kind) for kind in kinds_of(phrase)}
    return marks if phrase in SHAPES else marks | {("here", phrase)}


def split_phrases(text: str) -> Iterator[str]:
    """The phrases of free text between separators outside its quoted words."""
    text = text.replace(HIDDEN, "").removeprefix(rules.UNCLEAR).removeprefix(":")
    literals = iter(LITERAL.findall(text))
    for part in SEPARATOR.split(LITERAL.sub(HIDDEN, text)):
        pieces = part.strip().split(HIDDEN)
        phrase = pieces[0] + "".join(next(literals) + piece for piece in pieces[1:])
        if phrase:
            yield phrase


def kinds_of(term: str) -> list[str]:
    """The shapes, in the plural, of a quoted term, or of the term that names one.

    `a word` is left out, since it says less than the others.
    """
    lexeme = unquote(term)
    if lexeme is None:
        return [pluralise(term)] if term in SHAPES else []
    return [pluralise(s) for s, has in SHAPES.items() if has(lexeme) and s != "a word"]


def unquote(term: str) -> str | None:
    """The text of a term that is one literal; None for any other."""
    if LITERAL.fullmatch(term) is None:
        return None
    try:
        return Reader(term).take_literal()
    except UsageError:  # quotation marks around what is no JSON string
        return term[1:-1]


def pluralise(shape: str) -> str:
    """`an operator` -> `operators`; `digits` stays."""
    article, _, rest = shape.partition(" ")
    return rest + "s" if article in ("a", "an") else shape


def quote_token(token: str) -> str:
    return json.dumps(token.strip(), ensure_ascii=False)


# ------------------------------------------------------------ marks to titles


def sort_key(ranked: RankedMark) -> tuple[bool, float, Mark]:
    """Marks of labels come before promoted tokens; within each, the largest z first."""
    mark, _, z = ranked
    return mark[0] == "promotes", -z, mark


def rank(
    inside: Counter[Mark], n_inside: int, everyone: Counter[Mark], n_everyone: int
) -> list[RankedMark]:
    """The marks of a cluster, most telling first.

    z compares the log-odds that a member has the mark with those of all features outside the
    cluster, both with PRIOR pseudo-members that have it as often as all features do. All four cells
    count in its variance, because a mark can be common, where Monroe's words are rare.
    """
    ranked = []
    for mark, n in inside.items():
        # Never 0 nor 1 times PRIOR, so that no cell is empty.
        prior = PRIOR * (everyone[mark] + 0.5) / (n_everyone + 1)
        a, b = n + prior, everyone[mark] - n + prior
        a_not, b_not = n_inside + PRIOR - a, n_everyone - n_inside + PRIOR - b
        z = (np.log(a / a_not) - np.log(b / b_not)) / np.sqrt(1 / a + 1 / a_not + 1 / b + 1 / b_not)
        ranked.append((mark, n, float(z)))
    return sorted(ranked, key=sort_key)


def choose_candidates(ranked: list[RankedMark], size: int) -> list[Mark]:
    """Marks that may stand in the title of a cluster of `size` members.

    They stand out by Z, and two members have a term, or MIN_SHARE of them any other mark. A kind
    that half of the members have leads where more have it than the first mark: `operators: "-"`
    says more than `"-", "*", "/"`. Terms of white space are left out, since nobody can read them.
    Empty where the title would reach too few members.
    """
    least = max(2, MIN_SHARE * size)
    candidates = [
        mark
        for mark, n, z in ranked
        if z >= Z and n >= (2 if mark[0] == "here" else least) and not is_blank(mark[1])
    ]
    counts = {mark: n for mark, n, _ in ranked}
    leading = [
        mark
        for mark in candidates
        if mark[0] == "kind" and counts[mark] >= size / 2 and counts[mark] > counts[candidates[0]]
    ][:1]
    candidates = leading + [mark for mark in candidates if mark not in leading]
    reached = sum(counts[mark] for mark in choose(candidates, 0))
    return candidates if reached >= MIN_SHARE * size else []


def is_blank(term: str) -> bool:
    lexeme = unquote(term)
    return lexeme is not None and not lexeme.strip()


def choose(marks: list[Mark], skip: int, most: int = WORDS) -> list[Mark]:
    """Up to `most` ranked marks that fit together, without `skip` marks after the first."""
    chosen: list[Mark] = []
    for mark in marks[:1] + marks[1 + skip :]:
        if len(chosen) < most and fits(mark, chosen):
            chosen.append(mark)
    return chosen


def fits(mark: Mark, chosen: list[Mark]) -> bool:
    """Whether a mark can join those chosen for a title.

    A title has one kind, which terms of that kind may follow but which follows no term; one place;
    promoted tokens only by themselves; and at most LONGEST characters.
    """
    if not chosen:
        return True
    role, roles = role_of(mark), {role_of(m) for m in chosen}
    if (role == "promotes") != ("promotes" in roles):
        return False
    if len(render_marks([*chosen, mark])) > LONGEST:
        return False
    if role == "here":
        return all(term in kinds_of(mark[1]) for slot, term in chosen if slot == "kind")
    return role == "promotes" or (role not in roles and not (role == "kind" and "here" in roles))


def role_of(mark: Mark) -> str:
    return mark[0] if mark[0] in ("kind", "here", "promotes") else "place"


def tell_apart(
    marks: dict[int, list[Mark]], inside: dict[int, list[str]], most: int = WORDS
) -> dict[int, Title]:
    """A title of at most `most` marks for each cluster, in order of cluster.

    Where a title is nearly that of a cluster before it or of one inside it (`inside`), the next
    marks are tried, and at last the number of the cluster is added.
    """
    taken: list[str] = []
    titles = {}
    for cluster in sorted(marks):
        n_options = max(1, len(marks[cluster]))
        options = [choose(marks[cluster], skip, most) for skip in range(n_options)]
        used = taken + inside.get(cluster, [])
        new = next((o for o in options if o and not is_like_any(render_marks(o), used)), None)
        if new is not None:
            title = Title(render_marks(new), tuple(new))
        else:
            text = f"{render_marks(options[0]) or MIXED} ({cluster})"
            title = Title(text, tuple(options[0]))
        titles[cluster] = title
        taken.append(title.text)
    return titles


def is_like_any(title: str, others: list[str]) -> bool:
    return any(are_alike(title, other) for other in others)


def are_alike(a: str, b: str) -> bool:
    """Whether two titles share four of five of their words, ignoring case and order."""
    ours, theirs = (set(re.findall(r"\"(?:[^\"\\]|\\.)*\"|[^\s,:;.]+", t.lower())) for t in (a, b))
    return len(ours & theirs) >= 0.8 * max(len(ours | theirs), 1)


def render_marks(marks: list[Mark]) -> str:
    """Marks as a person would say them: `operators: "+", "*" after "("`."""
    parts = []
    for slot, form in SLOTS.items():
        terms = [term for s, term in marks if s == slot]
        if not terms:
            continue
        if slot == "line":  # `in keyword lines`
            terms = [pluralise(term)[:-1] if term in SHAPES else term for term in terms]
        between = ", " if slot in ("here", "context", "promotes") else " or "
        parts.append(form.format(between.join(terms)))
    leads = {"kind", "here"} <= {slot for slot, _ in marks}
    return parts[0] + ": " + " ".join(parts[1:]) if leads else " ".join(parts)

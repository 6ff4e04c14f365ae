"""What the parts of a rule name on tokens of the val split, and whether that makes the label clear.

A reader sees the first part of a label. So the parts stand in the order of how much of the upper
half of the activity each names, and a label is clear only where its first part names enough of it,
is right often enough, and says one thing: a list of words without a name counts as many things as
words carry its activation (the squared sum over the sum of squares; "cat", "Cat" and "cats" are one
word, and so is a shape, an ending, or a group of words that the subject puts together).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.rules.names import FIRES, LEADS, Namer
from autointerp.rules.search import Target
from autointerp.rules.token_table import Option, sort_distinct

COVERED = 0.2  # share of the activation that a clear label names
LED = 0.3  # share of the activation of the stronger half of the firings that its first part names
RIGHT = 0.1  # share of the tokens that its first part matches on which the feature fires
HEAP = 2.05  # things in the first part, from which on they need a name
SEEN = 3  # tokens of a word, from which on the word counts
MOST_WORDS = 0.5  # share of the words of a group on which the feature fires, to be one thing


@dataclass(frozen=True)
class Look:
    """What the parts of a rule match on one table of tokens; shares are of activation."""

    order: list[int]  # numbers of the parts; the one that names most of the upper half is first
    name: str  # of the first part; empty without one
    covered: float  # share that all parts together name
    led: float  # share of the stronger half of the firings that the first part names
    right: float  # share of the tokens that the first part matches on which the feature fires
    things: float  # how many things the words of the first part are

    def is_clear(self, name: str) -> bool:
        """Whether a label of this name names enough, often enough, and one thing."""
        enough = self.covered >= COVERED and self.led >= LED and self.right >= RIGHT
        return enough and (bool(name) or self.things < HEAP)


NOTHING = Look([], "", 0.0, 0.0, 0.0, 0.0)


def look(target: Target, parts: list[list[Option]], namer: Namer) -> Look:
    """Measure a rule, given as the options of its parts, on the tokens of `target`."""
    activation = target.activation
    total = float(activation[target.firing].sum())
    if not parts or total <= 0:
        return NOTHING
    matched = [target.table.matches(options) for options in parts]
    upper = strong_half(target)
    shares = [float(upper[at].sum()) / float(upper.sum()) for at in matched]
    order = sorted(range(len(parts)), key=lambda i: -shares[i])
    first, options = matched[order[0]], parts[order[0]]
    slots = {option.slot for option in options if option.kind == "words"}
    relations = [relation for relation in LEADS if relation in slots]
    rests = {option.slot: _match_others(target, options, option) for option in options}
    every = sort_distinct(np.concatenate(matched))
    return Look(
        order,
        namer.name(first, activation, relations, rests),
        float(activation[every].sum()) / total,
        shares[order[0]],
        float((activation[first] > 0).mean()) if len(first) else 0.0,
        count_things(target, options, first, rests),
    )


def _match_others(target: Target, options: Sequence[Option], one: Option) -> np.ndarray | None:
    """The tokens on which all options but one hold; None for all tokens."""
    others = [option for option in options if option is not one]
    return target.table.matches(others) if others else None


def strong_half(target: Target) -> np.ndarray:
    """(N,) the activation where it is among the stronger half of the firings, else 0."""
    values = target.activation[target.firing]
    least = np.sort(values)[len(values) // 2]
    return np.where(target.activation >= least, target.activation, 0.0)


def count_things(
    target: Target,
    options: Sequence[Option],
    matched: np.ndarray,
    rests: dict[str, np.ndarray | None],
) -> float:
    """The most things that the words of one slot are, by the activation that each carries."""
    words = [o for o in options if o.kind == "words" and o.slot in target.table.views]
    counts = (_count_words(target, option, matched, rests[option.slot]) for option in words)
    return max(counts, default=1.0)


def _count_words(
    target: Target, option: Option, matched: np.ndarray, rest: np.ndarray | None
) -> float:
    table, view = target.table, target.table.views[option.slot]
    mass = np.bincount(view[matched], target.activation[matched], table.n_codes)
    fires = np.bincount(
        view[target.firing if rest is None else rest[target.activation[rest] > 0]],
        minlength=table.n_codes,
    )
    places = (
        table.total_counts(option.slot)
        if rest is None
        else np.bincount(view[rest], minlength=table.n_codes)
    )
    things: dict[str | int, float] = defaultdict(float)
    values = list(option.values)
    for number in option.groups:
        codes = table.words.codes(number)
        if is_whole(fires[codes], places[codes]):
            things[number] += float(mass[codes].sum())
            mass[codes] = 0.0
        else:
            values += codes.tolist()
    for code in dict.fromkeys(values):
        things[fold_word(table.annotations.lexemes[code])] += float(mass[code])
    carried = np.array(list(things.values()))
    return float(carried.sum() ** 2 / max(float(carried @ carried), 1e-12))


def is_whole(fires: np.ndarray, places: np.ndarray) -> bool:
    """Whether a feature fires on most words of a group: `fires` of `places` tokens of each word.

    Words that hardly stand in the text say nothing.
    """
    known = places >= SEEN
    return bool(known.any() and (fires[known] >= FIRES * places[known]).mean() >= MOST_WORDS)


def fold_word(text: str) -> str:
    """The word without case and plural; of signs the first, and of white space one."""
    if not any(map(str.isalnum, text)):
        return text[:1] if not text.isspace() else " "
    lower = text.lower()
    return lower.removesuffix("s") if len(lower) > 3 else lower

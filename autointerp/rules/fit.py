"""Fit a rule to every live feature from its postings: exact counts, no model, no LLM.

Rules are searched on whole documents of `train`, at most MAX_TOKENS tokens of them, drawn by the seed; which conditions and how many predicates to keep,
whether a guess by tokens does as well, and the confidence come from `val`, likewise drawn. `test` is never looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.rules.annotations import Annotations
from autointerp.rules.language import MAX_CHARACTERS, MAX_PREDICATES, UNCLEAR, WEAK, Rule, render
from autointerp.rules.search import Cover, Target, grow, predicate, shorten
from autointerp.rules.token_table import Option, TokenTable
from autointerp.rules.word_groups import WordGroups
from core.firings.postings import Postings
from core.parallel import in_workers
from core.text.tokens import Tokens

MAX_TOKENS = 600_000  # of each split
CLEAR = 0.15  # correlation on val below which a label says `unclear`
GAIN = (
    0.004  # of correlation on val that one more predicate, or one more condition of it, must bring
)
GUESSED = 3  # tokens of a guess
CHUNK = 16  # features that are read, and handed to a worker, at a time


@dataclass(frozen=True)
class FittedRule:
    """A feature's label, and how far its labeller trusts it."""

    feature: int
    rule: Rule
    text: str  # what `parse` reads back as `rule`
    kind: str  # token, field, shape, n-gram, next, context, unclear
    confidence: float  # correlation with the activation on the val tokens, 0 where it is negative or undefined
    n_firings: int  # in train


def fit_rules(
    postings: Postings,
    tokens: Tokens,
    corpus: Annotations,
    features: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Iterator[FittedRule]:
    """A rule for each of `features` (all by default) that fires in train, in order; `progress` is told how many are done.

    More than one worker forks the process; the rules are the same.
    """
    fitter = Fitter.build(postings, tokens, corpus, seed)
    wanted = np.unique(
        np.arange(postings.n_features) if features is None else np.asarray(features, np.int64)
    )
    parts = [wanted[a : a + CHUNK] for a in range(0, len(wanted), CHUNK)]
    done = 0
    for part, fitted in zip(parts, in_workers(fitter, parts, workers), strict=True):
        yield from fitted
        done += len(part)
        if progress:
            progress(done)


@dataclass(frozen=True)
class Fitter:
    """The grounds that every feature is fitted on, and a scratch activation for each."""

    postings: Postings
    corpus: Annotations
    in_train: np.ndarray  # (n,) bool
    grounds: tuple[TokenTable, TokenTable]  # train, val
    scratch: tuple[np.ndarray, np.ndarray]  # zeros between features

    @classmethod
    def build(cls, postings: Postings, tokens: Tokens, corpus: Annotations, seed: int) -> Fitter:
        words = WordGroups.build(corpus)
        train, val = (
            TokenTable.build(tokens, corpus, split, MAX_TOKENS, seed, words)
            for split in ("train", "val")
        )
        return cls(
            postings,
            corpus,
            tokens.in_split("train"),
            (train, val),
            (np.zeros(len(train)), np.zeros(len(val))),
        )

    def __call__(self, features: np.ndarray) -> list[FittedRule]:
        """The rules of an ascending list of features; the postings between the first and the last are read in one go."""
        if not len(features):
            return []
        first = int(features[0])
        block = (
            next(self.postings.blocks(first, int(features[-1]) + 1, CHUNK))
            if features[-1] - first < CHUNK
            else None
        )
        firings = (
            block[1][f - first] if block else self.postings.firings(int(f)) for f in features
        )
        fitted = (self.fit(int(f), *found) for f, found in zip(features, firings, strict=True))
        return [f for f in fitted if f is not None]

    def fit(self, feature: int, ordinals: np.ndarray, activations: np.ndarray) -> FittedRule | None:
        """The rule of one feature from all its firings; None when it does not fire in train."""
        inside = self.in_train[ordinals]
        if not inside.any():
            return None
        train, val = (
            _target(ground, dense, ordinals, activations)
            for ground, dense in zip(self.grounds, self.scratch, strict=True)
        )
        found = [pruned(options, val) for options in search(train)]
        rule, confidence = _cut(found, train, val)
        guessed = guess(self.corpus, ordinals[inside], activations[inside])
        by_guess = score_alone(val, guessed)
        if (
            by_guess > confidence + GAIN or confidence < CLEAR and by_guess >= confidence
        ):  # a clear rule also says why those tokens
            rule, confidence = Rule((predicate(train, guessed, False),)), by_guess
        for target in (train, val):
            target.activation[target.firing] = 0
        rule = Rule(rule.predicates, confidence < CLEAR)
        return FittedRule(
            feature, rule, render(rule), kind_of(rule), max(confidence, 0.0), int(inside.sum())
        )


def guess(corpus: Annotations, ordinals: np.ndarray, activations: np.ndarray) -> list[Option]:
    """The tokens on which most of the activation lies: what to say of a feature that no rule is worth its words for."""
    mass = np.bincount(corpus.codes[ordinals], activations)
    codes = [int(code) for code in np.argsort(-mass, kind="stable")[:GUESSED] if mass[code] > 0]
    return [
        Option(
            "here",
            "words",
            tuple(code for code in codes if len(corpus.lexemes[code]) < 20) or (codes[0],),
        )
    ]


def score_alone(target: Target, options: list[Option]) -> float:
    """The correlation of one predicate by itself."""
    at = target.ground.matches(options)
    return float(target.correlation(target.activation[at].sum(), len(at), len(at)))


def pruned(options: list[Option], val: Target) -> list[Option]:
    """The options without those that do not help on tokens that they were not found on: a feature that fires seldom is easily described too well."""
    value = score_alone(val, options)
    while len(options) > 1:
        fewer = [options[:i] + options[i + 1 :] for i in range(len(options))]
        values = [score_alone(val, o) if any(x.kind == "words" for x in o) else -1.0 for o in fewer]
        best = int(np.argmax(values))
        if values[best] < value - GAIN:
            break
        options, value = fewer[best], values[best]
    return options


def _target(
    ground: TokenTable, dense: np.ndarray, ordinals: np.ndarray, activations: np.ndarray
) -> Target:
    """The feature on a ground; `dense` (N,) of zeros becomes its activation."""
    places = ground.places[ordinals]
    firing = places[places >= 0]
    dense[firing] = activations[places >= 0]
    return Target.build(ground, dense, firing)


def search(target: Target) -> list[list[Option]]:
    """Up to MAX_PREDICATES conjunctions, the most useful first."""
    n, room = len(target.ground), MAX_CHARACTERS - len(f"{UNCLEAR}: ")
    cover, found, matched = Cover(0.0, 0.0, 0.0, np.zeros(n, bool), np.zeros(0, np.int64)), [], []
    while len(found) < MAX_PREDICATES and (options := shorten(target, grow(target, cover), room)):
        found.append(options)
        room -= len(render(Rule((predicate(target, options, True),)))) + len("; ")
        matched.append(target.ground.matches(options))
        masses, counts = cells(matched, target.activation)
        y = cell_values(best_levels(target, masses, counts))
        cover.mask[matched[-1]] = True
        cover = Cover(
            float(y @ masses),
            float(y @ counts),
            float(y**2 @ counts),
            cover.mask,
            np.flatnonzero(cover.mask),
        )
    return found


def _cut(found: list[list[Option]], train: Target, val: Target) -> tuple[Rule, float]:
    """The first predicates, as many as pay on val, and their correlation there."""
    best, value = Rule(), 0.0
    here, there = [train.ground.matches(o) for o in found], [val.ground.matches(o) for o in found]
    for k in range(1, len(found) + 1):
        levels = best_levels(train, *cells(here[:k], train.activation))
        masses, counts = cells(there[:k], val.activation)
        y = cell_values(levels)
        r = float(val.correlation(y @ masses, y @ counts, y**2 @ counts))
        if k == 1 or r > value + GAIN:
            best, value = (
                Rule(
                    tuple(predicate(train, o, v < 1) for o, v in zip(found, levels, strict=False))
                ),
                r,
            )
    return best, value


# ---------------------------------------------------------------- levels


def cells(matched: list[np.ndarray], activation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(activation mass, count), each (2 ** k,), of the tokens on which each combination of the k predicates matches; 0 for none."""
    size = 1 << len(matched)
    at = np.concatenate(matched)
    order = np.argsort(at, kind="stable")
    at, bit = at[order], np.repeat(1 << np.arange(len(matched)), [len(m) for m in matched])[order]
    if not len(at):
        return np.zeros(size), np.zeros(size)
    begins = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
    code = np.add.reduceat(bit, begins)
    return np.bincount(code, activation[at[begins]], size), np.bincount(
        code, minlength=size
    ).astype(float)


def cell_values(levels: tuple[float, ...]) -> np.ndarray:
    """The prediction (2 ** k,) of each combination of matching predicates: the largest of their levels."""
    members = (np.arange(1 << len(levels))[:, None] >> np.arange(len(levels))) & 1
    return (members * np.array(levels)).max(1)


def best_levels(target: Target, masses: np.ndarray, counts: np.ndarray) -> tuple[float, ...]:
    """The levels, at least one of them strong, that correlate best."""
    k = len(masses).bit_length() - 1
    tried = [levels for levels in itertools.product((1.0, WEAK), repeat=k) if 1.0 in levels]
    values = np.array([cell_values(levels) for levels in tried])
    return tried[
        int(np.argmax(target.correlation(values @ masses, values @ counts, values**2 @ counts)))
    ]


# ---------------------------------------------------------------- the label


def kind_of(rule: Rule) -> str:
    """What sort of evidence the first predicate rests on."""
    if rule.unclear:
        return "unclear"
    p = rule.predicates[0]
    if p.contexts or p.line or p.call or p.within or p.text:
        return "context"
    if p.after:
        return "n-gram"
    if p.before:
        return "next"
    if p.here.fields:
        return "field"
    return "shape" if p.here.shapes or p.here.affixes else "token"

"""Fit a rule to every feature from its postings: exact counts, no model, no LLM.

Rules are searched on whole documents of the train split, drawn by the seed, up to MAX_TOKENS
tokens. The val split, drawn likewise, decides how many conditions and predicates are kept, whether
a fallback to the strongest tokens does as well, and the confidence. The test split is never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from autointerp.rules.annotations import Annotations
from autointerp.rules.clarity import look
from autointerp.rules.language import (
    MAX_CHARACTERS,
    MAX_PREDICATES,
    UNCLEAR,
    WEAK,
    Predicate,
    Rule,
    render,
)
from autointerp.rules.names import Namer
from autointerp.rules.predicate import make_predicate, shorten
from autointerp.rules.search import Cover, Target, grow
from autointerp.rules.token_table import Option, TokenTable
from autointerp.rules.word_groups import WordGroups
from core.firings.postings import Postings
from core.parallel import map_in_workers
from core.text.tokens import Tokens
from core.workers import INLINE, Engine

MAX_TOKENS = 600_000  # of each split
CLEAR = 0.15  # correlation on val below which a label says `unclear`
GAIN = 0.004  # correlation on val that one more predicate, or one more condition of it, must add
WORD_GAIN = 0.002  # the same for one more quoted word
FALLBACK_TOKENS = 3  # tokens of a fallback label
CHUNK = 16  # features that a worker reads and fits at a time


@dataclass(frozen=True)
class FittedRule:
    """A feature's label, and how much its labeller trusts it."""

    feature: int
    rule: Rule
    text: str  # what `parse` reads back as `rule`
    kind: str  # token, field, shape, n-gram, next, context, unclear
    confidence: float  # correlation with the activation on val tokens; 0 if negative or undefined
    n_firings: int  # in train


def fit_rules(
    postings: Postings,
    tokens: Tokens,
    annotations: Annotations,
    features: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
    engine: Engine = INLINE,
) -> Iterator[FittedRule]:
    """Yield a rule for each of `features` (default: all) that fires in train, ascending.

    `progress` is called with the number of features that are done. The rules are the same on
    every engine.
    """
    fitter = Fitter.build(postings, tokens, annotations, seed)
    wanted = np.unique(
        np.arange(postings.n_features) if features is None else np.asarray(features, np.int64)
    )
    parts = [wanted[a : a + CHUNK] for a in range(0, len(wanted), CHUNK)]
    done = 0
    for part, fitted in zip(parts, map_in_workers(fitter, parts, engine), strict=True):
        yield from fitted
        done += len(part)
        if progress:
            progress(done)


@dataclass(frozen=True)
class Fitter:
    """The tables that every feature is fitted on."""

    postings: Postings
    annotations: Annotations
    in_train: np.ndarray  # (n,) bool
    tables: tuple[TokenTable, TokenTable]  # train, val
    namer: Namer

    @cached_property
    def scratch(self) -> tuple[np.ndarray, np.ndarray]:
        """An array for each table, zeros between features; every worker has its own."""
        return np.zeros(len(self.tables[0])), np.zeros(len(self.tables[1]))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "scratch"}

    @classmethod
    def build(
        cls, postings: Postings, tokens: Tokens, annotations: Annotations, seed: int
    ) -> Fitter:
        """The tables of train and val."""
        words = WordGroups.build(annotations)
        train, val = (
            TokenTable.build(tokens, words, split, MAX_TOKENS, seed) for split in ("train", "val")
        )
        return cls(
            postings,
            annotations,
            tokens.in_split("train"),
            (train, val),
            Namer.build(val),
        )

    def __call__(self, features: np.ndarray) -> list[FittedRule]:
        """The rules of an ascending list of features; near features are read in one block."""
        if not len(features):
            return []
        first, last = int(features[0]), int(features[-1])
        if last - first < CHUNK:
            _, block = next(self.postings.blocks(first, last + 1, CHUNK))
            firings = [block[int(f) - first] for f in features]
        else:
            firings = [self.postings.firings(int(f)) for f in features]
        fitted = (self.fit(int(f), *each) for f, each in zip(features, firings, strict=True))
        return [rule for rule in fitted if rule is not None]

    def fit(self, feature: int, ordinals: np.ndarray, activations: np.ndarray) -> FittedRule | None:
        """The rule of one feature from all its firings; None when it does not fire in train."""
        inside = self.in_train[ordinals]
        if not inside.any():
            return None
        train, val = (
            _make_target(table, dense, ordinals, activations)
            for table, dense in zip(self.tables, self.scratch, strict=True)
        )
        conjunctions = [prune_words(prune(o, val), val) for o in search(train)]
        rule, confidence = _choose_rule(conjunctions, train, val)
        kept = conjunctions[: len(rule.predicates)]
        fallback = choose_fallback(self.annotations, ordinals[inside], activations[inside])
        alone = score_alone(val, fallback)
        # A clear rule is preferred at equal scores, because it also says where those tokens count.
        if alone > confidence + GAIN or confidence < CLEAR and alone >= confidence:
            rule, confidence = Rule((make_predicate(train, fallback, False),)), alone
            kept = [fallback]
        seen = look(val, kept, self.namer)
        for target in (train, val):
            target.activation[target.firing] = 0
        rule = Rule(tuple(rule.predicates[i] for i in seen.order) or rule.predicates)
        named = name_rule(rule.predicates, seen.name)
        clear = confidence >= CLEAR and seen.is_clear(named.name)
        rule = named if clear else Rule(rule.predicates, True)
        return FittedRule(
            feature, rule, render(rule), kind_of(rule), max(confidence, 0.0), int(inside.sum())
        )


def name_rule(predicates: tuple[Predicate, ...], name: str) -> Rule:
    """The rule with its name, without it where the label would be too long."""
    named = Rule(predicates, name=name)
    return named if len(render(named)) <= MAX_CHARACTERS else Rule(predicates)


def choose_fallback(
    annotations: Annotations, ordinals: np.ndarray, activations: np.ndarray
) -> list[Option]:
    """Fallback label: the tokens that carry most of the activation.

    For features that no rule describes well enough.
    """
    mass = np.bincount(annotations.codes[ordinals], activations)
    heaviest = np.argsort(-mass, kind="stable")[:FALLBACK_TOKENS].tolist()
    codes = [code for code in heaviest if mass[code] > 0]
    short = tuple(code for code in codes if len(annotations.lexemes[code]) < 20)
    return [Option("here", "words", short or (codes[0],))]


def score_alone(target: Target, options: list[Option]) -> float:
    """The correlation of a single predicate with the activation."""
    at = target.table.matches(options)
    return float(target.correlation(target.activation[at].sum(), len(at), len(at)))


def prune(options: list[Option], val: Target) -> list[Option]:
    """Drop the options that do not help on val; rules of rare features overfit easily."""
    value = score_alone(val, options)
    while len(options) > 1:
        fewer = [options[:i] + options[i + 1 :] for i in range(len(options))]
        values = [score_alone(val, o) if any(x.kind == "words" for x in o) else -1.0 for o in fewer]
        best = int(np.argmax(values))
        if values[best] < value - GAIN:
            break
        options, value = fewer[best], values[best]
    return options


def prune_words(options: list[Option], val: Target) -> list[Option]:
    """Drop the quoted words that do not help on val, the lightest first; each set keeps one term.

    A word that stands in a label for three firings of train makes it hard to read.
    """
    for place, option in enumerate(options):
        if option.kind != "words" or option.slot not in val.table.views or option.n_terms < 2:
            continue
        at = val.table.matches(options)
        codes = val.table.views[option.slot][at]
        mass = np.bincount(codes, val.activation[at], val.table.n_codes)
        counts = np.bincount(codes, minlength=val.table.n_codes)
        kept, grouped = list(option.values), _grouped_codes(option, val.table)
        total, n = float(mass.sum()), float(counts.sum())
        value = float(val.correlation(total, n, n))
        for code in sorted(option.values, key=lambda c: mass[c]):
            if len(kept) + len(option.groups) == 1:
                break
            mass_left = total if code in grouped else total - float(mass[code])
            n_left = n if code in grouped else n - float(counts[code])
            without = float(val.correlation(mass_left, n_left, n_left))
            if without >= value - WORD_GAIN:
                kept.remove(code)
                total, n, value = mass_left, n_left, without
        options = [*options[:place], replace(option, values=tuple(kept)), *options[place + 1 :]]
    return options


def _grouped_codes(option: Option, table: TokenTable) -> set[int]:
    return {code for group in option.groups for code in table.words.codes(group).tolist()}


def _make_target(
    table: TokenTable, dense: np.ndarray, ordinals: np.ndarray, activations: np.ndarray
) -> Target:
    """The feature on one table; `dense` (N,) of zeros is filled with its activation."""
    places = table.places[ordinals]
    firing = places[places >= 0]
    dense[firing] = activations[places >= 0]
    return Target.build(table, dense, firing)


def search(target: Target) -> list[list[Option]]:
    """Up to MAX_PREDICATES conjunctions of options, the most useful first."""
    n, room = len(target.table), MAX_CHARACTERS - len(f"{UNCLEAR}: ")
    cover = Cover(0.0, 0.0, 0.0, np.zeros(n, bool), np.zeros(0, np.int64))
    found: list[list[Option]] = []
    matched: list[np.ndarray] = []
    while len(found) < MAX_PREDICATES and (options := shorten(target, grow(target, cover), room)):
        found.append(options)
        room -= len(render(Rule((make_predicate(target, options, True),)))) + len("; ")
        matched.append(target.table.matches(options))
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


def _choose_rule(
    conjunctions: list[list[Option]], train: Target, val: Target
) -> tuple[Rule, float]:
    """The first predicates, as many as improve the correlation on val, and that correlation."""
    best, value = Rule(), 0.0
    here = [train.table.matches(options) for options in conjunctions]
    there = [val.table.matches(options) for options in conjunctions]
    for k in range(1, len(conjunctions) + 1):
        levels = best_levels(train, *cells(here[:k], train.activation))
        masses, counts = cells(there[:k], val.activation)
        y = cell_values(levels)
        r = float(val.correlation(y @ masses, y @ counts, y**2 @ counts))
        if k == 1 or r > value + GAIN:
            pairs = zip(conjunctions, levels, strict=False)
            best = Rule(tuple(make_predicate(train, options, v < 1) for options, v in pairs))
            value = r
    return best, value


# ---------------------------------------------------------------- levels


def cells(matched: list[np.ndarray], activation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(activation mass, count), each (2 ** k,), of tokens by the combination of predicates there.

    `matched` holds the indices that each of the k predicates matches. Entry 0, no predicate, is 0.
    """
    size = 1 << len(matched)
    at = np.concatenate(matched)
    order = np.argsort(at, kind="stable")
    at, bit = at[order], np.repeat(1 << np.arange(len(matched)), [len(m) for m in matched])[order]
    if not len(at):
        return np.zeros(size), np.zeros(size)
    begins = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
    code = np.add.reduceat(bit, begins)
    masses = np.bincount(code, activation[at[begins]], size)
    return masses, np.bincount(code, minlength=size).astype(float)


def cell_values(levels: tuple[float, ...]) -> np.ndarray:
    """The prediction (2 ** k,) of each combination of predicates: their largest level."""
    members = (np.arange(1 << len(levels))[:, None] >> np.arange(len(levels))) & 1
    return (members * np.array(levels)).max(1)


def best_levels(target: Target, masses: np.ndarray, counts: np.ndarray) -> tuple[float, ...]:
    """The level of each predicate, 1 or WEAK, that correlates best; at least one is 1."""
    k = len(masses).bit_length() - 1
    tried = [levels for levels in itertools.product((1.0, WEAK), repeat=k) if 1.0 in levels]
    values = np.array([cell_values(levels) for levels in tried])
    scores = target.correlation(values @ masses, values @ counts, values**2 @ counts)
    return tried[int(np.argmax(scores))]


# ---------------------------------------------------------------- the label


def kind_of(rule: Rule) -> str:
    """The kind of evidence that the first predicate rests on."""
    if rule.unclear:
        return "unclear"
    p = rule.predicates[0]
    if p.contexts or p.line or p.call or p.within or p.text:
        return "context"
    if p.after:
        return "n-gram"
    if p.before:
        return "next"
    if p.here.similar:
        return "field"
    return "shape" if p.here.shapes or p.here.affixes else "token"

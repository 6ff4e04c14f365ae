"""Fit a rule to every live feature from its postings: exact counts, no model, no LLM.

Rules are searched on whole documents of `explain`, at most MAX_TOKENS tokens of them, drawn by the seed; how many predicates to keep and the confidence
come from `calibrate`, likewise drawn. `score` is never looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.contexts import Corpus
from autointerp.postings import Postings
from autointerp.rule_search import Cover, Target, grow
from autointerp.rule_tables import Ground, Option
from autointerp.rules import MAX_CHARACTERS, MAX_PREDICATES, WEAK, Rule, render
from core.corpus import Tokens

MAX_TOKENS = 700_000
CLEAR = 0.15  # correlation on calibrate below which a label says `unclear`
GAIN = 0.004  # of correlation on calibrate that one more predicate must bring


@dataclass(frozen=True)
class FittedRule:
    feature: int
    rule: Rule
    text: str  # what `parse` reads back as `rule`
    kind: str  # token, shape, n-gram, next, context, unclear
    confidence: float  # correlation with the activation on the calibrate tokens, 0 where it is negative or undefined
    n_firings: int  # on the tokens that it was fitted on


def fit_rules(
    postings: Postings,
    tokens: Tokens,
    corpus: Corpus,
    features: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> Iterator[FittedRule]:
    """A rule for each of `features` (all by default) that fires in explain, in order; `progress` is told how many are done."""
    explain, calibrate = (Ground.build(tokens, corpus, split, MAX_TOKENS, seed) for split in ("explain", "calibrate"))
    scratch = np.zeros(len(explain)), np.zeros(len(calibrate))
    wanted = None if features is None else {int(f) for f in features}
    done = 0
    for first, block in postings.blocks():
        for feature, (ordinals, activations) in enumerate(block, first):
            if wanted is not None and feature not in wanted:
                continue
            targets = [_target(ground, dense, ordinals, activations) for ground, dense in zip((explain, calibrate), scratch, strict=True)]
            if len(targets[0].firing):
                yield fit_feature(feature, *targets)
            for target in targets:
                target.activation[target.firing] = 0
            done += 1
            if progress:
                progress(done)


def _target(ground: Ground, dense: np.ndarray, ordinals: np.ndarray, activations: np.ndarray) -> Target:
    """The feature on a ground; `dense` (N,) of zeros becomes its activation."""
    places = ground.places[ordinals]
    firing = places[places >= 0]
    dense[firing] = activations[places >= 0]
    return Target.build(ground, dense, firing)


def fit_feature(feature: int, explain: Target, calibrate: Target) -> FittedRule:
    """The rule of one feature that fires on explain."""
    predicates = search(explain)
    rule, confidence = _cut(predicates, explain, calibrate)
    rule = shorten(Rule(rule.predicates, confidence < CLEAR))
    return FittedRule(feature, rule, render(rule), kind_of(rule), max(confidence, 0.0), len(explain.firing))


def search(target: Target) -> list[list[Option]]:
    """Up to MAX_PREDICATES conjunctions, the most useful first."""
    n = len(target.ground)
    cover, found, matched = Cover(0.0, 0.0, 0.0, np.zeros(n, bool), np.zeros(0, np.int64)), [], []
    while len(found) < MAX_PREDICATES and (options := grow(target, cover)):
        found.append(options)
        matched.append(target.ground.matches(options))
        masses, counts = cells(matched, target.activation)
        y = cell_values(best_levels(target, masses, counts))
        cover.mask[matched[-1]] = True
        cover = Cover(float(y @ masses), float(y @ counts), float(y**2 @ counts), cover.mask, np.flatnonzero(cover.mask))
    return found


def _cut(found: list[list[Option]], explain: Target, calibrate: Target) -> tuple[Rule, float]:
    """The first predicates, as many as pay on calibrate, and their correlation there."""
    best, value = Rule(), 0.0
    here, there = [explain.ground.matches(o) for o in found], [calibrate.ground.matches(o) for o in found]
    for k in range(1, len(found) + 1):
        levels = best_levels(explain, *cells(here[:k], explain.activation))
        masses, counts = cells(there[:k], calibrate.activation)
        y = cell_values(levels)
        r = float(calibrate.correlation(y @ masses, y @ counts, y**2 @ counts))
        if k == 1 or r > value + GAIN:
            best, value = Rule(tuple(explain.ground.predicate(o, v < 1) for o, v in zip(found, levels, strict=False))), r
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
    return np.bincount(code, activation[at[begins]], size), np.bincount(code, minlength=size).astype(float)


def cell_values(levels: tuple[float, ...]) -> np.ndarray:
    """The prediction (2 ** k,) of each combination of matching predicates: the largest of their levels."""
    members = (np.arange(1 << len(levels))[:, None] >> np.arange(len(levels))) & 1
    return (members * np.array(levels)).max(1)


def best_levels(target: Target, masses: np.ndarray, counts: np.ndarray) -> tuple[float, ...]:
    """The levels, at least one of them strong, that correlate best."""
    k = len(masses).bit_length() - 1
    tried = [levels for levels in itertools.product((1.0, WEAK), repeat=k) if 1.0 in levels]
    values = np.array([cell_values(levels) for levels in tried])
    return tried[int(np.argmax(target.correlation(values @ masses, values @ counts, values**2 @ counts)))]


# ---------------------------------------------------------------- the label


def shorten(rule: Rule) -> Rule:
    """Drop last predicates until the label fits into MAX_CHARACTERS."""
    while len(render(rule)) > MAX_CHARACTERS and len(rule.predicates) > 1:
        rule = Rule(rule.predicates[:-1], rule.unclear)
    return rule


def kind_of(rule: Rule) -> str:
    """What sort of evidence the first predicate rests on."""
    if rule.unclear:
        return "unclear"
    p = rule.predicates[0]
    if p.contexts or p.line or p.call or p.within:
        return "context"
    if p.after:
        return "n-gram"
    if p.before:
        return "next"
    return "shape" if p.here.shapes else "token"

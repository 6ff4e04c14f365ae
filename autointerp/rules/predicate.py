"""Render what a search finds: options become a predicate of the rule language."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autointerp.rules.annotations import CONTEXTS
from autointerp.rules.language import Predicate, Rule, render
from autointerp.rules.search import Target
from autointerp.rules.terms import Terms
from autointerp.rules.token_table import WINDOWS, Option


def make_predicate(target: Target, options: list[Option], weak: bool) -> Predicate:
    """The predicate that the options say.

    Nodes of the tree are named by the words that carry most of the feature's activation there.
    """
    at = target.table.matches(options) if any(o.groups for o in options) else np.zeros(0, np.int64)
    terms = {o.slot: _make_terms(target, o, at) for o in options if o.kind != "context"}
    deepest = max((d for d in (1, 2, 3) if f"after {d}" in terms), default=0)
    after = tuple(terms.get(f"after {d}", Terms()) for d in range(deepest, 0, -1))
    within = next(((WINDOWS[slot], t) for slot, t in terms.items() if slot in WINDOWS), None)
    contexts = tuple(
        (CONTEXTS[number], bool(holds))
        for number, holds in sorted(o.values for o in options if o.kind == "context")
    )
    others = {name: terms.get(name) for name in ("before", "line", "call", "text")}
    return Predicate(
        terms.get("here", Terms()), after, within, contexts=contexts, weak=weak, **others
    )


def _make_terms(target: Target, option: Option, at: np.ndarray) -> Terms:
    literals = tuple(target.table.annotations.lexemes[code] for code in option.values)
    if not option.groups:
        return Terms(literals)
    table = target.table
    weights = np.bincount(table.views[option.slot][at], target.activation[at], table.n_codes)
    named = [table.words.terms(group, weights) for group in option.groups]
    return Terms(
        literals,
        tuple(shape for terms in named for shape in terms.shapes),
        tuple(affix for terms in named for affix in terms.affixes),
        tuple(words for terms in named for words in terms.similar),
    )


def shorten(target: Target, options: list[Option], room: int) -> list[Option]:
    """Drop the last words of the longest sets until the text fits into `room` characters.

    Empty when that is not enough.
    """
    while options and len(render(Rule((make_predicate(target, options, True),)))) > room:
        longest = max(
            (o for o in options if o.kind == "words" and o.values),
            key=lambda o: o.n_terms,
            default=None,
        )
        if longest is None or longest.n_terms == 1:
            return []
        options = [replace(o, values=o.values[:-1]) if o is longest else o for o in options]
    return options

"""What was found, in the words of the rule language: options become a predicate, shortened until it has room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autointerp.contexts import CONTEXTS
from autointerp.rule_search import Target
from autointerp.rule_tables import WINDOWS, Option
from autointerp.rules import Predicate, Rule, render
from autointerp.terms import Terms


def predicate(target: Target, options: list[Option], weak: bool) -> Predicate:
    """The predicate that the options say; its fields are named by the words that carry most of the feature's activation there."""
    at = target.ground.matches(options) if any(o.groups for o in options) else np.zeros(0, np.int64)
    terms = {o.slot: _terms(target, o, at) for o in options if o.kind != "context"}
    deepest = max((d for d in (1, 2, 3) if f"after {d}" in terms), default=0)
    after = tuple(terms.get(f"after {d}", Terms()) for d in range(deepest, 0, -1))
    within = next(((WINDOWS[slot], found) for slot, found in terms.items() if slot in WINDOWS), None)
    contexts = tuple((CONTEXTS[number], bool(holds)) for number, holds in sorted(o.values for o in options if o.kind == "context"))
    others = {name: terms.get(name) for name in ("before", "line", "call", "text")}
    return Predicate(terms.get("here", Terms()), after, within, contexts=contexts, weak=weak, **others)


def _terms(target: Target, option: Option, at: np.ndarray) -> Terms:
    literals = tuple(target.ground.corpus.lexemes[code] for code in option.values)
    if not option.groups:
        return Terms(literals)
    ground = target.ground
    weights = np.bincount(ground.views[option.slot][at], target.activation[at], ground.n_codes)
    named = [ground.words.terms(group, weights) for group in option.groups]
    joined = lambda name: tuple(part for terms in named for part in getattr(terms, name))
    return Terms(literals, joined("shapes"), joined("affixes"), joined("fields"))


def shorten(target: Target, options: list[Option], room: int) -> list[Option]:
    """The options with the last words of the longest sets left out until their text fits into `room` characters; none when that fails."""
    while options and len(render(Rule((predicate(target, options, True),)))) > room:
        longest = max((o for o in options if o.kind == "words" and o.values), key=lambda o: o.n_terms, default=None)
        if longest is None or longest.n_terms == 1:
            return []
        options = [replace(o, values=o.values[:-1]) if o is longest else o for o in options]
    return options

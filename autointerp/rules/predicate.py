"""Render what a search finds: options become a predicate of the rule language."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autointerp.rules.annotations import CONTEXTS, RELATIONS
from autointerp.rules.language import Predicate, Rule, render
from autointerp.rules.search import Target
from autointerp.rules.terms import Terms
from autointerp.rules.token_table import WINDOWS, Option

SLOTS = (*RELATIONS, *WINDOWS, "text", "contexts")
STARTS = [slot for slot in SLOTS if slot != "text"]
MAX_TERMS = {"here": 6, "after 1": 5, "within 8": 2, "text": 1}  # literals of a set, by slot
OTHER_TERMS = 4
# Correlation that one more term, slot or predicate must add.
TERM_COST, SLOT_COST, PREDICATE_COST = 0.0025, 0.008, 0.008
# Silent tokens that are added to what a predicate matches, so that a few tokens prove little.
PHANTOMS = 3.0
DOUBT = 0.5  # share of the mass that is discounted when it comes from one group of documents
# Multiples of a token's typical mean activation; the tokens above one of them make a set.
THRESHOLDS = np.array([0.1, 0.2, 0.35, 0.6, 0.9, 1.3])
# Slots that are searched for similar words and affixes; the others only for shapes.
GROUPED = ("here", "after 1", "before")
GROUPS_TRIED = 16  # groups with the best scores before any discount
SHARED = 2.5  # members that a group must have, counted as (sum of mass)^2 / (sum of mass^2)
N_STARTS = 2
FOLLOWED = 0.5  # share of the best start's gain that another start needs to be followed
MAX_OPTIONS = 4  # slots of a predicate
# More tokens are strided when options are proposed, but never when they are compared.
PROPOSAL_TOKENS = 20_000
WINDOW_TOKENS = 3_000  # the same for windows, which need many look-ups a token


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

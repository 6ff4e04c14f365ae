"""What an LLM is shown of one feature: windows that say different things, contrasts, token rates.

windows     firing places by stratum, whose mark is their strongest token where that is possible;
            no two with the same tokens around the mark, and at most two of a document
contrasts   places of the tokens that carry most of the activation, where the feature is silent
rates       for those tokens, their share of the activation, and how often they fire: this tells
            a feature of a token from a feature of a context
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.examples import Examples, Firings
from core.records import SPLITS, Snippet

WANTED = {"top": 5, "q90": 1, "q70": 2, "q40": 1, "q10": 1}  # windows of each stratum
DRAWN = {"top": 18, "q90": 8, "q70": 8, "q40": 8, "q10": 8}  # among which they are chosen
RATES = 6  # tokens whose rates are shown
CONTRASTS = (2, 1, 1)  # silent places of the first, second and third token
LEFT = 8  # tokens that a contrast has before it
OF_DOCUMENT = 2  # windows of one document, at most


@dataclass(frozen=True)
class TokenRate:
    """One token in the train split, and how a feature fires on it."""

    token: str
    share: float  # of the feature's activation
    fires: int  # places where the feature fires on it
    places: int  # all places of it


def rate_tokens(examples: Examples, firings: Firings, count: int = RATES) -> list[TokenRate]:
    """The tokens that carry most of the activation in the train split, heaviest first."""
    return [rate for _, rate in _rate_ids(examples, firings, count)]


def _rate_ids(examples: Examples, firings: Firings, count: int) -> list[tuple[int, TokenRate]]:
    where, values, _ = examples.firings_in(firings, "train")
    if not len(where):
        return []
    ids = np.asarray(examples.tokens.ids)[where]
    mass, fires = np.bincount(ids, values), np.bincount(ids)
    rates = []
    for token in np.argsort(-mass, kind="stable")[:count].tolist():
        if mass[token] > 0:
            places = len(_in_train(examples, examples.postings.token(token)))
            share = float(mass[token] / values.sum(dtype=np.float64))
            text = examples.tokens.vocabulary[token]
            rates.append((token, TokenRate(text, share, int(fires[token]), places)))
    return rates


def _in_train(examples: Examples, ordinals: np.ndarray) -> np.ndarray:
    """Those of the ordinals that lie in the train split and are no copies."""
    documents = examples.tokens.document_of(ordinals)
    split = np.asarray(examples.tokens.split)[documents]
    return ordinals[(split == SPLITS.index("train")) & ~examples.copied[ordinals]]


def choose_windows(snippets: Sequence[Snippet], wanted: dict[str, int]) -> list[Snippet]:
    """Up to `wanted` snippets of each stratum, in their order, that differ from one another.

    Those whose peak is their strongest token come first; one whose tokens around the peak were
    taken already, and a third one of a document, are left out.
    """
    seen: set[str] = set()
    of_document: Counter[int] = Counter()
    chosen: list[Snippet] = []
    for stratum, count in wanted.items():
        own = [s for s in snippets if s.stratum == stratum]
        taken = 0
        for snippet in sorted(own, key=lambda s: s.activations[s.peak] < max(s.activations)):
            around = _around(snippet)
            if around in seen or of_document[snippet.document] >= OF_DOCUMENT or taken == count:
                continue
            seen.add(around)
            of_document[snippet.document] += 1
            taken += 1
            chosen.append(snippet)
    return chosen


def _around(snippet: Snippet) -> str:
    """The text around the peak, by which near copies are told."""
    text = "".join(snippet.tokens[max(0, snippet.peak - 3) : snippet.peak + 2])
    return " ".join(text.lower().split())


def draw_contrasts(
    examples: Examples, feature: int, firings: Firings, rng: np.random.Generator
) -> list[Snippet]:
    """Silent train places of the feature's own tokens, with at least LEFT tokens before them.

    There are none of a token that always fires.
    """
    ordinals: list[int] = []
    for (token, _), count in zip(
        _rate_ids(examples, firings, len(CONTRASTS)), CONTRASTS, strict=False
    ):
        silent = np.setdiff1d(_in_train(examples, examples.postings.token(token)), firings[0])
        starts, _ = examples.window(silent)
        silent = silent[silent - starts >= LEFT]
        ordinals += rng.choice(silent, min(count, len(silent)), replace=False).tolist()
    n = len(ordinals)
    places = np.array(ordinals, np.int64)
    return examples.cut(feature, firings, places, ["near_miss"] * n, [0.0] * n)

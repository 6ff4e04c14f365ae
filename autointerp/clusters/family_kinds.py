"""How the members of a family fire: as synonyms, as alternatives, or as parts of one phrase.

The directions say that members are near; where they fire says how they differ. Three means over
the pairs of a family are compared with those of shuffled families, among members of like density:

    together   phi of firing on the same token
    beside     phi of one firing one or two tokens after the other, the larger of both orders
    context    overlap of the tokens that stand just before and just after their firings

`synonyms` fire together more than shuffled families do; `parts` (of one phrase) fire beside each
other more than that, and more than together; `alternatives` do neither, and their contexts are
alike. A family of which none of these holds has no kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from autointerp.clusters.coactivation import even_sample, phi
from autointerp.statistics import density_strata, shuffle_within
from core.firings.postings import Postings
from core.text.tokens import Tokens

SYNONYMS, ALTERNATIVES, PARTS = "synonyms", "alternatives", "parts"
SAMPLED = 400_000  # tokens, at most, on which members are counted
RUN_LENGTH = 128  # consecutive tokens of the sample
OFFSETS = (1, 2)  # tokens between two parts of a phrase
LEAST_PHI = 0.05  # a smaller phi says nothing to a person, however rare it is by chance
LEAST_OVERLAP = 0.1  # the same of contexts
SHUFFLES, QUANTILE = 20, 0.99  # of shuffled families that a family must exceed
MOST_MEMBERS = 4096  # that are compared at once
MEASURES = ("together", "beside", "context")


def add_kinds(
    families: pd.DataFrame, family: np.ndarray, postings: Postings, tokens: Tokens, seed: int
) -> pd.DataFrame:
    """The table of families with `kind`, `together`, `beside` and `context`.

    `family` (F,) is the family of each feature, -1 for none. At most MOST_MEMBERS features are
    compared at once, whole families of them.
    """
    members = np.flatnonzero(family >= 0)
    members = members[np.argsort(family[members], kind="stable")]
    ordinals = sample_runs(postings.n_tokens, seed)
    parts = []
    for chunk in split_families(family[members]):
        here = members[chunk]
        fires = fire_table(postings, here, ordinals)
        pairs = measure_pairs(fires, ordinals, np.asarray(tokens.ids), tokens.row_offsets)
        parts.append(judge_families(pairs, family[here], np.asarray(fires.sum(0)).ravel(), seed))
    if not parts:
        nothing: dict[str, Any] = {name: np.zeros(0) for name in MEASURES}
        return families.assign(kind=np.zeros(0, object), **nothing)
    judged = pd.concat(parts).reindex(families["family"])
    return families.assign(**{str(c): judged[c].to_numpy() for c in judged})


def split_families(family: np.ndarray) -> list[np.ndarray]:
    """Consecutive index ranges of the ascending families (m,), each of whole families."""
    chunks, start = [], 0
    ends = np.r_[np.flatnonzero(np.diff(family)) + 1, len(family)]
    for end, after in zip(ends, np.r_[ends[1:], np.iinfo(int).max], strict=True):
        if after - start > MOST_MEMBERS and end > start:
            chunks.append(np.arange(start, end))
            start = end
    return chunks


def sample_runs(n_tokens: int, seed: int) -> np.ndarray:
    """At most SAMPLED ascending ordinals in evenly spaced runs of consecutive tokens."""
    n_runs = max(1, n_tokens // RUN_LENGTH)
    chosen = even_sample(n_runs, SAMPLED // RUN_LENGTH, seed)
    every = (chosen[:, None] * RUN_LENGTH + np.arange(RUN_LENGTH)).ravel()
    return every[every < n_tokens]


def fire_table(postings: Postings, members: np.ndarray, ordinals: np.ndarray) -> Any:
    """Sparse (tokens of the sample, members) float32: 1 where the member fires."""
    from scipy.sparse import csc_matrix

    place = np.full(postings.n_tokens, -1, np.int32)
    place[ordinals] = np.arange(len(ordinals))
    rows = []
    for feature in members.tolist():
        here = place[postings.firings(feature)[0]]
        rows.append(here[here >= 0])
    offsets = np.cumsum([0, *map(len, rows)])
    return csc_matrix(
        (np.ones(offsets[-1], np.float32), np.concatenate(rows), offsets),
        shape=(len(ordinals), len(members)),
    )


def measure_pairs(
    fires: Any, ordinals: np.ndarray, ids: np.ndarray, row_offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """`together`, `beside` and `context` of all pairs of members: symmetric (m, m) float32.

    A neighbour in the sample counts where it is the neighbour in the text, in the same row.
    """
    fires = fires.tocsr()
    n, counts = fires.shape[0], np.asarray(fires.sum(0)).ravel()
    row = np.searchsorted(row_offsets, ordinals, side="right")

    def joined(shift: int) -> np.ndarray:
        """Places of the sample whose token `shift` later stands in the same row."""
        first, then = slice(0, n - shift), slice(shift, n)
        same = (ordinals[then] - ordinals[first] == shift) & (row[then] == row[first])
        return np.flatnonzero(same)

    def correlate(shared: Any) -> np.ndarray:
        return phi(shared.toarray(), counts[:, None], counts[None], n).astype(np.float32)

    beside = np.full((len(counts), len(counts)), -1, np.float32)
    for shift in OFFSETS:
        first = joined(shift)
        value = correlate(fires[first].T @ fires[first + shift])
        beside = np.maximum(beside, np.maximum(value, value.T))
    overlaps = [overlap_contexts(fires, joined(1), ids[ordinals], shift) for shift in (-1, 1)]
    return {
        "together": correlate(fires.T @ fires),
        "beside": beside,
        "context": (overlaps[0] + overlaps[1]) / 2,
    }


def overlap_contexts(fires: Any, joined: np.ndarray, ids: np.ndarray, shift: int) -> np.ndarray:
    """(m, m) Bhattacharyya overlap of the tokens just before (-1) or after (1) the firings."""
    from scipy.sparse import csr_matrix

    at, beside = (joined, joined + 1) if shift > 0 else (joined + 1, joined)
    names, number = np.unique(ids[beside], return_inverse=True)
    ones = np.ones(len(beside), np.float32)
    stands = csr_matrix((ones, (np.arange(len(beside)), number)), shape=(len(beside), len(names)))
    counts = (fires[at].T @ stands).tocsr()
    shares = counts.multiply(1 / np.maximum(counts.sum(1), 1)).sqrt().tocsr()
    overlap: np.ndarray = (shares @ shares.T).toarray()
    return overlap


def judge_families(
    pairs: dict[str, np.ndarray], family: np.ndarray, density: np.ndarray, seed: int
) -> pd.DataFrame:
    """kind, together, beside, context by family, from pairs of members (m, m) of `family` (m,)."""
    rng = np.random.default_rng([seed, 23])
    stratum = density_strata(density)
    means = pd.DataFrame({name: mean_by_family(pairs[name], family) for name in MEASURES})
    shuffles = [shuffle_within(family, stratum, rng) for _ in range(SHUFFLES)]
    least = {"together": LEAST_PHI, "beside": LEAST_PHI, "context": LEAST_OVERLAP}
    bound = {}
    for name in MEASURES:
        by_chance = np.concatenate([mean_by_family(pairs[name], s).to_numpy() for s in shuffles])
        bound[name] = max(float(np.quantile(by_chance, QUANTILE)), least[name])
    above = {name: means[name] > bound[name] for name in MEASURES}
    parts = above["beside"] & (means["beside"] > means["together"])
    conditions = [parts, above["together"], above["context"]]
    kind = np.select(conditions, [PARTS, SYNONYMS, ALTERNATIVES], "").astype(object)
    return means.round(4).assign(kind=kind)


def mean_by_family(pairs: np.ndarray, family: np.ndarray) -> pd.Series:
    """Mean of `pairs` (m, m) over pairs of different members, by family of (m,)."""
    order = np.argsort(family, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(family[order])) + 1)
    values = []
    for members in groups:
        block = pairs[np.ix_(members, members)]
        n = len(members)
        off = float(block.sum(dtype=np.float64)) - float(np.trace(block, dtype=np.float64))
        values.append(off / max(n * (n - 1), 1))
    return pd.Series(values, index=[int(family[members[0]]) for members in groups])

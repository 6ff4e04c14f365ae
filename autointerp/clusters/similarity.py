"""How alike the tokens are that members of a group fire on: something that the grouping of directions never saw."""

from __future__ import annotations

import numpy as np

from autointerp.statistics import against_shuffles, density_strata, shuffled_within
from core.firings.postings import Postings
from core.text.tokens import Tokens


def strongest_tokens(postings: Postings, tokens: Tokens, live: np.ndarray, n: int = 200):
    """Sparse (N, V): square roots of the shares of each token id among a feature's n strongest firings. Rows have length 1."""
    from scipy.sparse import csr_matrix

    ids, rows, columns = np.asarray(tokens.ids), [], []
    place = np.full(postings.n_features, -1)
    place[live] = np.arange(len(live))
    for first, block in postings.blocks():
        for feature, (ordinals, values) in enumerate(block, first):
            if place[feature] >= 0:
                top = ordinals if len(values) <= n else ordinals[np.argpartition(-values, n)[:n]]
                columns.append(ids[top])
                rows.append(np.full(len(top), place[feature]))
    counts = csr_matrix(
        (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))),
        shape=(len(live), len(tokens.vocabulary)),
    )
    return counts.multiply(1 / counts.sum(1)).sqrt().tocsr()


def likeness(
    rows, group: np.ndarray, density: np.ndarray, seed: int, n_shuffles: int = 200
) -> dict | None:
    """Mean overlap of two members of a group against groups shuffled among features of like density: dense features resemble everything.

    `rows` is sparse (N, V) with rows of length 1, such as the square roots of token shares: then the overlap is Bhattacharyya's, 0 to 1. None
    where no two features share a group.
    """
    member = np.flatnonzero(group >= 0)
    value = mean_overlap(rows, group) if len(member) else float("nan")
    if np.isnan(value):
        return None
    rows, own, stratum = rows[member], group[member], density_strata(density)[member]
    rng = np.random.default_rng([seed, 5])
    return against_shuffles(
        value, [mean_overlap(rows, shuffled_within(own, stratum, rng)) for _ in range(n_shuffles)]
    ).table()


def mean_overlap(rows, group: np.ndarray) -> float:
    """Mean inner product over pairs of rows in the same group, every pair counting once; NaN without a pair."""
    from scipy.sparse import coo_matrix

    member = np.flatnonzero(group >= 0)
    names, own = np.unique(group[member], return_inverse=True)
    if not len(names):
        return float("nan")
    sums = (
        coo_matrix((np.ones(len(member)), (own, member)), shape=(len(names), rows.shape[0])).tocsr()
        @ rows
    )
    squares = np.asarray(rows[member].multiply(rows[member]).sum(1)).ravel()
    sizes = np.bincount(own)
    pairs = float((sizes * (sizes - 1)).sum())
    return float((sums.multiply(sums).sum() - squares.sum()) / pairs) if pairs else float("nan")

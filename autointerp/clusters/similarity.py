"""How similar the tokens are on which members of a cluster fire; clustering never sees tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from autointerp.statistics import compare_with_shuffles, density_strata, shuffle_within
from core.firings.postings import Postings
from core.text.tokens import Tokens


def strongest_tokens(postings: Postings, tokens: Tokens, features: np.ndarray, n: int = 200) -> Any:
    """Sparse (N, V) square roots of each token's share of a feature's n strongest firings.

    Rows have length 1 and follow `features` (N,).
    """
    from scipy.sparse import csr_matrix

    ids, rows, columns = np.asarray(tokens.ids), [], []
    place = np.full(postings.n_features, -1)
    place[features] = np.arange(len(features))
    for first, block in postings.blocks():
        for feature, (ordinals, values) in enumerate(block, first):
            if place[feature] >= 0:
                top = ordinals if len(values) <= n else ordinals[np.argpartition(-values, n)[:n]]
                columns.append(ids[top])
                rows.append(np.full(len(top), place[feature]))
    counts = csr_matrix(
        (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))),
        shape=(len(features), len(tokens.vocabulary)),
    )
    return counts.multiply(1 / counts.sum(1)).sqrt().tocsr()


def similarity_within(
    rows: Any, cluster: np.ndarray, density: np.ndarray, seed: int, n_shuffles: int = 200
) -> dict | None:
    """Mean overlap of two members of a cluster, compared with shuffled clusters.

    `rows` is sparse (N, V) with rows of length 1, such as square roots of token shares: then the
    overlap is the Bhattacharyya coefficient, 0 to 1. Clusters are shuffled among features of like
    density, because dense features resemble everything. None where no two features share a cluster.
    """
    member = np.flatnonzero(cluster >= 0)
    value = mean_overlap(rows, cluster) if len(member) else float("nan")
    if np.isnan(value):
        return None
    rows, own, stratum = rows[member], cluster[member], density_strata(density)[member]
    rng = np.random.default_rng([seed, 5])
    shuffled = [mean_overlap(rows, shuffle_within(own, stratum, rng)) for _ in range(n_shuffles)]
    return compare_with_shuffles(value, shuffled).to_dict()


def mean_overlap(rows: Any, cluster: np.ndarray) -> float:
    """Mean inner product over pairs of rows in the same cluster; NaN without a pair."""
    from scipy.sparse import coo_matrix

    member = np.flatnonzero(cluster >= 0)
    names, own = np.unique(cluster[member], return_inverse=True)
    if not len(names):
        return float("nan")
    ones = np.ones(len(member))
    table = coo_matrix((ones, (own, member)), shape=(len(names), rows.shape[0])).tocsr()
    sums = table @ rows  # (clusters, V)
    squares = np.asarray(rows[member].multiply(rows[member]).sum(1)).ravel()
    sizes = np.bincount(own)
    pairs = float((sizes * (sizes - 1)).sum())
    return float((sums.multiply(sums).sum() - squares.sum()) / pairs) if pairs else float("nan")

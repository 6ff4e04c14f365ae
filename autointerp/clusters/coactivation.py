"""Which features fire on the same tokens: phi of pairs, partners, co-activation clusters.

phi of two features is the correlation of their firing (0 or 1 a token):
(n n_ab - n_a n_b) / sqrt(n_a n_b (n - n_a)(n - n_b)). `count_together` is exact for one pair, over
every token. `count_pairs` counts all pairs on a sample of tokens (every k-th one from a random
start), as products of sparse tables in blocks; so memory does not grow with the number of pairs.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from autointerp.statistics import (
    ShuffleTest,
    compare_with_shuffles,
    density_strata,
    shuffle_within,
)
from core.firings.postings import Postings

SAMPLED = 2_000_000  # tokens, at most, on which all pairs are counted
PARTNERS = 20
# Common firings, at least, of partners: two features that fire once, together, have phi 1.
LEAST_TOGETHER = 5
PAIRED = 4096  # features, at most, whose pairs are all held to compare clusters
BLOCK = 1024
SHUFFLES = 200
SPECTRAL = 64  # dimensions, at most, in which the co-activation graph is cut


def count_together(postings: Postings, a: int, b: int) -> dict:
    """Exact counts of a pair over every token: n, n_a, n_b, n_ab, phi, of_a and of_b.

    `of_a` is the share of the firings of a on which b fires too, `of_b` the reverse.
    """
    ours, theirs = postings.firings(a)[0], postings.firings(b)[0]
    n, n_a, n_b = postings.n_tokens, len(ours), len(theirs)
    n_ab = len(np.intersect1d(ours, theirs, assume_unique=True))
    value = float(phi(np.array([n_ab]), np.array([n_a]), np.array([n_b]), n)[0])
    return {
        "n": n,
        "n_a": n_a,
        "n_b": n_b,
        "n_ab": n_ab,
        "phi": value,
        "of_a": n_ab / n_a if n_a else 0.0,
        "of_b": n_ab / n_b if n_b else 0.0,
    }


def phi(n_ab: np.ndarray, n_a: np.ndarray, n_b: np.ndarray, n: int) -> np.ndarray:
    """Correlation of firing from counts, broadcast; 0 where a feature never or always fires."""
    a, b = n_a.astype(np.float64), n_b.astype(np.float64)
    scale = np.sqrt(a * (n - a)) * np.sqrt(b * (n - b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (n * n_ab.astype(np.float64) - a * b) / scale, 0.0)


@dataclass(frozen=True)
class Coactivation:
    """Co-activation of all F features on the sampled tokens."""

    n_tokens: int  # of the sample
    counts: np.ndarray  # (F,) firings within it
    partners: np.ndarray  # (F, 20) int32, highest phi first, -1 where there are fewer
    phi: np.ndarray  # (F, 20) float32
    shared: np.ndarray  # (F, 20) int32 tokens of the sample on which both fire
    chosen: np.ndarray  # (P,) ascending features whose pairs are all held
    pairs: np.ndarray  # (P, P) float32 phi, 0 on the diagonal


def count_pairs(postings: Postings, most: int, seed: int, features: np.ndarray) -> Coactivation:
    """Partners of every feature on at most `most` tokens, and phi of all pairs of `features`.

    At most PAIRED of the `features` are taken, evenly spaced.
    """
    tables = tables_at(postings, even_sample(postings.n_tokens, most, seed))
    n, n_features = sum(t.shape[0] for t in tables), postings.n_features
    counts = np.zeros(n_features, np.int64)
    for table in tables:
        counts += np.bincount(table.indices, minlength=n_features)
    chosen = take_evenly(features, PAIRED)
    best = [np.zeros((n_features, PARTNERS), t) for t in (np.int32, np.float32, np.int32)]
    pairs = np.zeros((len(chosen), len(chosen)), np.float32)

    def fill(first: int) -> None:
        last = min(first + BLOCK, n_features)
        # (block, F) tokens on which both fire
        shared: np.ndarray = sum((t[:, first:last].T @ t).toarray() for t in tables)
        value = phi(shared, counts[first:last, None], counts[None], n).astype(np.float32)
        here = np.arange(first, last)
        value[here - first, here] = 0
        inside = np.flatnonzero((chosen >= first) & (chosen < last))
        pairs[inside] = value[chosen[inside] - first][:, chosen]
        for out, block in zip(best, best_partners(value, shared), strict=True):
            out[first:last, : block.shape[1]] = block

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # sparse products release the lock
        list(pool.map(fill, range(0, n_features, BLOCK)))
    partners = np.where(best[1] > 0, best[0], -1).astype(np.int32)
    shared = np.where(partners >= 0, best[2], 0).astype(np.int32)
    return Coactivation(n, counts, partners, best[1], shared, chosen, pairs)


def take_evenly(features: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the features (n,), evenly spaced."""
    if not len(features):
        return features
    return features[
        np.unique(np.linspace(0, len(features) - 1, min(most, len(features))).astype(int))
    ]


def best_partners(
    value: np.ndarray, shared: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(feature, phi, shared tokens), each (block, 20 at most), highest phi first.

    phi is 0 where two features fire together too rarely to be partners.
    """
    value = np.where(shared >= LEAST_TOGETHER, np.maximum(value, 0), 0)
    k = min(PARTNERS, value.shape[1])
    top = np.argpartition(-value, k - 1, axis=1)[:, :k]
    order = np.lexsort((top, -np.take_along_axis(value, top, 1)), axis=1)
    top = np.take_along_axis(top, order, 1)
    return top, np.take_along_axis(value, top, 1), np.take_along_axis(shared, top, 1)


def even_sample(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` ascending ordinals of n, evenly spaced from a random start."""
    step = max(n / most, 1.0)
    begin = np.random.default_rng(seed).random() * step
    return np.unique((begin + step * np.arange(int(n / step))).astype(np.int64))


def tables_at(postings: Postings, ordinals: np.ndarray) -> list[Any]:
    """Which feature fires on which of the ascending ordinals.

    Returns one sparse float32 table (tokens, F) of ones for each shard that holds any of them.
    """
    from scipy.sparse import csc_matrix

    tables = []
    for first, last, offsets, positions in postings.by_shard():
        here = ordinals[(ordinals >= first) & (ordinals < last)] - first
        if len(here):
            ones = np.ones(len(positions), np.float32)
            table = csc_matrix(
                (ones, positions.astype(np.int32), offsets.astype(np.int64)),
                shape=(last - first, postings.n_features),
            ).tocsr()
            tables.append(table[here] if len(here) < last - first else table)
    return tables


# ------------------------------------------------------------ clusters


def mean_within(pairs: np.ndarray, cluster: np.ndarray) -> float:
    """Mean of `pairs` (P, P) over pairs of different features in the same cluster (P,), -1 none.

    NaN without such a pair.
    """
    total = n = 0.0
    for members in list_members(cluster):
        total += float(pairs[np.ix_(members, members)].sum(dtype=np.float64)) - float(
            pairs[members, members].sum(dtype=np.float64)
        )
        n += len(members) * (len(members) - 1)
    return total / n if n else float("nan")


def list_members(cluster: np.ndarray) -> list[np.ndarray]:
    """Indices of the members of each cluster that has any."""
    order = np.argsort(cluster, kind="stable")
    order = order[cluster[order] >= 0]
    return np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1) if len(order) else []


@dataclass(frozen=True)
class WithinClusters:
    """Mean phi within clusters, compared with shuffled clusters and with the mean between them."""

    within: ShuffleTest  # shuffled among features of like density
    between: float
    shuffled: list[float]
    n_features: int
    n_pairs: int


def compare_within(
    pairs: np.ndarray, cluster: np.ndarray, density: np.ndarray, seed: int
) -> WithinClusters | None:
    """Compare phi of `pairs` (P, P) within and between the clusters (P,) of features (P,).

    None without two features in one cluster.
    """
    member = cluster >= 0
    stratum = density_strata(density)[member]
    pairs, cluster = pairs[np.ix_(member, member)], cluster[member]
    value = mean_within(pairs, cluster) if len(cluster) else float("nan")
    if np.isnan(value):
        return None
    rng = np.random.default_rng([seed, 3])
    shuffled = [mean_within(pairs, shuffle_within(cluster, stratum, rng)) for _ in range(SHUFFLES)]
    n_pairs = sum(len(m) * (len(m) - 1) for m in list_members(cluster)) // 2
    n_between = len(cluster) * (len(cluster) - 1) // 2 - n_pairs
    total = float(pairs.sum(dtype=np.float64)) / 2
    between = (total - value * n_pairs) / n_between if n_between else float("nan")
    test = compare_with_shuffles(value, shuffled)
    return WithinClusters(test, between, shuffled, len(cluster), n_pairs)


def phi_by_cluster(pairs: np.ndarray, cluster: np.ndarray) -> dict[int, float]:
    """Mean phi within each cluster that has two features among the pairs."""
    return {
        int(cluster[m[0]]): mean_within(pairs[np.ix_(m, m)], np.zeros(len(m), int))
        for m in list_members(cluster)
        if len(m) > 1
    }


def cluster_partner_graph(counted: Coactivation, n_clusters: int, seed: int) -> np.ndarray:
    """(F,) int32 clusters of the graph of partners, 0 the largest, -1 for features without one.

    Spectral clustering into `n_clusters` (Ng, Jordan and Weiss 2002) of the symmetric graph with
    phi as weight. The decoder directions are not used.
    """
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    n = len(counted.partners)
    rows, columns = np.nonzero(counted.partners >= 0)
    edges = (counted.phi[rows, columns], (rows, counted.partners[rows, columns]))
    graph = coo_matrix(edges, shape=(n, n)).tocsr()
    graph = graph.maximum(graph.T)
    linked = np.flatnonzero(np.asarray(graph.sum(1)).ravel() > 0)
    label = np.full(n, -1, np.int32)
    if len(linked) <= n_clusters or n_clusters < 2:
        return label
    graph = graph[linked][:, linked].astype(np.float64)
    scale = diags(1 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
    dimensions = min(n_clusters, SPECTRAL, len(linked) - 2)
    with threadpool_limits(1):  # sums in one order, so that the bytes are always the same
        start = np.ones(len(linked))
        _, vectors = eigsh(scale @ graph @ scale, k=dimensions, which="LA", v0=start, tol=1e-4)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        label[linked] = KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(vectors)
    order = np.argsort(-np.bincount(label[linked], minlength=n_clusters), kind="stable")
    label[linked] = np.argsort(order)[label[linked]]
    return label


def mutual_information(
    cluster: np.ndarray, other: np.ndarray, density: np.ndarray, seed: int, n_shuffles: int = 50
) -> ShuffleTest | None:
    """Adjusted mutual information of two clusterings (N,) over the features that both cluster.

    Compared with shuffles within density strata; None with fewer than ten such features.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    both = (cluster >= 0) & (other >= 0)
    if both.sum() < 10:
        return None
    a, b, stratum = cluster[both], other[both], density_strata(density)[both]
    rng = np.random.default_rng([seed, 4])
    shuffled = [
        float(adjusted_mutual_info_score(shuffle_within(a, stratum, rng), b))
        for _ in range(n_shuffles)
    ]
    return compare_with_shuffles(float(adjusted_mutual_info_score(a, b)), shuffled)

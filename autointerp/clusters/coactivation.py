"""Which features fire on the same tokens: phi of pairs, partners of every feature, groups of the co-activation graph.

phi of two features is the correlation of their firing (0 or 1 a token): (n n_ab - n_a n_b) / sqrt(n_a n_b (n - n_a)(n - n_b)). Of one pair it is
exact, over every token. All pairs are counted on at most `most` tokens, every k-th one from a random start, as products of sparse tables, block by
block, so that memory does not grow with the number of pairs.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from autointerp.statistics import Against, against_shuffles, density_strata, shuffled_within
from core.firings.postings import Postings

PARTNERS = 20
LEAST_TOGETHER = 5  # common firings below which a pair is no partnership: two features that fire once, together, have phi 1
PAIRED = 4096  # features, at most, whose pairs are all held for the comparison of groups
BLOCK = 1024
SHUFFLES = 200
SPECTRAL = 64  # dimensions, at most, in which the graph is cut


def count_together(postings: Postings, a: int, b: int) -> dict:
    """Exact counts of a pair over every token: n, n_a, n_b, n_ab, phi, and the shares of each one's firings that the other shares."""
    ours, theirs = postings.firings(a)[0], postings.firings(b)[0]
    n, n_a, n_b, n_ab = (
        postings.n_tokens,
        len(ours),
        len(theirs),
        len(np.intersect1d(ours, theirs, assume_unique=True)),
    )
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
    """What the sampled tokens say about all F features."""

    n_tokens: int  # of the sample
    counts: np.ndarray  # (F,) firings within it
    partners: np.ndarray  # (F, 20) int32, highest phi first, -1 where there are fewer
    phi: np.ndarray  # (F, 20) float32
    shared: np.ndarray  # (F, 20) int32 tokens of the sample on which both fire
    chosen: np.ndarray  # (P,) ascending features whose pairs are all held
    pairs: np.ndarray  # (P, P) float32 phi, 0 on the diagonal


def count_pairs(postings: Postings, most: int, seed: int, chosen: np.ndarray) -> Coactivation:
    """Partners of every feature, and phi of all pairs of `chosen` (at most PAIRED of them are taken, evenly)."""
    tables = tables_at(postings, even_sample(postings.n_tokens, most, seed))
    n, n_features = sum(t.shape[0] for t in tables), postings.n_features
    counts = sum(np.bincount(t.indices, minlength=n_features) for t in tables)
    chosen = (
        chosen[np.unique(np.linspace(0, len(chosen) - 1, min(PAIRED, len(chosen))).astype(int))]
        if len(chosen)
        else chosen
    )
    found = [np.zeros((n_features, PARTNERS), t) for t in (np.int32, np.float32, np.int32)]
    pairs = np.zeros((len(chosen), len(chosen)), np.float32)

    def fill(first: int) -> None:
        last = min(first + BLOCK, n_features)
        shared = sum(
            (t[:, first:last].T @ t).toarray() for t in tables
        )  # (block, F) tokens on which both fire
        value = phi(shared, counts[first:last, None], counts[None], n).astype(np.float32)
        here = np.arange(first, last)
        value[here - first, here] = 0
        inside = np.flatnonzero((chosen >= first) & (chosen < last))
        pairs[inside] = value[chosen[inside] - first][:, chosen]
        for out, block in zip(found, best_partners(value, shared), strict=True):
            out[first:last, : block.shape[1]] = block

    with ThreadPoolExecutor(
        os.cpu_count() or 1
    ) as pool:  # sparse products run without the interpreter's lock
        list(pool.map(fill, range(0, n_features, BLOCK)))
    partners = np.where(found[1] > 0, found[0], -1).astype(np.int32)
    return Coactivation(
        n,
        counts,
        partners,
        found[1],
        np.where(partners >= 0, found[2], 0).astype(np.int32),
        chosen,
        pairs,
    )


def best_partners(
    value: np.ndarray, shared: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(feature, phi, tokens shared), each (block, 20 at most), highest phi first; phi 0 where a pair is none."""
    value = np.where(shared >= LEAST_TOGETHER, np.maximum(value, 0), 0)
    k = min(PARTNERS, value.shape[1])
    top = np.argpartition(-value, k - 1, axis=1)[:, :k]
    order = np.lexsort((top, -np.take_along_axis(value, top, 1)), axis=1)
    top = np.take_along_axis(top, order, 1)
    return top, np.take_along_axis(value, top, 1), np.take_along_axis(shared, top, 1)


def even_sample(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` ascending ordinals of n, evenly spaced from a random start."""
    step = max(n / most, 1.0)
    return np.unique(
        (np.random.default_rng(seed).random() * step + step * np.arange(int(n / step))).astype(
            np.int64
        )
    )


def tables_at(postings: Postings, ordinals: np.ndarray) -> list:
    """One sparse float32 table (tokens, F) of ones a shard, over ascending ordinals: which feature fires on which of these tokens."""
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


# ------------------------------------------------------------ groups


def mean_within(pairs: np.ndarray, group: np.ndarray) -> float:
    """Mean of `pairs` (P, P) over pairs of different features in the same group (P,), -1 none; NaN without such a pair."""
    total = n = 0.0
    for members in members_of(group):
        total += float(pairs[np.ix_(members, members)].sum(dtype=np.float64)) - float(
            pairs[members, members].sum(dtype=np.float64)
        )
        n += len(members) * (len(members) - 1)
    return total / n if n else float("nan")


def members_of(group: np.ndarray) -> list[np.ndarray]:
    """Indices of the members of each group that has any."""
    order = np.argsort(group, kind="stable")
    order = order[group[order] >= 0]
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []


@dataclass(frozen=True)
class Within:
    """phi within groups against groups shuffled among features of like density, and the mean between groups."""

    within: Against
    between: float
    shuffled: list[float]
    n_features: int
    n_pairs: int


def within_groups(
    pairs: np.ndarray, group: np.ndarray, density: np.ndarray, seed: int
) -> Within | None:
    """Of features (P,) with their groups and densities; None without two features in one group."""
    member = group >= 0
    pairs, group, stratum = (
        pairs[np.ix_(member, member)],
        group[member],
        density_strata(density)[member],
    )
    value = mean_within(pairs, group) if len(group) else float("nan")
    if np.isnan(value):
        return None
    rng = np.random.default_rng([seed, 3])
    shuffled = [mean_within(pairs, shuffled_within(group, stratum, rng)) for _ in range(SHUFFLES)]
    n_pairs = sum(len(m) * (len(m) - 1) for m in members_of(group)) // 2
    everything, apart = (
        float(pairs.sum(dtype=np.float64)) / 2,
        len(group) * (len(group) - 1) // 2 - n_pairs,
    )
    between = (everything - value * n_pairs) / apart if apart else float("nan")
    return Within(against_shuffles(value, shuffled), between, shuffled, len(group), n_pairs)


def phi_by_group(pairs: np.ndarray, group: np.ndarray) -> dict[int, float]:
    """Mean phi within each group that has two features among the pairs."""
    return {
        int(group[m[0]]): mean_within(pairs[np.ix_(m, m)], np.zeros(len(m), int))
        for m in members_of(group)
        if len(m) > 1
    }


def graph_groups(found: Coactivation, n_groups: int, seed: int) -> np.ndarray:
    """(F,) int32 groups of the graph of partners, 0 the largest, -1 for features without a partner: spectral clustering into n_groups.

    Ng, Jordan and Weiss 2002 on the symmetric graph with phi as weight; made without the decoder directions.
    """
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    n = len(found.partners)
    rows, columns = np.nonzero(found.partners >= 0)
    graph = coo_matrix(
        (found.phi[rows, columns], (rows, found.partners[rows, columns])), shape=(n, n)
    ).tocsr()
    graph = graph.maximum(graph.T)
    linked = np.flatnonzero(np.asarray(graph.sum(1)).ravel() > 0)
    label = np.full(n, -1, np.int32)
    if len(linked) <= n_groups or n_groups < 2:
        return label
    graph = graph[linked][:, linked].astype(np.float64)
    scale = diags(1 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
    dimensions = min(n_groups, SPECTRAL, len(linked) - 2)
    with threadpool_limits(1):  # sums in one order: the same bytes every time
        _, vectors = eigsh(
            scale @ graph @ scale, k=dimensions, which="LA", v0=np.ones(len(linked)), tol=1e-4
        )
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        label[linked] = KMeans(n_groups, n_init=1, random_state=seed).fit_predict(vectors)
    order = np.argsort(-np.bincount(label[linked], minlength=n_groups), kind="stable")
    label[linked] = np.argsort(order)[label[linked]]
    return label


def mutual_information(
    group: np.ndarray, other: np.ndarray, density: np.ndarray, seed: int, n_shuffles: int = 50
) -> Against | None:
    """Adjusted mutual information of two groupings over the features that both group, against shuffles within density strata."""
    from sklearn.metrics import adjusted_mutual_info_score

    both = (group >= 0) & (other >= 0)
    if both.sum() < 10:
        return None
    a, b, stratum = group[both], other[both], density_strata(density)[both]
    rng = np.random.default_rng([seed, 4])
    shuffled = [
        float(adjusted_mutual_info_score(shuffled_within(a, stratum, rng), b))
        for _ in range(n_shuffles)
    ]
    return against_shuffles(float(adjusted_mutual_info_score(a, b)), shuffled)

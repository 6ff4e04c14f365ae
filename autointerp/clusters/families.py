"""Families: small sets of near directions, by average linkage, held against a cloud without any.

Average linkage joins the two clusters whose members have the largest mean cosine. For unit vectors
that mean is the dot product of the clusters' means, so no table of all pairs is needed: only pairs
of clusters that hold a pair of members above the cut can be joined at it, and those are found once.
The result equals linkage on all distances (a test holds it against scipy), in memory that grows
with the near pairs.

The cut is the loosest at which a Gaussian cloud of the same mean and covariance has under
SHARE_OF_NULL as many families: a larger cut would name what chance makes. Each family is then
sought again among fresh subsamples of the features.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LOOSEST, TIGHTEST, STEP = 0.88, 0.05, 0.01  # cosine distances that are tried as a cut
MIN_SIZE = 4  # members of a family, at least
SHARE_OF_NULL = 0.01  # families of the null, as a share of those found, stay below this
SUBSAMPLE = 0.8  # of the features, in each fresh subsample
LEAST_LEFT = 2  # members there, at least: of four, one in five draws leaves two or fewer
COMES_BACK = 0.5  # mean best Jaccard from which a family counts as found again
MIN_FAMILIES = 5  # fewer could be chance where one null cloud has none (Poisson, 99 %)
MAX_PAIRS = 4_000_000  # a looser cut than gives so many near pairs is not tried
BLOCK = 2048  # rows of a product


@dataclass(frozen=True)
class Merges:
    """The joins of average linkage, most similar first: two clusters and their mean cosine."""

    n: int  # vectors
    left: np.ndarray  # (m,) int64: numbers below n are vectors, n + i is what join i made
    right: np.ndarray  # (m,)
    similarity: np.ndarray  # (m,) float64, falling
    loosest: float  # the cosine distance up to which the joins are complete

    def cut(self, distance: float) -> np.ndarray:
        """(n,) int64: the cluster of each vector when joins stop at `distance`."""
        parent = np.arange(self.n + len(self.left))
        for i in range(int((self.similarity >= 1 - distance).sum())):
            parent[self.left[i]] = parent[self.right[i]] = self.n + i
        for node in range(len(parent) - 1, -1, -1):  # a parent has the larger number
            parent[node] = parent[parent[node]]
        return np.unique(parent[: self.n], return_inverse=True)[1]

    def count(self, distances: list[float]) -> dict[float, int]:
        """How many clusters of at least MIN_SIZE there are at each distance."""
        size = np.ones(self.n + len(self.left), np.int64)
        counts = np.zeros(len(self.left) + 1, np.int64)
        for i, (a, b) in enumerate(zip(self.left.tolist(), self.right.tolist(), strict=True)):
            size[self.n + i] = size[a] + size[b]
            large = [size[node] >= MIN_SIZE for node in (self.n + i, a, b)]
            counts[i + 1] = counts[i] + int(large[0]) - int(large[1]) - int(large[2])
        made = [int((self.similarity >= 1 - distance).sum()) for distance in distances]
        return {distance: int(counts[m]) for distance, m in zip(distances, made, strict=True)}


@dataclass(frozen=True)
class Families:
    """The families at the chosen cut, and what the null and fresh subsamples say of them."""

    cut: float | None  # cosine distance; None where there are no families
    family: np.ndarray  # (n,) int64, -1 for a vector that is in none
    jaccard: np.ndarray  # (families,) mean best overlap in fresh subsamples
    null_jaccard: np.ndarray  # (families,) of a random vector and its nearest, as many
    counts: dict[float, tuple[int, int]]  # cut -> (families, families of the null)

    @property
    def n(self) -> int:
        """How many families there are."""
        return len(self.jaccard)

    @property
    def come_back(self) -> np.ndarray:
        """(families,) bool: found again in fresh subsamples."""
        return self.jaccard >= COMES_BACK


# ---------------------------------------------------------------- linkage


class Pairs(NamedTuple):
    """Pairs i < j of vectors whose cosine is above a bound."""

    rows: np.ndarray  # (p,) int32
    columns: np.ndarray  # (p,) int32
    cosines: np.ndarray  # (p,) float32

    def among(self, chosen: np.ndarray, n: int, distance: float) -> Pairs:
        """The pairs within `distance` among the ascending vectors `chosen` of n, renumbered."""
        place = np.full(n, -1, np.int32)
        place[chosen] = np.arange(len(chosen))
        rows, columns = place[self.rows], place[self.columns]
        kept = (rows >= 0) & (columns >= 0) & (self.cosines >= 1 - distance)
        return Pairs(rows[kept], columns[kept], self.cosines[kept])


def near_pairs(x: np.ndarray, distance: float) -> Pairs:
    """All pairs of unit vectors x (n, D) within a cosine distance."""
    parts = []
    for start in range(0, len(x), BLOCK):
        product = x[start : start + BLOCK] @ x[start:].T
        i, j = np.nonzero(product >= 1 - distance)
        i, j = i[j > i], j[j > i]
        parts.append(((i + start).astype(np.int32), (j + start).astype(np.int32), product[i, j]))
    return Pairs(*map(np.concatenate, zip(*parts, strict=True)))


def average_linkage(x: np.ndarray, distance: float, pairs: Pairs | None = None) -> Merges:
    """All joins of average linkage on unit vectors x (n, D) up to a cosine distance.

    Exact up to ties: two clusters of mean cosine c hold a pair of members with a cosine of at least
    c, and `pairs` are all of those within the distance (they are sought where they are not given).
    """
    n = len(x)
    rows, columns, cosines = near_pairs(x, distance) if pairs is None else pairs
    heap = list(zip((-cosines).tolist(), rows.tolist(), columns.tolist(), strict=True))
    heapq.heapify(heap)
    around: list[set[int]] = [set() for _ in range(n)]
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        around[i].add(j)
        around[j].add(i)
    means = np.zeros((2 * n, x.shape[1]), np.float32)
    means[:n] = x
    size, alive = np.ones(2 * n, np.int64), np.zeros(2 * n, bool)
    alive[:n] = True
    joins: list[tuple[int, int, float]] = []
    while heap:
        negative, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        made = n + len(joins)
        joins.append((a, b, -negative))
        size[made] = size[a] + size[b]
        means[made] = (size[a] * means[a] + size[b] * means[b]) / size[made]
        alive[[a, b, made]] = False, False, True
        near = around[a] | around[b]
        near -= {a, b}
        around[a] = around[b] = set()
        around.append(_join_neighbours(made, (a, b), near, means, distance, around, heap))
    left, right, similarity = zip(*joins, strict=True) if joins else ((), (), ())
    return Merges(
        n, np.array(left, np.int64), np.array(right, np.int64), np.array(similarity), distance
    )


def _join_neighbours(
    made: int,
    parts: tuple[int, int],
    near: set[int],
    means: np.ndarray,
    distance: float,
    around: list[set[int]],
    heap: list[tuple[float, int, int]],
) -> set[int]:
    """The clusters within `distance` of a new one; theirs are updated and the pairs are queued.

    A pair beyond the distance is forgotten: a mean over two parts is above a bound only where one
    of the parts is.
    """
    kept = set()
    numbers = np.fromiter(near, np.int64, len(near))
    for other, cosine in zip(
        numbers.tolist(), (means[numbers] @ means[made]).tolist(), strict=True
    ):
        around[other].difference_update(parts)
        if cosine >= 1 - distance:
            around[other].add(made)
            kept.add(other)
            heapq.heappush(heap, (-cosine, other, made))
    return kept


def loosest_cut(x: np.ndarray, rng: np.random.Generator) -> float:
    """The loosest cosine distance with at most MAX_PAIRS near pairs, from a sample of rows."""
    sample = x[rng.choice(len(x), min(len(x), 512), replace=False)]
    cosines = np.sort((sample @ x.T).ravel())[::-1]
    allowed = int(2 * MAX_PAIRS / len(x) * len(sample))
    if allowed >= len(cosines):
        return LOOSEST
    return float(min(LOOSEST, max(TIGHTEST, 1 - cosines[allowed])))


def large_clusters(labels: np.ndarray, least: int = MIN_SIZE) -> np.ndarray:
    """(n,) int64: clusters of at least `least` vectors, largest first, from 0; -1 elsewhere."""
    counts = np.bincount(labels, minlength=1)
    kept = np.flatnonzero(counts >= least)
    kept = kept[np.argsort(-counts[kept], kind="stable")]
    number = np.full(len(counts), -1)
    number[kept] = np.arange(len(kept))
    return number[labels]


# ---------------------------------------------------------------- null, cut, subsamples


def find_families(x: np.ndarray, null: np.ndarray, subsamples: int, seed: int) -> Families:
    """Families of unit vectors x (n, D), the cut chosen against `null` (n, D), unit vectors too.

    A cut counts where it gives MIN_FAMILIES and the null under a hundredth as many; where none
    does, there are no families. Without subsamples no Jaccard is known: NaN.
    """
    rng = np.random.default_rng([seed, 21])
    loosest = loosest_cut(x, rng)
    cuts = np.arange(TIGHTEST, loosest + 1e-9, STEP).round(4).tolist()
    by_chance = average_linkage(null, loosest).count(cuts)
    most = SHARE_OF_NULL * len(x) / MIN_SIZE  # no cut can have more families than n / MIN_SIZE
    by_chance = {cut: chance for cut, chance in by_chance.items() if chance < most}
    loosest = max(by_chance, default=TIGHTEST)
    pairs = near_pairs(x, loosest)
    merges = average_linkage(x, loosest, pairs)
    counts = {cut: (n, by_chance[cut]) for cut, n in merges.count(list(by_chance)).items()}
    good = [c for c, (n, by) in counts.items() if n >= MIN_FAMILIES and by < SHARE_OF_NULL * n]
    chosen = max(good, default=None)
    if chosen is None:
        none = np.zeros(0)
        return Families(None, np.full(len(x), -1), none, none, counts)
    family = large_clusters(merges.cut(chosen))
    again = list(_resample(x, chosen, pairs, subsamples, rng))
    jaccard = best_overlaps(members_of(family), again, len(x))
    sizes = np.bincount(family[family >= 0]).tolist()
    null_jaccard = best_overlaps(nearest_sets(x, sizes, rng), again, len(x))
    return Families(chosen, family, jaccard, null_jaccard, counts)


def _resample(
    x: np.ndarray, cut: float, pairs: Pairs, subsamples: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(chosen vectors (m,), their families (m,)) of fresh subsamples."""
    n = len(x)
    for _ in range(subsamples):
        chosen = np.sort(rng.choice(n, int(SUBSAMPLE * n), replace=False))
        merges = average_linkage(x[chosen], cut, pairs.among(chosen, n, cut))
        yield chosen, large_clusters(merges.cut(cut), LEAST_LEFT)


def members_of(family: np.ndarray) -> list[np.ndarray]:
    """The members of each family, ascending."""
    order = np.argsort(family, kind="stable")
    order = order[family[order] >= 0]
    return np.split(order, np.flatnonzero(np.diff(family[order])) + 1) if len(order) else []


def nearest_sets(x: np.ndarray, sizes: list[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Sets of these sizes: each a random one of the unit vectors x (n, D) and its nearest ones."""
    centres = rng.choice(len(x), len(sizes))
    cosines = x[centres] @ x.T
    nearest = (
        np.argpartition(-row, size - 1)[:size] for row, size in zip(cosines, sizes, strict=True)
    )
    return [np.sort(members) for members in nearest]


def best_overlaps(
    sets: list[np.ndarray], again: list[tuple[np.ndarray, np.ndarray]], n: int
) -> np.ndarray:
    """(sets,) float64: the mean over subsamples of each set's best Jaccard with any family there.

    Only members that the subsample holds count. A set of which it holds none is left out of its
    mean. NaN without subsamples.
    """
    totals, known = np.zeros(len(sets)), np.zeros(len(sets))
    for chosen, family in again:
        inside, place = np.zeros(n, bool), np.full(n, -1)
        inside[chosen], place[chosen] = True, family
        sizes = np.bincount(family[family >= 0], minlength=1)
        for i, members in enumerate(sets):
            here = members[inside[members]]
            if not len(here):
                continue
            known[i] += 1
            names, shared = np.unique(place[here][place[here] >= 0], return_counts=True)
            if len(names):
                totals[i] += (shared / (len(here) + sizes[names] - shared)).max()
    if not again:
        return np.full(len(sets), np.nan)
    return totals / np.maximum(known, 1)

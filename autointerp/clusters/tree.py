"""Nested clusters from one single-linkage tree: clusters for each smallest size, choice of levels.

HDBSCAN's condensed tree for a smallest size m splits a node where both sides hold at least m
points; its leaves are the clusters. One linkage yields the leaves for every m: a node is a leaf
exactly for `below < m <= above`, where `above` is the size of the smaller side of the split that
made the node, and `below` the largest smaller side of any split under it. The leaves of one m are
disjoint, and a leaf of a smaller m lies whole in one leaf of a larger m or outside all of them, so
levels are nested by construction. The persistence of a leaf over sizes is log(above / below)
(compare PLSCAN, arXiv 2512.16558). A level is cut where leaves are persistent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Clusters of the three levels at 16,000 points; with n points sqrt(n / 16,000) times as many.
TARGETS, TARGET_POINTS = (10, 50, 300), 16_000
# Standard deviation of the log of a level's number of clusters around its target.
WIDTH = np.log(2.5)
FAR_APART = 1.8  # ratio, at least, of the numbers of clusters of two levels
WEAK = 0.5  # share of the best level's persistence below which a level is left out


@dataclass(frozen=True)
class Tree:
    """A single-linkage tree of n points; node i >= n is row i - n of the linkage.

    The points under node v are order[start[v]:end[v]].
    """

    left: np.ndarray  # (n - 1,) children of each inner node
    right: np.ndarray
    distance: np.ndarray  # (n - 1,) at which they join
    order: np.ndarray  # (n,)
    start: np.ndarray  # (2n - 1,)
    end: np.ndarray
    above: np.ndarray  # (2n - 1,) a node is a leaf for below < m <= above
    below: np.ndarray

    @property
    def n_points(self) -> int:
        return len(self.order)


def linkage(points: np.ndarray, min_samples: int) -> Tree:
    """The tree of mutual reachability distances of points (n, d), by HDBSCAN; n is at least 3."""
    from hdbscan import HDBSCAN

    model = HDBSCAN(
        min_cluster_size=2,
        min_samples=min_samples,
        metric="euclidean",
        approx_min_span_tree=False,
        core_dist_n_jobs=1,
    )
    # Columns of the rows: left, right, distance, size.
    rows = model.fit(points.astype(np.float64)).single_linkage_tree_.to_numpy()
    return make_tree(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2])


def make_tree(left: np.ndarray, right: np.ndarray, distance: np.ndarray) -> Tree:
    """A tree from a linkage whose rows come in order of distance."""
    n = len(left) + 1
    size, below = np.ones(2 * n - 1, np.int64), np.ones(2 * n - 1, np.int64)
    above = np.zeros(2 * n - 1, np.int64)
    for i, (a, b) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        smaller = min(size[a], size[b])
        above[a] = above[b] = smaller
        size[n + i], below[n + i] = size[a] + size[b], max(smaller, below[a], below[b])
    above[-1] = n
    start = np.zeros(2 * n - 1, np.int64)
    for i in range(n - 2, -1, -1):
        start[left[i]] = start[n + i]
        start[right[i]] = start[n + i] + size[left[i]]
    order = np.empty(n, np.int64)
    order[start[:n]] = np.arange(n)
    return Tree(left, right, distance, order, start, start + size, above, below)


def find_leaves(tree: Tree, m: int) -> np.ndarray:
    """Nodes that are the clusters for smallest size m, largest first; the root is no cluster."""
    nodes = np.flatnonzero((tree.below < m) & (m <= tree.above))
    nodes = nodes[nodes != 2 * tree.n_points - 2]
    return nodes[np.lexsort((tree.start[nodes], tree.start[nodes] - tree.end[nodes]))]


def label_leaves(tree: Tree, nodes: np.ndarray) -> np.ndarray:
    """(n,) int32 index into disjoint `nodes` of each point, -1 outside all of them."""
    label = np.full(tree.n_points, -1, np.int32)
    for number, node in enumerate(nodes.tolist()):
        label[tree.order[tree.start[node] : tree.end[node]]] = number
    return label


def persistence(tree: Tree, nodes: np.ndarray) -> np.ndarray:
    """log(above / below) of each node, with `below` at least 3."""
    return np.log(np.maximum(tree.above[nodes] / np.maximum(tree.below[nodes], 3), 1.0))


@dataclass(frozen=True)
class Sweep:
    """The clusters for each of S smallest sizes m on a log grid."""

    m: np.ndarray  # (S,)
    clusters: np.ndarray  # (S,) number of clusters
    clustered: np.ndarray  # (S,) share of the points that are in a cluster
    persistence: np.ndarray  # (S,) mean persistence over all points, 0 outside clusters


def sweep(tree: Tree, smallest: int) -> Sweep:
    """Cut at about 60 smallest sizes from `smallest` to a third of the points."""
    n = tree.n_points
    sizes = np.unique(np.geomspace(smallest, max(smallest, n // 3), 60).round().astype(int))
    rows = []
    for m in sizes.tolist():
        nodes = find_leaves(tree, m)
        members = tree.end[nodes] - tree.start[nodes]
        rows.append((len(nodes), members.sum() / n, (members * persistence(tree, nodes)).sum() / n))
    clusters, clustered, lasting = np.array(rows).T.reshape(3, -1)
    return Sweep(sizes, clusters.astype(int), clustered, lasting)


def choose_levels(cuts: Sweep, n: int) -> list[int]:
    """Smallest cluster sizes of at most three levels, the coarsest first.

    Each level is where leaves are most persistent near its target number of clusters. A level is
    left out where it hardly differs from another, where there are no two clusters, or where leaves
    are much less persistent than in the best level.
    """
    candidates: list[int] = []
    for target in TARGETS:
        wanted = max(2.0, target * np.sqrt(n / TARGET_POINTS))
        stray = np.log(np.maximum(cuts.clusters, 1) / wanted) / WIDTH
        worth = np.where(cuts.clusters >= 2, cuts.persistence**2 * np.exp(-(stray**2) / 2), 0)
        if worth.max(initial=0) > 0:
            candidates.append(int(worth.argmax()))
    best = max((cuts.persistence[i] for i in candidates), default=0)
    kept: list[int] = []
    for i in sorted(set(candidates), key=lambda i: -cuts.persistence[i]):
        pairs = [sorted((cuts.clusters[i], cuts.clusters[k])) for k in kept]
        far = all(more >= FAR_APART * fewer for fewer, more in pairs)
        if far and cuts.persistence[i] >= WEAK * best:
            kept.append(i)
    return sorted((int(cuts.m[i]) for i in kept), reverse=True)


def strength(tree: Tree, node: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """(points, membership strength 0 to 1) under a leaf, as HDBSCAN's probability.

    The strength of a point is the density at which it falls out of the leaf, as a share of the
    largest such density in the leaf.
    """
    n, falls = tree.n_points, []
    while node >= n:
        distance = tree.distance[node - n]
        sides = (int(tree.left[node - n]), int(tree.right[node - n]))
        sizes = [tree.end[s] - tree.start[s] for s in sides]
        keep = int(np.argmax(sizes))
        for side in range(2):
            if sizes[side] < m or side != keep:
                points_under = tree.order[tree.start[sides[side]] : tree.end[sides[side]]]
                falls.append((points_under, distance))
        if sizes[keep] < m:
            break
        node = sides[keep]
    points = np.concatenate([p for p, _ in falls])
    density = np.concatenate([np.full(len(p), 1 / max(d, 1e-12)) for p, d in falls])
    return points, density / density.max()

"""Nested groups from one single-linkage tree: which groups are there for each smallest size, and which three sizes make good layers.

HDBSCAN's condensed tree for a smallest size m splits a node where both sides hold at least m points; its leaves are the groups. All m are
read off one linkage at once: a node is a leaf of the condensed tree exactly for `below < m <= above`, where `above` is the size of the smaller
side of the split that made the node, and `below` the largest smaller side of any split under it. Leaves of one m are disjoint, and each
lies whole in a leaf of a smaller-grained m or in what that one leaves out: layers are nested by construction. How long a leaf lasts,
log(above / below), is its persistence over sizes (compare PLSCAN, arXiv 2512.16558); a plateau of many lasting leaves is a good cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TARGETS, AT = (
    (10, 50, 300),
    16_000,
)  # groups of the three layers at this many points; with n points sqrt(n / AT) times as many
WIDTH = np.log(
    2.5
)  # how far a layer may stray from its target: the standard deviation of the log of the number of groups
FAR_APART = 1.8  # times as many groups in the finer of two layers, at least
WEAK = 0.5  # a layer whose leaves last less than this share of the best one's is left out


@dataclass(frozen=True)
class Tree:
    """A single-linkage tree of n points; node i >= n is row i - n of the linkage. The points under node v are order[start[v]:end[v]]."""

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
    rows = model.fit(
        points.astype(np.float64)
    ).single_linkage_tree_.to_numpy()  # left, right, distance, size
    return tree_of(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2])


def tree_of(left: np.ndarray, right: np.ndarray, distance: np.ndarray) -> Tree:
    """A tree from a linkage whose rows come in order of distance."""
    n = len(left) + 1
    size, below, above = (
        np.ones(2 * n - 1, np.int64),
        np.ones(2 * n - 1, np.int64),
        np.zeros(2 * n - 1, np.int64),
    )
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


def leaves(tree: Tree, m: int) -> np.ndarray:
    """Nodes that are the groups for smallest size m, the largest first; the whole tree is no group."""
    found = np.flatnonzero((tree.below < m) & (m <= tree.above))
    found = found[found != 2 * tree.n_points - 2]
    return found[np.lexsort((tree.start[found], tree.start[found] - tree.end[found]))]


def labels_of(tree: Tree, nodes: np.ndarray) -> np.ndarray:
    """(n,) int32 index into disjoint `nodes` of each point, -1 outside all of them."""
    label = np.full(tree.n_points, -1, np.int32)
    for number, node in enumerate(nodes.tolist()):
        label[tree.order[tree.start[node] : tree.end[node]]] = number
    return label


def persistence(tree: Tree, nodes: np.ndarray) -> np.ndarray:
    """How long each node lasts as a leaf while the smallest size grows: log(above / below), below counting as 3 at least."""
    return np.log(np.maximum(tree.above[nodes] / np.maximum(tree.below[nodes], 3), 1.0))


@dataclass(frozen=True)
class Sweep:
    """What every smallest size m of a log grid gives."""

    m: np.ndarray  # (S,)
    groups: np.ndarray  # (S,)
    grouped: np.ndarray  # (S,) share of the points that are in a group
    lasting: np.ndarray  # (S,) mean persistence over all points, 0 outside groups


def sweep(tree: Tree, smallest: int) -> Sweep:
    """Cuts at about 60 smallest sizes from `smallest` to a third of the points."""
    n = tree.n_points
    sizes = np.unique(np.geomspace(smallest, max(smallest, n // 3), 60).round().astype(int))
    rows = []
    for m in sizes.tolist():
        nodes = leaves(tree, m)
        members = tree.end[nodes] - tree.start[nodes]
        rows.append((len(nodes), members.sum() / n, (members * persistence(tree, nodes)).sum() / n))
    groups, grouped, lasting = np.array(rows).T.reshape(3, -1)
    return Sweep(sizes, groups.astype(int), grouped, lasting)


def choose_layers(found: Sweep, n: int) -> list[int]:
    """Smallest sizes of at most three layers, the coarsest first: each where leaves last longest near its target number of groups.

    Fewer where two layers would hardly differ, where there are not two groups, or where leaves last much less than in the best layer.
    """
    chosen: list[int] = []
    for target in TARGETS:
        stray = np.log(np.maximum(found.groups, 1) / max(2.0, target * np.sqrt(n / AT))) / WIDTH
        worth = np.where(found.groups >= 2, found.lasting**2 * np.exp(-(stray**2) / 2), 0)
        if worth.max(initial=0) > 0:
            chosen.append(int(worth.argmax()))
    best = max((found.lasting[i] for i in chosen), default=0)
    kept: list[int] = []
    for i in sorted(set(chosen), key=lambda i: -found.lasting[i]):
        apart = all(
            max(found.groups[i], found.groups[k])
            >= FAR_APART * min(found.groups[i], found.groups[k])
            for k in kept
        )
        if apart and found.lasting[i] >= WEAK * best:
            kept.append(i)
    return sorted((int(found.m[i]) for i in kept), reverse=True)


def strength(tree: Tree, node: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """(points, strength 0..1) under a leaf: the density at which each falls out of it, as a share of the leaf's largest (HDBSCAN's probability)."""
    n, falls = tree.n_points, []
    while node >= n:
        distance, sides = (
            tree.distance[node - n],
            (int(tree.left[node - n]), int(tree.right[node - n])),
        )
        sizes = [tree.end[s] - tree.start[s] for s in sides]
        keep = int(np.argmax(sizes))
        for side in range(2):
            if sizes[side] < m or side != keep:
                falls.append(
                    (tree.order[tree.start[sides[side]] : tree.end[sides[side]]], distance)
                )
        if sizes[keep] < m:
            break
        node = sides[keep]
    points = np.concatenate([p for p, _ in falls])
    density = np.concatenate([np.full(len(p), 1 / max(d, 1e-12)) for p, d in falls])
    return points, density / density.max()

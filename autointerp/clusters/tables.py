"""Tables of the cluster stage: rows of features, records of clusters, and parts of the proof."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from autointerp.clusters.coactivation import (
    Coactivation,
    cluster_partner_graph,
    compare_within,
    mutual_information,
    phi_by_cluster,
)
from autointerp.clusters.grouping import NeighbourGraph, mean_pair_cosine
from autointerp.clusters.tree import Tree, find_leaves, persistence, strength
from autointerp.clusters.unit import level_column
from autointerp.clusters.validation import DISSOLVED, Stability

DUPLICATE, DENSE = 0.98, 0.10  # cosine; share of tokens
VOTERS, EXEMPLARS = 15, 5  # neighbours that vote, members shown for a cluster
HUES = 9  # as many colours as the eye tells apart


# ------------------------------------------------------------ features


def make_feature_table(
    graph: NeighbourGraph,
    labels: np.ndarray,
    probability: np.ndarray,
    layout: np.ndarray,
    alive: np.ndarray,
    density: np.ndarray,
) -> pd.DataFrame:
    """A row a feature, with the columns of features.parquet but `family` (see `clusters.unit`).

    `labels` (N, L), `probability` (N,) and `layout` (N, 2) belong to the N features `alive`;
    `density` (F,) to all. The status is alive, dense, isolated or dead.
    """
    n, isolated = len(density), ~np.isin(np.arange(len(alive)), graph.inside)
    status = np.full(n, "dead", dtype=object)
    status[alive] = np.select([isolated, density[alive] > DENSE], ["isolated", "dense"], "alive")
    cluster = take_finest(labels)
    suggested, share = vote(cluster, graph.rows, graph.cosines)
    columns: dict[str, tuple[np.ndarray, float]] = {  # name: (values, value of dead features)
        "x": (layout[:, 0], np.nan),
        "y": (layout[:, 1], np.nan),
        "group": (cluster, -1),
        "suggested": (suggested, -1),
        "strength": (share.astype(np.float32), 0),
        "nn_feature": (alive[graph.rows[:, 1]], -1),
        "nn_cosine": (graph.cosines[:, 1], 0),
        "probability": (probability.astype(np.float32), 0),
    }
    columns |= {level_column(i): (labels[:, i], -1) for i in range(labels.shape[1])}
    full = {
        name: spread_rows(values, alive, (n,), missing)
        for name, (values, missing) in columns.items()
    }
    return pd.DataFrame({"feature": np.arange(n, dtype=np.int32), "status": status, **full})


def take_finest(labels: np.ndarray) -> np.ndarray:
    """(N,) clusters of the last level of labels (N, L), all -1 without levels."""
    return labels[:, -1] if labels.shape[1] else np.full(len(labels), -1, np.int32)


def vote(
    cluster: np.ndarray, rows: np.ndarray, cosines: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(suggested cluster (N,), strength (N,)) from the clusters of the 15 nearest directions.

    The cluster with most cosine among them is suggested; its strength is its share of the cosine
    of all 15. Without any cluster among them: -1 and 0. A member is suggested its own cluster, with
    that cluster's share.
    """
    near, weights = cluster[rows[:, 1 : VOTERS + 1]], np.maximum(cosines[:, 1 : VOTERS + 1], 0)
    # (N, 15, 15): whether two neighbours share a cluster. Each one collects the votes for its own.
    same = near[:, :, None] == near[:, None, :]
    votes = np.where(near >= 0, np.where(same, weights[:, None, :], 0).sum(2), 0)
    best = near[np.arange(len(near)), votes.argmax(1)]
    elected = np.where(votes.max(1) > 0, best, -1)
    suggested = np.where(cluster >= 0, cluster, elected).astype(np.int32)
    agreeing = np.where((near == suggested[:, None]) & (near >= 0), weights, 0)
    return suggested, agreeing.sum(1) / np.maximum(weights.sum(1), 1e-12)


def membership_strengths(tree: Tree, size: int, inside: np.ndarray, n: int) -> np.ndarray:
    """(n,) strength of each row's membership in its cluster, 0 without a cluster.

    `size` is the smallest cluster size of the level, `inside` the rows that the tree holds.
    """
    probability = np.zeros(n)
    for node in find_leaves(tree, size).tolist():
        points, value = strength(tree, node, size)
        probability[inside[points]] = value
    return probability


def spread_rows(values: np.ndarray, where: np.ndarray, shape: tuple, missing: float) -> np.ndarray:
    """An array of `shape` with `values` at the rows `where`, and `missing` elsewhere.

    A second axis of `shape` may be longer than that of `values`.
    """
    full = np.full(shape, missing, values.dtype)
    full[(where, slice(0, values.shape[1])) if values.ndim == 2 else where] = values
    return full


def find_duplicates(graph: NeighbourGraph, alive: np.ndarray) -> list[list]:
    """[feature, feature, cosine] of pairs above 0.98 among the nearest directions.

    The SAE has learned one direction twice.
    """
    row, column = np.nonzero(graph.cosines[:, 1:] > DUPLICATE)
    pairs: dict[tuple[int, int], float] = {}
    for r, c in zip(row.tolist(), (column + 1).tolist(), strict=True):
        a, b = sorted((int(alive[r]), int(alive[graph.rows[r, c]])))
        pairs[a, b] = round(float(graph.cosines[r, c]), 5)
    return [[a, b, cosine] for (a, b), cosine in sorted(pairs.items())]


# ------------------------------------------------------------ clusters


def describe_clusters(
    x: np.ndarray, tree: Tree | None, sizes: list[int], labels: np.ndarray, alive: np.ndarray
) -> list[dict]:
    """A record for each cluster of each level, coarsest first, as in groups.json.

    Keys: layer (level), group (cluster), size, parent (cluster of the level before, -1 none), path
    (clusters of all levels before), medoid (the feature with most cosine to the others), exemplars,
    cosine (mean within), lasting (persistence over smallest sizes), hue.
    """
    records: list[dict] = []
    if tree is None:
        return records
    for level, size in enumerate(sizes):
        lasting = persistence(tree, find_leaves(tree, size))
        for number in range(labels[:, level].max(initial=-1) + 1):
            members = np.flatnonzero(labels[:, level] == number)
            total = x[members].sum(0, dtype=np.float64)
            nearest_first = alive[members[np.argsort(-(x[members] @ total), kind="stable")]]
            path = [int(c) for c in labels[members[0], :level]]
            records.append(
                {
                    "layer": level,
                    "group": number,
                    "size": len(members),
                    "parent": path[-1] if level else -1,
                    "path": path,
                    "medoid": int(nearest_first[0]),
                    "exemplars": [int(f) for f in nearest_first[:EXEMPLARS]],
                    "cosine": round(mean_pair_cosine(total, len(members)), 4),
                    "lasting": round(float(lasting[number]), 4),
                }
            )
    return add_hues(x, labels, records)


def add_hues(x: np.ndarray, labels: np.ndarray, records: list[dict]) -> list[dict]:
    """The records with `hue`: that of the coarsest cluster around each, or -1 without one."""
    if not records:
        return records
    sums = [x[labels[:, 0] == c].sum(0, dtype=np.float64) for c in range(labels[:, 0].max() + 1)]
    hues = choose_hues(np.array([total / np.linalg.norm(total) for total in sums]))
    out = []
    for record in records:
        first_member = int(np.argmax(labels[:, record["layer"]] == record["group"]))
        top = int(labels[first_member, 0])
        out.append(record | {"hue": int(hues[top]) if top >= 0 else -1})
    return out


def choose_hues(centres: np.ndarray) -> np.ndarray:
    """(C,) hue, 0 to 8, of clusters with mean directions (C, D).

    More than 9 clusters are joined by Ward's linkage; hues are numbered in the order of their first
    cluster.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(centres) <= HUES:
        return np.arange(len(centres))
    joined = fcluster(linkage(centres, "ward"), HUES, "maxclust")
    _, first, inverse = np.unique(joined, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


# ------------------------------------------------------------ parts of the proof


def add_stability(
    records: list[dict], subsamples: list[Stability | None], seeds: list[Stability | None]
) -> list[dict]:
    """The records with `jaccard` (in subsamples) and `jaccard_seeds`, None where none were tried.

    `subsamples` and `seeds` hold one entry a level.
    """

    def overlap(replicates: list[Stability | None], record: dict) -> float | None:
        measured = replicates[record["layer"]] if replicates else None
        return None if measured is None else round(float(measured.jaccard[record["group"]]), 4)

    return [
        r | {"jaccard": overlap(subsamples, r), "jaccard_seeds": overlap(seeds, r)} for r in records
    ]


def kept_share(records: list[dict], level: int) -> float | None:
    """Share of a level's clusters with a Jaccard of at least 0.5 in subsamples."""
    jaccard = [r["jaccard"] for r in records if r["layer"] == level and r["jaccard"] is not None]
    return round(float(np.mean([j >= DISSOLVED for j in jaccard])), 4) if jaccard else None


def measure_firing(
    counted: Coactivation, labels: np.ndarray, alive: np.ndarray, density: np.ndarray, seed: int
) -> tuple[dict, np.ndarray, dict[tuple[int, int], float]]:
    """Compare clusters with co-activation: (entry `firing` of proof.json, graph clusters, phi).

    `labels` (N, L) are those of the features `alive` (N,). The entry holds `layers`, one for each
    level (within: value, null, spread, z, p; between; shuffled; n_features; n_pairs) or None, and
    `graph`: the number of clusters of the co-activation graph and their adjusted mutual information
    with the finest level. The graph clusters are (F,); phi within is {(level, cluster): mean phi}.
    """
    row_of = {int(feature): row for feature, row in zip(alive, labels, strict=True)}
    own = np.array([row_of[int(f)] for f in counted.chosen])
    own = own.reshape(len(counted.chosen), labels.shape[1])
    levels: list[dict[str, Any] | None] = []
    within: dict[tuple[int, int], float] = {}
    for level in range(labels.shape[1]):
        test = compare_within(counted.pairs, own[:, level], density[counted.chosen], seed)
        levels.append(
            None
            if test is None
            else test.within.to_dict()
            | {
                "between": test.between,
                "shuffled": [round(s, 6) for s in test.shuffled],
                "n_features": test.n_features,
                "n_pairs": test.n_pairs,
            }
        )
        by_cluster = phi_by_cluster(counted.pairs, own[:, level])
        within |= {(level, c): round(value, 5) for c, value in by_cluster.items()}
    finest = take_finest(labels)
    graph = cluster_partner_graph(counted, int(finest.max(initial=-1)) + 1, seed)
    agreed = mutual_information(finest, graph[alive], density[alive], seed)
    ami = None if agreed is None else agreed.to_dict()
    n_graph = int(graph.max(initial=-1)) + 1
    return {"layers": levels, "graph": {"groups": n_graph, "ami": ami}}, graph, within

"""Tables of the cluster stage: a row a feature, a record a group, duplicates, and the parts of the proof."""

from __future__ import annotations

import numpy as np
import pandas as pd

from autointerp.clusters.coactivation import (
    Coactivation,
    graph_groups,
    mutual_information,
    phi_by_group,
    within_groups,
)
from autointerp.clusters.grouping import NeighbourGraph, pair_cosine
from autointerp.clusters.tree import Tree, leaves, persistence, strength
from autointerp.clusters.validation import DISSOLVED, Stability

DUPLICATE, DENSE = 0.98, 0.10  # cosine; share of tokens
VOTERS, EXEMPLARS = 15, 5  # neighbours that vote, members shown for a group
FAMILIES = 9  # as many as there are colours that stay apart


def feature_table(
    ground: NeighbourGraph,
    labels: np.ndarray,
    probability: np.ndarray,
    layout: np.ndarray,
    live: np.ndarray,
    density: np.ndarray,
) -> pd.DataFrame:
    """A row a feature: feature, status (alive, dense, isolated, dead), x, y, group (finest layer), suggested, strength, nn_feature, nn_cosine,
    probability, and layer_0 (coarsest), layer_1, ... as far as there are layers. `labels` is (N, L) for the N live features."""
    n, isolated = len(density), ~np.isin(np.arange(len(live)), ground.inside)
    status = np.full(n, "dead", dtype=object)
    status[live] = np.select([isolated, density[live] > DENSE], ["isolated", "dense"], "alive")
    group = finest(labels)
    suggested, share = vote(group, ground.rows, ground.cosines)
    columns = {
        "x": (layout[:, 0], np.nan), "y": (layout[:, 1], np.nan), "group": (group, -1), "suggested": (suggested, -1),
        "strength": (share.astype(np.float32), 0), "nn_feature": (live[ground.rows[:, 1]], -1), "nn_cosine": (ground.cosines[:, 1], 0),
        "probability": (probability.astype(np.float32), 0), **{f"layer_{i}": (labels[:, i], -1) for i in range(labels.shape[1])},
    }  # fmt: skip
    full = {
        name: padded(values, live, (n,), missing) for name, (values, missing) in columns.items()
    }
    return pd.DataFrame({"feature": np.arange(n, dtype=np.int32), "status": status, **full})


def finest(labels: np.ndarray) -> np.ndarray:
    """(N,) the groups of the last layer, all -1 without any."""
    return labels[:, -1] if labels.shape[1] else np.full(len(labels), -1, np.int32)


def vote(group: np.ndarray, rows: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(suggested group (N,), strength (N,)): the group with most cosine among the 15 nearest directions, and its share of all 15.

    -1 and 0 where none of them has a group. A member is suggested its own group, with that group's share.
    """
    near, weights = group[rows[:, 1 : VOTERS + 1]], np.maximum(cosines[:, 1 : VOTERS + 1], 0)
    same = (
        near[:, :, None] == near[:, None, :]
    )  # (N, 15, 15) a vote for each neighbour's group, repeated where they share it
    for_each = np.where(near >= 0, np.where(same, weights[:, None, :], 0).sum(2), 0)
    best = near[np.arange(len(near)), for_each.argmax(1)]
    suggested = np.where(group >= 0, group, np.where(for_each.max(1) > 0, best, -1)).astype(
        np.int32
    )
    share = np.where((near == suggested[:, None]) & (near >= 0), weights, 0).sum(1) / np.maximum(
        weights.sum(1), 1e-12
    )
    return suggested, share


def memberships(tree: Tree, m: int, inside: np.ndarray, n: int) -> np.ndarray:
    """(n,) strength of each row's membership in its group of the layer with smallest size m, 0 without a group."""
    probability = np.zeros(n)
    for node in leaves(tree, m).tolist():
        points, value = strength(tree, node, m)
        probability[inside[points]] = value
    return probability


def padded(values: np.ndarray, live: np.ndarray, shape: tuple, missing) -> np.ndarray:
    """Values of the live features spread over all features; `missing` elsewhere and in columns that are not there."""
    full = np.full(shape, missing, values.dtype)
    full[(live, slice(0, values.shape[1])) if values.ndim == 2 else live] = values
    return full


def duplicates(ground: NeighbourGraph, live: np.ndarray) -> list[list]:
    """[feature, feature, cosine] of pairs above 0.98 among the 50 nearest: one direction that the SAE has learned twice."""
    row, column = np.nonzero(ground.cosines[:, 1:] > DUPLICATE)
    pairs = {
        tuple(sorted((int(live[r]), int(live[ground.rows[r, c + 1]])))): round(
            float(ground.cosines[r, c + 1]), 5
        )
        for r, c in zip(row, column, strict=True)
    }
    return [[a, b, cosine] for (a, b), cosine in sorted(pairs.items())]


def describe_groups(
    x: np.ndarray, tree: Tree | None, sizes: list[int], labels: np.ndarray, live: np.ndarray
) -> list[dict]:
    """A record for each group of each layer, coarsest first: layer, group, size, parent (group of the layer before, -1 none), path (groups of all
    layers before), medoid (the feature
    with most cosine to the others), exemplars, cosine (mean within), lasting (persistence over smallest sizes), family (hue, 0 to 8, or -1)."""
    records: list[dict] = []
    for layer, m in enumerate(sizes):
        lasting = persistence(tree, leaves(tree, m))
        for number in range(labels[:, layer].max(initial=-1) + 1):
            members = np.flatnonzero(labels[:, layer] == number)
            total = x[members].sum(0, dtype=np.float64)
            nearest_first = live[members[np.argsort(-(x[members] @ total), kind="stable")]]
            path = [int(g) for g in labels[members[0], :layer]]
            records.append({
                "layer": layer, "group": number, "size": len(members), "parent": path[-1] if layer else -1, "path": path, "medoid": int(nearest_first[0]),
                "exemplars": [int(f) for f in nearest_first[:EXEMPLARS]], "cosine": round(pair_cosine(total, len(members)), 4),
                "lasting": round(float(lasting[number]), 4),
            })  # fmt: skip
    return with_families(x, labels, records)


def with_families(x: np.ndarray, labels: np.ndarray, records: list[dict]) -> list[dict]:
    """The records with a family each: that of the group of the coarsest layer it lies in, or -1 where it lies in none."""
    if not records:
        return records
    tops = [x[labels[:, 0] == g].sum(0, dtype=np.float64) for g in range(labels[:, 0].max() + 1)]
    family = families(np.array([t / np.linalg.norm(t) for t in tops]))
    first = {
        (r["layer"], r["group"]): int(np.flatnonzero(labels[:, r["layer"]] == r["group"])[0])
        for r in records
    }
    above = {key: int(labels[row, 0]) for key, row in first.items()}
    return [
        r
        | {
            "family": int(family[above[r["layer"], r["group"]]])
            if above[r["layer"], r["group"]] >= 0
            else -1
        }
        for r in records
    ]


def families(centres: np.ndarray) -> np.ndarray:
    """At most 9 families of groups (G,) by Ward's linkage of their mean directions (G, D), numbered in the order of their first group."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(centres) <= FAMILIES:
        return np.arange(len(centres))
    names, first, inverse = np.unique(
        fcluster(linkage(centres, "ward"), FAMILIES, "maxclust"),
        return_index=True,
        return_inverse=True,
    )
    return np.argsort(np.argsort(first))[inverse]


# ------------------------------------------------------------ parts of the proof


def with_stability(
    records: list[dict], subsamples: list[Stability | None], seeds: list[Stability | None]
) -> list[dict]:
    """The records with `jaccard` (in subsamples) and `jaccard_seeds`, None where none were tried; `subsamples` and `seeds` hold one entry a layer."""

    def overlap(tried: list[Stability | None], record: dict) -> float | None:
        found = tried[record["layer"]] if tried else None
        return None if found is None else round(float(found.jaccard[record["group"]]), 4)

    return [
        r | {"jaccard": overlap(subsamples, r), "jaccard_seeds": overlap(seeds, r)} for r in records
    ]


def kept_share(records: list[dict], layer: int) -> float | None:
    """Share of a layer's groups that come back in subsamples with a Jaccard of at least 0.5."""
    found = [r["jaccard"] for r in records if r["layer"] == layer and r["jaccard"] is not None]
    return round(float(np.mean([j >= DISSOLVED for j in found])), 4) if found else None


def firing_proof(
    found: Coactivation, labels: np.ndarray, live: np.ndarray, density: np.ndarray, seed: int
) -> tuple[dict, np.ndarray, dict]:
    """(figures, (F,) groups of the co-activation graph, {(layer, group): phi within}). `labels` (N, L) are those of the live features.

    Figures: `layers`, one entry each with within (value, null, spread, z, p), between, shuffled, n_features, n_pairs, or None; `graph` with its number
    of groups and the adjusted mutual information with the finest layer's groups.
    """
    group = {int(f): row for f, row in zip(live, labels, strict=True)}
    own = np.array([group[int(f)] for f in found.chosen]).reshape(
        len(found.chosen), labels.shape[1]
    )
    layers, within = [], {}
    for layer in range(labels.shape[1]):
        tested = within_groups(found.pairs, own[:, layer], density[found.chosen], seed)
        layers.append(None if tested is None else tested.within.table() | {
            "between": tested.between, "shuffled": [round(s, 6) for s in tested.shuffled], "n_features": tested.n_features, "n_pairs": tested.n_pairs,
        })  # fmt: skip
        within |= {
            (layer, g): round(v, 5) for g, v in phi_by_group(found.pairs, own[:, layer]).items()
        }
    n_groups = int(finest(labels).max(initial=-1)) + 1
    graph = graph_groups(found, n_groups, seed)
    agreed = mutual_information(finest(labels), graph[live], density[live], seed)
    return (
        {
            "layers": layers,
            "graph": {
                "groups": int(graph.max(initial=-1)) + 1,
                "ami": None if agreed is None else agreed.table(),
            },
        },
        graph,
        within,
    )

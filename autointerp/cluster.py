"""Stage `cluster`: decoder directions -> neighbours, groups and a map, next to what the same method finds in noise.

Dead features are left out. A feature whose nearest direction is no nearer than chance is *isolated* and set aside before UMAP, which
would glue it to some group. The others, partly decorrelated, get neighbours (FAISS, exact), a 10-dimensional UMAP in which HDBSCAN finds
groups, and a separate 2-dimensional one to look at: the picture is never what is clustered. What HDBSCAN calls noise stays in group -1; the group
that its nearest directions vote for stands beside it as a suggestion. On the map, isolated features stand on a rim around the others.

UMAP with HDBSCAN finds groups in anything. So the same method runs on Gaussian directions with the same mean and covariance, and what it
finds there stands in the summary beside the real figures; and members of a group are compared by the tokens on which they fire, which
the method never saw, with groups whose members were shuffled among features of like density.

Files: features.parquet (a row for each of the F features), neighbours.npy int32 (F, 10) with -1 where there is none, cosines.npy
float32 (F, 10), embedding.npy float32 (F, dimensions) with NaN outside the space of the groups, groups.json, duplicates.json.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from autointerp.embedding import (
    chance_cosine,
    covariance_twin,
    decorrelated,
    nearest,
    neighbour_recall,
    principal,
    rim,
    umap_layout,
    umap_neighbours,
    unit_rows,
)
from autointerp.postings import Postings
from autointerp.settings import ClusterSettings
from core.corpus import Tokens
from core.errors import UsageError
from core.files import read_array, write_array, write_json, write_table
from core.records import Manifest
from core.run import Run

UNIT, VERSION = "cluster", 1
LEAST = 16  # live features below which there is nothing to group
CONNECTED_SHARE = 0.05  # fewer than this are noise: of random directions 1 % pass for connected
MIN_SAMPLES = 3  # of 1, 3 and 5 on 2,048 real directions: 33, 48 and 58 % noise, at the same likeness within groups
DUPLICATE, DENSE = 0.98, 0.10  # cosine; share of tokens
KEPT, VOTERS, EXEMPLARS = 10, 15, 5  # neighbours written, neighbours that vote, members shown for a group
FAMILIES = 9  # as many as there are colours that stay apart


@dataclass(frozen=True)
class Grouping:
    """What the method finds in N unit rows."""

    rows: np.ndarray  # (N, k + 1) int32 nearest rows, each row itself first
    cosines: np.ndarray  # (N, k + 1) float32
    inside: np.ndarray  # (M,) rows that are nearer to another than chance; the others are isolated
    shaped: np.ndarray | None  # (M, D) unit rows among which groups are sought; None where too few are inside
    near: tuple[np.ndarray, np.ndarray] | None  # rows and cosines of the nearest among `shaped`, numbered within it
    space: np.ndarray  # (N, dimensions) UMAP coordinates, NaN where isolated
    group: np.ndarray  # (N,) int32: 0 is the largest, -1 none
    probability: np.ndarray  # (N,) strength of membership by HDBSCAN, 0 without a group


def cluster(run: Run, settings: ClusterSettings, redo: bool = False) -> Manifest:
    """Make the unit `cluster`. Raises UsageError when a setting is out of range or too few features are live."""
    work = run.begin(UNIT, VERSION, settings, ["train", "index"], redo)
    if work is None:
        return run.manifest(UNIT)
    seed, capture = run.settings.seed, run.folder("capture")
    directions = read_array(run.folder("train") / "directions.npy", mapped=False)
    postings = Postings(run.folder("index"), capture)
    density = postings.n_firings / postings.n_tokens
    live = np.flatnonzero((density > 0) & (np.abs(directions).max(1) > 0)).astype(np.int32)
    check(settings, len(live), len(directions))
    x = unit_rows(directions[live])
    found = find_groups(x, settings, seed)
    layout, recall = map_layout(x, found, settings, seed)
    write_table(work.folder / "features.parquet", feature_table(found, layout, live, density))
    neighbours = padded(live[found.rows[:, 1 : KEPT + 1]], live, (len(directions), KEPT), -1)
    write_array(work.folder / "neighbours.npy", neighbours)
    write_array(work.folder / "cosines.npy", padded(found.cosines[:, 1 : KEPT + 1], live, (len(directions), KEPT), 0))
    write_array(work.folder / "embedding.npy", padded(found.space, live, (len(directions), found.space.shape[1]), np.nan))
    write_json(work.folder / "groups.json", describe_groups(x, found, live))
    write_json(work.folder / "duplicates.json", duplicates(found, live))
    counts = {"features": len(directions), "live": len(live), "dead": len(directions) - len(live), "dense": int((density > DENSE).sum())}
    tokens = strongest_tokens(postings, Tokens(capture), live)
    meaning = likeness(tokens, found.group, density[live], seed)
    return work.commit(counts | summarise(x, found, live) | {"recall": recall} | meaning | null_figures(x, settings, seed))


def check(settings: ClusterSettings, n_live: int, n_features: int) -> None:
    """Raises UsageError for settings that cannot be used, or too few live features."""
    if not 5 <= settings.dimensions <= 15:
        raise UsageError(f"dimensions is {settings.dimensions}.", "Use 5 to 15: --dimensions 10.")
    if not 0 <= settings.decorrelate <= 1:
        raise UsageError(f"decorrelate is {settings.decorrelate}.", "Use 0 to 1: --decorrelate 0.5.")
    if settings.neighbours < 3 or settings.min_size < 0 or settings.min_size == 1 or settings.nulls < 0:
        found = f"neighbours is {settings.neighbours}, min_size {settings.min_size}, nulls {settings.nulls}."
        raise UsageError(found, "neighbours must be at least 3, min_size 0 or at least 2, nulls at least 0.")
    if n_live < LEAST:
        raise UsageError(f"Only {n_live} of {n_features} features ever fire; at least {LEAST} are needed.", "Capture more text, or train longer.")


# ------------------------------------------------------------ groups


def find_groups(x: np.ndarray, settings: ClusterSettings, seed: int) -> Grouping:
    """Neighbours, isolation and groups of unit rows (N, D).

    Groups are sought where the covariance that all directions share is half taken out. On 2,048 real directions that made the nearest
    neighbour 45 % more alike in the tokens it fires on, and groups 30 %; centring alone changed neither.
    """
    n = len(x)
    rows, cosines = nearest(x, min(50, n - 1))
    inside = np.flatnonzero(cosines[:, 1] > chance_cosine(n, x.shape[1]))
    space, group, probability = np.full((n, settings.dimensions), np.nan, np.float32), np.full(n, -1, np.int32), np.zeros(n)
    if len(inside) < max(LEAST, CONNECTED_SHARE * n):
        return Grouping(rows, cosines, inside, None, None, space, group, probability)
    shaped = decorrelated(x[inside], settings.decorrelate)
    near = nearest(shaped, min(50, len(inside) - 1))
    dimensions = min(settings.dimensions, x.shape[1], len(inside) - 2)
    space[inside, :dimensions] = umap_layout(shaped, graph_of(near, settings), dimensions, 0.0, seed)
    group[inside], probability[inside] = dense_regions(space[inside, :dimensions], settings.min_size or max(5, round(n / 200)))
    return Grouping(rows, cosines, inside, shaped, near, space, group, probability)


def graph_of(near: tuple[np.ndarray, np.ndarray], settings: ClusterSettings) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours that UMAP gets: at most a third of all, or a small cloud becomes one blob."""
    return umap_neighbours(*near, min(settings.neighbours, near[0].shape[1], max(5, len(near[0]) // 3)))


def dense_regions(points: np.ndarray, min_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(group (N,) int32, strength (N,)) by HDBSCAN; groups are numbered by size, the largest 0, ties by their first member.

    Excess of mass, which finds groups of unlike size; but it has cliffs where nearly all points fall into two groups (real directions
    gave 53 groups of at least 5, but 2 of at least 10). Where one group holds over half of the points, the leaves of the same tree are taken.
    """
    from hdbscan import HDBSCAN

    for selection in ("eom", "leaf"):
        model = HDBSCAN(
            min_cluster_size=min(min_size, len(points)), min_samples=MIN_SAMPLES, metric="euclidean", cluster_selection_method=selection,
            approx_min_span_tree=False, core_dist_n_jobs=1,
        )  # fmt: skip
        labels = model.fit_predict(points.astype(np.float64))
        names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
        if not len(counts) or counts.max() <= len(points) / 2:
            break
    number = np.full(len(names) + 1, -1, np.int32)  # the last entry is for label -1
    number[names[np.lexsort((first, -counts))]] = np.arange(len(names))
    return number[labels], model.probabilities_


def vote(found: Grouping) -> tuple[np.ndarray, np.ndarray]:
    """(suggested group (N,), strength (N,)): the group with most cosine among the 15 nearest directions, and its share of all 15.

    -1 and 0 where none of them has a group. A member is suggested its own group, with that group's share.
    """
    near, weights = found.group[found.rows[:, 1 : VOTERS + 1]], np.maximum(found.cosines[:, 1 : VOTERS + 1], 0)
    votes = np.zeros((len(near), found.group.max() + 2))  # last column: no group
    np.add.at(votes, (np.arange(len(near))[:, None], near), weights)
    best = votes[:, :-1].argmax(1) if votes.shape[1] > 1 else np.full(len(near), -1)
    suggested = np.where(found.group >= 0, found.group, best).astype(np.int32)
    strength = np.where(suggested >= 0, votes[np.arange(len(near)), suggested], 0) / np.maximum(weights.sum(1), 1e-12)
    voted = (strength > 0) | (found.group >= 0)
    return np.where(voted, suggested, -1).astype(np.int32), strength


def map_layout(x: np.ndarray, found: Grouping, settings: ClusterSettings, seed: int) -> tuple[np.ndarray, float | None]:
    """((N, 2) positions, recall at 15 among the rows inside). Without groups' space: principal coordinates, and no recall."""
    if found.near is None:
        return principal(x, 2), None
    layout = np.zeros((len(x), 2), np.float32)
    layout[found.inside] = umap_layout(found.shaped, graph_of(found.near, settings), 2, settings.spread, seed)
    outside = np.setdiff1d(np.arange(len(x)), found.inside)
    return rim(layout, outside, found.rows[outside, 1 : KEPT + 1]), round(neighbour_recall(found.near[0], layout[found.inside]), 4)


# ------------------------------------------------------------ tables


def feature_table(found: Grouping, layout: np.ndarray, live: np.ndarray, density: np.ndarray) -> pd.DataFrame:
    """A row a feature: feature, status (alive, dense, isolated, dead), x, y, group, suggested, strength, nn_feature, nn_cosine, probability."""
    n, isolated = len(density), ~np.isin(np.arange(len(live)), found.inside)
    status = np.full(n, "dead", dtype=object)
    status[live] = np.select([isolated, density[live] > DENSE], ["isolated", "dense"], "alive")
    suggested, strength = vote(found)
    columns = {
        "x": (layout[:, 0], np.nan), "y": (layout[:, 1], np.nan), "group": (found.group, -1), "suggested": (suggested, -1),
        "strength": (strength.astype(np.float32), 0), "nn_feature": (live[found.rows[:, 1]], -1), "nn_cosine": (found.cosines[:, 1], 0),
        "probability": (found.probability.astype(np.float32), 0),
    }  # fmt: skip
    full = {name: padded(values, live, (n,), missing) for name, (values, missing) in columns.items()}
    return pd.DataFrame({"feature": np.arange(n, dtype=np.int32), "status": status, **full})


def padded(values: np.ndarray, live: np.ndarray, shape: tuple, missing) -> np.ndarray:
    """Values of the live features spread over all features; `missing` elsewhere and in columns that are not there."""
    full = np.full(shape, missing, values.dtype)
    full[(live, slice(0, values.shape[1])) if values.ndim == 2 else live] = values
    return full


def duplicates(found: Grouping, live: np.ndarray) -> list[list]:
    """[feature, feature, cosine] of pairs above 0.98 among the 50 nearest: one direction that the SAE has learned twice."""
    row, column = np.nonzero(found.cosines[:, 1:] > DUPLICATE)
    pairs = {tuple(sorted((int(live[r]), int(live[found.rows[r, c + 1]])))): round(float(found.cosines[r, c + 1]), 5) for r, c in zip(row, column, strict=True)}
    return [[a, b, cosine] for (a, b), cosine in sorted(pairs.items())]


def describe_groups(x: np.ndarray, found: Grouping, live: np.ndarray) -> list[dict]:
    """group, size, medoid (the feature with most cosine to the others), exemplars, mean cosine within, family (of groups, at most 9)."""
    groups, centres = [], []
    for number in range(found.group.max() + 1):
        members = np.flatnonzero(found.group == number)
        total = x[members].sum(0, dtype=np.float64)
        nearest_first = live[members[np.argsort(-(x[members] @ total), kind="stable")]]
        exemplars = [int(f) for f in nearest_first[:EXEMPLARS]]
        cosine = round(pair_cosine(total, len(members)), 4)
        groups.append({"group": number, "size": len(members), "medoid": exemplars[0], "exemplars": exemplars, "cosine": cosine})
        centres.append(total / np.linalg.norm(total))
    return [g | {"family": int(f)} for g, f in zip(groups, families(np.array(centres)), strict=True)]


def families(centres: np.ndarray) -> np.ndarray:
    """At most 9 families of groups (G,) by Ward's linkage of their mean directions (G, D), numbered in the order of their first group."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(centres) <= FAMILIES:
        return np.arange(len(centres))
    names, first, inverse = np.unique(fcluster(linkage(centres, "ward"), FAMILIES, "maxclust"), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def pair_cosine(total: np.ndarray, n: int) -> float:
    """Mean cosine over pairs of n unit rows from their sum: (|sum|^2 - n) / (n (n - 1))."""
    return float((total @ total - n) / (n * (n - 1)))


# ------------------------------------------------------------ figures and nulls


def summarise(x: np.ndarray, found: Grouping, live: np.ndarray) -> dict:
    """Counts of one grouping, and the mean cosine within its groups."""
    grouped = int((found.group >= 0).sum())
    cosines = [g["cosine"] for g in describe_groups(x, found, live)]
    noise = len(found.inside) - grouped
    return {
        "isolated": len(x) - len(found.inside), "duplicates": len(duplicates(found, live)), "groups": len(cosines), "grouped": grouped,
        "noise": noise, "noise_share": round(noise / len(x), 4), "cosine_within": round(float(np.mean(cosines)), 4) if cosines else None,
    }  # fmt: skip


def null_figures(x: np.ndarray, settings: ClusterSettings, seed: int) -> dict:
    """Groups, share of noise and cosine within groups that the method finds in Gaussian rows with x's mean and covariance."""
    found = []
    for number in range(settings.nulls):
        twin = covariance_twin(x, np.random.default_rng([seed, number]))
        found.append(summarise(twin, find_groups(twin, settings, seed), np.arange(len(x))))
    names = ("groups", "isolated", "noise_share", "cosine_within")
    return {f"null_{name}": [f[name] for f in found] for name in names}


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
    counts = csr_matrix((np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))), shape=(len(live), len(tokens.vocabulary)))
    return counts.multiply(1 / counts.sum(1)).sqrt().tocsr()


def likeness(tokens, group: np.ndarray, density: np.ndarray, seed: int, n_shuffles: int = 20) -> dict:
    """Mean Bhattacharyya overlap of the tokens of two members of a group, 0..1, and the same after shuffling members.

    Features change places only with others of their tenth of the densities: dense features resemble everything.
    """
    if not (group >= 0).any():
        return {"likeness": None, "null_likeness": None}
    stratum = np.argsort(np.argsort(density, kind="stable")) * 10 // len(density)
    rng = np.random.default_rng(seed)
    shuffled = []
    for _ in range(n_shuffles):
        other = group.copy()
        for s in range(10):
            here = np.flatnonzero((stratum == s) & (group >= 0))
            other[here] = group[rng.permutation(here)]
        shuffled.append(mean_overlap(tokens, other))
    return {"likeness": round(mean_overlap(tokens, group), 4), "null_likeness": round(float(np.mean(shuffled)), 4)}


def mean_overlap(tokens, group: np.ndarray) -> float:
    """Mean inner product over pairs of rows in the same group, every pair counting once."""
    total = pairs = 0.0
    for number in range(group.max() + 1):
        members = tokens[group == number]
        n, mean = members.shape[0], np.asarray(members.sum(0)).ravel()
        total, pairs = total + mean @ mean - n, pairs + n * (n - 1)
    return float(total / pairs)

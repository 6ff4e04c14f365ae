"""Stage `cluster`: decoder directions -> neighbours, families, levels of clusters, a map.

Dead features are left out. Families (see `families`) are the finest level: small sets of near
directions that a cloud without clusters does not have. Above them stand up to three nested levels
of clusters. A feature whose nearest direction is no nearer than chance is *isolated*
and set aside before UMAP, which would otherwise attach it to some cluster. The other directions are
partly decorrelated and get exact neighbours (FAISS) and a 10-dimensional UMAP; one HDBSCAN tree of
that space is cut at up to three sizes. A separate 2-dimensional UMAP is the map: the picture is
never what is clustered. A feature in no cluster keeps -1; the cluster that its nearest directions
vote for is stored beside it as a suggestion. On the map, isolated features stand in a strip below
the others. When a map replaces an earlier one, it is rotated to fit it.

The stage also measures what the clusters are worth: see `validation`, `replicates`, `coactivation`
and `similarity`. `unit` describes the files. Each step writes into `steps/` what the next needs,
so that a killed stage continues where it stopped; a committed unit has no such folder.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autointerp.clusters import replicates, unit
from autointerp.clusters.coactivation import SAMPLED, Coactivation, count_pairs
from autointerp.clusters.family_kinds import add_kinds
from autointerp.clusters.family_table import (
    describe_families,
    prove_families,
    summarise_families,
)
from autointerp.clusters.geometry import (
    align,
    count_directions,
    neighbour_recall,
    place_in_strip,
    principal_coordinates,
    turn_upright,
    unit_rows,
)
from autointerp.clusters.grouping import (
    LEAST,
    NeighbourGraph,
    build_graph,
    build_tree,
    cohesion,
    label_levels,
)
from autointerp.clusters.similarity import similarity_within, strongest_tokens
from autointerp.clusters.summary import render_summary, summarise
from autointerp.clusters.tables import (
    DENSE,
    add_stability,
    describe_clusters,
    find_duplicates,
    kept_share,
    make_feature_table,
    measure_firing,
    membership_strengths,
    spread_rows,
    take_finest,
)
from autointerp.clusters.tree import Tree
from autointerp.clusters.validation import Stability, judge, measure_stability
from autointerp.settings import ClusterSettings
from core.errors import UsageError
from core.files import read_array, read_json, write_array, write_json
from core.firings.postings import Postings
from core.progress import say
from core.run import Run
from core.settings import key_table
from core.text.tokens import Tokens
from core.training.unit import read_directions

KEPT = 20  # neighbours written


def cluster(run: Run, settings: ClusterSettings, folder: Path) -> dict:
    """Write the files of the unit `cluster` into `folder`; returns the summary.

    Raises UsageError when a setting is out of range or too few features are alive.
    """
    seed = run.settings.seed
    postings = Postings(run.folder("index"), run.folder("capture"))
    density = postings.n_firings / postings.n_tokens
    directions = read_directions(run, mapped=False)
    alive = np.flatnonzero((density > 0) & (np.abs(directions).max(1) > 0)).astype(np.int32)
    check(settings, len(alive), len(directions))
    x = unit_rows(directions[alive])
    n_empty = int((np.abs(directions).max(1) == 0).sum())
    check_distinct(x, n_empty, seed)
    del directions
    steps = folder / "steps"
    graph = make_graph(steps, x, settings, seed)
    with replicates.run_beside(steps):
        counted = measure_coactivation(folder, postings, seed, alive)
        text = Tokens(run.folder("capture"))
        tokens = strongest_tokens(postings, text, alive)
    levels, found = read_levels(steps, graph, x), read_json(steps / "families.json")
    family = spread_rows(np.array(found["family"], np.int32), alive, (len(density),), -1)
    families = add_kinds(describe_families(x, found, alive), family, postings, text, seed)
    validation = validate(steps, x, graph, levels, settings, seed)
    records = describe_clusters(x, levels.tree, levels.sizes, levels.labels, alive)
    records = add_stability(records, validation.subsamples, validation.seeds)
    kept = [kept_share(records, level) for level in range(len(levels.sizes))]
    firing, graph_clusters, within = measure_firing(counted, levels.labels, alive, density, seed)
    finest = take_finest(levels.labels)
    similarity = similarity_within(tokens, finest, density[alive], seed)
    proof = validation.proof | {"kept": kept, "firing": firing, "tokens": similarity}
    proof |= judge_levels(levels, proof)
    records = [r | {"phi": within.get((r["layer"], r["group"]))} for r in records]

    proof |= {"families": prove_families(found)}
    probability = levels.membership(graph, len(x))
    layout = fit_earlier_map(levels.layout, run, alive, graph)
    table = make_feature_table(graph, levels.labels, probability, layout, alive, density)
    table.insert(4, "family", family)
    pairs = find_duplicates(graph, alive)
    unit.write_tables(folder, table, records, proof, pairs)
    unit.write_families(folder, families)
    unit.write_graph_clusters(folder, graph_clusters)
    write_directions(folder, graph, steps, alive, len(density))
    shutil.rmtree(steps)
    summary = count_features(density, alive) | {"without_direction": n_empty}
    summary |= summarise_families(families, found)
    summary |= summarise(graph, levels.labels, records, proof, len(pairs))
    say("\n".join(render_summary(summary)))
    return summary


def count_features(density: np.ndarray, alive: np.ndarray) -> dict:
    """How many of F features there are, are alive, are dead, fire on over a tenth of the tokens."""
    n_dense = int((density > DENSE).sum())
    n, n_alive = len(density), len(alive)
    return {"features": n, "alive": n_alive, "dead": n - n_alive, "dense": n_dense}


def check(settings: ClusterSettings, n_alive: int, n_features: int) -> None:
    """Raises UsageError for settings out of range, or too few features that ever fire."""
    if not 0 <= settings.decorrelate <= 1:
        raise UsageError(
            f"decorrelate is {settings.decorrelate}.", "Use 0 to 1: --decorrelate 0.5."
        )
    if min(settings.nulls, settings.seeds, settings.subsamples) < 0:
        raise UsageError(
            f"nulls, seeds, subsamples are {settings.nulls}, {settings.seeds}, "
            f"{settings.subsamples}.",
            "None can be below 0; 0 leaves the comparison out.",
        )
    if n_alive < LEAST:
        raise UsageError(
            f"Only {n_alive} of {n_features} features ever fire; at least {LEAST} are needed.",
            "Capture more text, or train longer.",
        )


def check_distinct(x: np.ndarray, n_empty: int, seed: int) -> None:
    """Raises UsageError where unit rows x (N, D) are too few different directions to cluster."""
    n_distinct = count_directions(x, seed)
    if n_distinct < LEAST:
        empty = f"; {n_empty} more are of length zero" if n_empty else ""
        raise UsageError(
            f"The {len(x)} decoder rows point in {n_distinct} different directions{empty}; at "
            f"least {LEAST} are needed.",
            "The SAE is degenerate: train it longer or with another seed, or take another one.",
        )


# ------------------------------------------------------------ steps


def make_graph(steps: Path, x: np.ndarray, settings: ClusterSettings, seed: int) -> NeighbourGraph:
    """The neighbour graph of unit rows x (N, D), from the files of a killed stage if complete."""
    if not (steps / "plan.json").exists():
        steps.mkdir(exist_ok=True)
        graph = build_graph(x, settings.decorrelate)
        replicates.write_inputs(steps, x, graph, key_table(settings), seed)
    return replicates.read_graph(steps)


def measure_coactivation(
    folder: Path, postings: Postings, seed: int, alive: np.ndarray
) -> Coactivation:
    """Partners of every feature, from the files of a killed stage if complete."""
    steps = folder / "steps"
    last = steps / "pairs.npy"
    if not last.exists():
        counted = count_pairs(postings, SAMPLED, seed, alive)
        write_json(steps / "sampled.json", counted.n_tokens)
        partners = unit.Partners(counted.partners, counted.phi, counted.shared)
        unit.write_partners(folder, partners)
        write_array(steps / "counts.npy", counted.counts)
        write_array(steps / "chosen.npy", counted.chosen)
        write_array(last, counted.pairs)
    partners = unit.load_partners(folder, mapped=False)
    counts, chosen, pairs = (
        read_array(steps / f"{name}.npy", mapped=False) for name in ("counts", "chosen", "pairs")
    )
    return Coactivation(read_json(steps / "sampled.json"), counts, *partners, chosen, pairs)


@dataclass(frozen=True)
class Levels:
    """The clusters of N features at L levels, and the map."""

    tree: Tree | None  # None where too few features are connected to be clustered
    sizes: list[int]  # smallest cluster size of each level, coarsest first
    labels: np.ndarray  # (N, L) int32 clusters, -1 none
    layout: np.ndarray  # (N, 2) float32 positions on the map, 0 for isolated features

    def membership(self, graph: NeighbourGraph, n: int) -> np.ndarray:
        """(n,) strength of each row's membership in its cluster of the finest level."""
        if self.tree is None or not self.sizes:
            return np.zeros(n)
        return membership_strengths(self.tree, self.sizes[-1], graph.inside, n)


def read_levels(steps: Path, graph: NeighbourGraph, x: np.ndarray) -> Levels:
    """The levels of unit rows x (N, D) from the layouts in `steps`.

    Where nothing could be clustered: no level, and principal coordinates as the map.
    """
    if graph.near is None:
        return Levels(None, [], np.zeros((len(x), 0), np.int32), principal_coordinates(x, 2))
    tree, sizes = build_tree(read_array(steps / "space.npy")), read_json(steps / "sizes.json")
    layout = np.zeros((len(x), 2), np.float32)
    layout[graph.inside] = turn_upright(read_array(steps / "map.npy"))
    return Levels(tree, sizes, label_levels(tree, sizes, graph.inside, len(x)), layout)


def fit_earlier_map(
    layout: np.ndarray, run: Run, alive: np.ndarray, graph: NeighbourGraph
) -> np.ndarray:
    """The map (N, 2): rotated to fit the committed map that it replaces, if there is one, and with
    isolated features in a strip below the others.
    """
    inside = graph.inside if graph.near is not None else np.arange(len(layout))
    layout, table = layout.copy(), unit.read_clusters(run)
    if table is not None and len(table) > alive.max():
        earlier = table[["x", "y"]].to_numpy(np.float32)
        earlier[(table["status"] == "isolated").to_numpy()] = np.nan
        layout[inside] = align(layout[inside], earlier[alive[inside]])
    outside = np.setdiff1d(np.arange(len(layout)), inside)
    return place_in_strip(layout, outside, graph.rows[outside, 1 : KEPT + 1])


@dataclass(frozen=True)
class Validation:
    """How the clusters compare with replicates."""

    subsamples: list[Stability | None]  # one entry a level
    seeds: list[Stability | None]
    proof: dict  # the geometric part of proof.json


def validate(
    steps: Path,
    x: np.ndarray,
    graph: NeighbourGraph,
    levels: Levels,
    settings: ClusterSettings,
    seed: int,
) -> Validation:
    """Compare the clusters of unit rows x (N, D) with the replicates in `steps`."""
    names = replicates.list_replicates(settings) if levels.sizes else []

    def clouds(kind: str) -> list[dict]:
        return [read_json(steps / f"{name}.json") for name in names if name.startswith(kind)]

    def stability_by_level(kind: str, rows: list[np.ndarray]) -> list[Stability | None]:
        labels = [read_array(steps / f"{name}.npy") for name in names if name.startswith(kind)]
        return [
            measure_stability(levels.labels[:, i], [other[:, i] for other in labels], rows)
            for i in range(len(levels.sizes))
        ]

    inside, n_subsamples = graph.inside, settings.subsamples if levels.sizes else 0
    kept = [inside[replicates.subsample(i, len(inside), seed)] for i in range(n_subsamples)]
    subsamples = stability_by_level("subsample", kept)
    seeds = stability_by_level("seed", [inside] * settings.seeds)
    proof = {
        "sizes": levels.sizes,
        "cohesion": round(cohesion(x, take_finest(levels.labels)), 6),
        "isolated": round(1 - len(inside) / len(x), 4),
        "nulls": clouds("null"),
        "uniform": clouds("uniform"),
        "columns": clouds("columns"),
        "recall_space": measure_recall(steps, graph, "space"),
        "recall_map": measure_recall(steps, graph, "map"),
        "subsamples": [stability_to_dict(s) for s in subsamples],
        "seeds": [stability_to_dict(s) for s in seeds],
    }
    return Validation(subsamples, seeds, proof)


def measure_recall(steps: Path, graph: NeighbourGraph, name: str) -> float | None:
    """Share of nearest directions that a layout keeps; None where there is no layout."""
    if graph.near is None:
        return None
    return round(neighbour_recall(graph.near[0], read_array(steps / f"{name}.npy")), 4)


def stability_to_dict(stability: Stability | None) -> dict | None:
    """The entry of a level in `subsamples` or `seeds` of proof.json."""
    if stability is None:
        return None
    clustered = stability.ari_grouped
    return {
        "ari": round(stability.ari, 4),
        "ari_grouped": None if clustered is None else round(clustered, 4),
    }


def judge_levels(levels: Levels, proof: dict) -> dict:
    """`verdict` and `kind` of proof.json."""
    n_clusters = int(take_finest(levels.labels).max(initial=-1)) + 1
    nulls = [null["cohesion"] for null in proof["nulls"]]
    kept = proof["kept"][-1] if proof["kept"] else None
    finest = proof["firing"]["layers"][-1] if proof["firing"]["layers"] else None
    verdict = judge(n_clusters, proof["cohesion"], nulls, kept, finest["p"] if finest else None)
    return {"verdict": verdict.text, "kind": verdict.kind}


def write_directions(
    folder: Path, graph: NeighbourGraph, steps: Path, alive: np.ndarray, n_features: int
) -> None:
    """Write nearest directions and the UMAP space, spread over all features."""
    near = alive[graph.rows[:, 1 : KEPT + 1]]
    cosines = np.asarray(graph.cosines[:, 1 : KEPT + 1])
    shape = (n_features, KEPT)
    unit.write_neighbours(
        folder,
        unit.Neighbours(spread_rows(near, alive, shape, -1), spread_rows(cosines, alive, shape, 0)),
    )
    space, owners = np.zeros((0, 1), np.float32), alive[:0]
    if graph.near is not None:
        space, owners = read_array(steps / "space.npy"), alive[graph.inside]
    unit.write_space(folder, spread_rows(space, owners, (n_features, space.shape[1]), np.nan))

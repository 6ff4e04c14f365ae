"""Stage `cluster`: decoder directions -> neighbours, three nested layers of groups, a map, partners, and proof of what the groups are worth.

Dead features are left out. A feature whose nearest direction is no nearer than chance is *isolated* and set aside before UMAP, which
would glue it to some group. The others, partly decorrelated, get neighbours (FAISS, exact), a 10-dimensional UMAP, one HDBSCAN tree of it
cut at up to three sizes, and a separate 2-dimensional UMAP to look at: the picture is never what is clustered. What is in no group keeps -1;
the group that its nearest directions vote for stands beside it as a suggestion. On the map, isolated features stand on a rim; a map made anew
is turned onto the one that it replaces. What the proof does is said in `proof.py`, `attempts.py` and `coactivation.py`.

Files, for F features; layer 0 is the coarsest, the last one the finest, there may be fewer than three or none:

    features.parquet      a row a feature: feature, status, x, y, group (finest layer), suggested, strength, nn_feature, nn_cosine, probability,
                          layer_0, layer_1, layer_2
    groups.json           a record a group: layer, group, size, parent, path, medoid, exemplars, cosine, lasting, family, jaccard, jaccard_seeds, phi
    proof.json            verdict, nulls, stability, co-activation within and between groups, AMI with the co-activation graph
    neighbours.npy        int32 (F, 20) nearest directions, -1 where there is none; cosines.npy float32 (F, 20)
    partners.npy          int32 (F, 20) features that fire on the same tokens, -1 where there are fewer; partners_phi.npy float32 (F, 20);
                          partners_shared.npy int32 (F, 20) sampled tokens on which both fire
    graph_groups.npy      int32 (F,) groups of the co-activation graph, -1 none
    embedding.npy         float32 (F, dimensions), NaN outside the space of the groups
    duplicates.json       [feature, feature, cosine] above 0.98

Each step writes into `steps/` what the next one needs, so that a killed stage goes on; the folder is gone from a committed unit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from autointerp.clusters import replicates as attempts
from autointerp.clusters.coactivation import Coactivation, count_pairs
from autointerp.clusters.geometry import (
    aligned,
    neighbour_recall,
    principal,
    rim,
    unit_rows,
    upright,
)
from autointerp.clusters.grouping import (
    LEAST,
    NeighbourGraph,
    cohesion,
    layer_labels,
    survey,
    tree_of_space,
)
from autointerp.clusters.similarity import likeness, strongest_tokens
from autointerp.clusters.tables import (
    DENSE,
    describe_groups,
    duplicates,
    feature_table,
    finest,
    firing_proof,
    kept_share,
    memberships,
    padded,
    with_stability,
)
from autointerp.clusters.tree import Tree
from autointerp.clusters.validation import Stability, stability, verdict
from autointerp.settings import ClusterSettings
from core.errors import UsageError
from core.files import read_array, read_json, write_array, write_json, write_table
from core.firings.postings import Postings
from core.progress import say
from core.records import Manifest
from core.run import Run, Work
from core.settings import key_table
from core.text.tokens import Tokens

UNIT, VERSION = "cluster", 2
KEPT = 20  # neighbours written


def cluster(run: Run, settings: ClusterSettings, redo: bool = False) -> Manifest:
    """Make the unit `cluster`. Raises UsageError when a setting is out of range or too few features are live."""
    earlier = earlier_map(run)
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
    del directions
    steps = work.folder / "steps"
    ground = neighbour_graph(steps, x, settings, seed)
    process = attempts.start(steps)
    try:
        fires = fire_together(work.folder, postings, settings, seed, live)
        tokens = strongest_tokens(postings, Tokens(capture), live)
    except BaseException:
        attempts.stop(process)
        raise
    attempts.finish(process)
    tree, sizes, labels, layout = results(steps, ground, x, settings, seed)
    probability = memberships(tree, sizes[-1], ground.inside, len(x)) if sizes else np.zeros(len(x))
    layout = (
        layout if earlier is None or len(earlier) <= live.max() else aligned(layout, earlier[live])
    )
    table = feature_table(ground, labels, probability, layout, live, density)
    records, proof = validate(steps, x, ground, tree, sizes, labels, live, settings, seed)
    firing, graph, within = firing_proof(fires, labels, live, density, seed)
    proof |= {"firing": firing, "tokens": likeness(tokens, finest(labels), density[live], seed)}
    finest_firing = firing["layers"][-1] if firing["layers"] else None
    found = verdict(
        int(finest(labels).max(initial=-1)) + 1, proof["cohesion"], [n["cohesion"] for n in proof["nulls"]],
        kept_share(records, len(sizes) - 1), finest_firing["p"] if finest_firing else None,
    )  # fmt: skip
    proof |= {"verdict": found.text, "kind": found.kind}
    records = [r | {"phi": within.get((r["layer"], r["group"]))} for r in records]
    write_unit(work, table, records, proof, graph)
    write_neighbours(work.folder, ground, steps, live, len(density))
    write_json(work.folder / "duplicates.json", duplicates(ground, live))
    shutil.rmtree(steps)
    counts = {
        "features": len(density),
        "live": len(live),
        "dead": len(density) - len(live),
        "dense": int((density > DENSE).sum()),
    }
    summary = counts | summarise(
        ground, labels, records, proof, read_json(work.folder / "duplicates.json")
    )
    say("\n".join(proof_lines(summary)))
    return work.commit(summary)


def check(settings: ClusterSettings, n_live: int, n_features: int) -> None:
    """Raises UsageError for settings that cannot be used, or too few live features."""
    if not 5 <= settings.dimensions <= 15:
        raise UsageError(f"dimensions is {settings.dimensions}.", "Use 5 to 15: --dimensions 10.")
    if not 0 <= settings.decorrelate <= 1:
        raise UsageError(
            f"decorrelate is {settings.decorrelate}.", "Use 0 to 1: --decorrelate 0.5."
        )
    if (
        settings.neighbours < 3
        or settings.min_size < 0
        or settings.min_size in (1, 2)
        or settings.tokens < 1
    ):
        found = f"neighbours is {settings.neighbours}, min_size {settings.min_size}, tokens {settings.tokens}."
        raise UsageError(
            found, "neighbours must be at least 3, min_size 0 or at least 3, tokens at least 1."
        )
    if min(settings.nulls, settings.seeds, settings.subsamples) < 0:
        raise UsageError(
            f"nulls, seeds, subsamples are {settings.nulls}, {settings.seeds}, {settings.subsamples}.",
            "None can be below 0; 0 leaves it out.",
        )
    if n_live < LEAST:
        raise UsageError(
            f"Only {n_live} of {n_features} features ever fire; at least {LEAST} are needed.",
            "Capture more text, or train longer.",
        )


# ------------------------------------------------------------ steps


def earlier_map(run: Run) -> np.ndarray | None:
    """(F, 2) positions on the committed map that is about to be replaced."""
    if run.find(UNIT) is None:
        return None
    return pd.read_parquet(run.folder(UNIT) / "features.parquet", columns=["x", "y"]).to_numpy(
        np.float32
    )


def neighbour_graph(
    steps: Path, x: np.ndarray, settings: ClusterSettings, seed: int
) -> NeighbourGraph:
    """Neighbours and isolation, from the files of a killed run where they are whole."""
    if not (steps / "plan.json").exists():
        steps.mkdir(exist_ok=True)
        attempts.write_ground(steps, x, survey(x, settings), key_table(settings), seed)
    return attempts.read_ground(steps)


def fire_together(
    folder: Path, postings: Postings, settings: ClusterSettings, seed: int, live: np.ndarray
) -> Coactivation:
    """Partners of every feature, from the files of a killed run where they are whole. pairs.npy is written last."""
    files = {
        "counts": "steps/counts",
        "partners": "partners",
        "phi": "partners_phi",
        "shared": "partners_shared",
        "chosen": "steps/chosen",
        "pairs": "steps/pairs",
    }
    if not (folder / "steps/pairs.npy").exists():
        found = count_pairs(postings, settings.tokens, seed, live)
        write_json(folder / "steps/sampled.json", found.n_tokens)
        for field, name in files.items():
            write_array(folder / f"{name}.npy", getattr(found, field))
    parts = {
        field: read_array(folder / f"{name}.npy", mapped=False) for field, name in files.items()
    }
    return Coactivation(read_json(folder / "steps/sampled.json"), **parts)


def results(
    steps: Path, ground: NeighbourGraph, x: np.ndarray, settings: ClusterSettings, seed: int
) -> tuple[Tree | None, list[int], np.ndarray, np.ndarray]:
    """(tree, smallest sizes, labels (N, L), map (N, 2)) of what the layouts gave. Without a space: principal coordinates, and no layer."""
    if ground.near is None:
        return None, [], np.zeros((len(x), 0), np.int32), principal(x, 2)
    tree, sizes = tree_of_space(read_array(steps / "space.npy")), read_json(steps / "sizes.json")
    layout = np.zeros((len(x), 2), np.float32)
    layout[ground.inside] = upright(read_array(steps / "map.npy"))
    outside = np.setdiff1d(np.arange(len(x)), ground.inside)
    return (
        tree,
        sizes,
        layer_labels(tree, sizes, ground.inside, len(x)),
        rim(layout, outside, ground.rows[outside, 1 : KEPT + 1]),
    )


def validate(
    steps: Path,
    x,
    ground: NeighbourGraph,
    tree,
    sizes: list[int],
    labels: np.ndarray,
    live: np.ndarray,
    settings: ClusterSettings,
    seed: int,
):
    """(records of the groups, the geometric part of the proof)."""
    inside, tried = ground.inside, attempts.names(settings) if sizes else []
    load = lambda kind: [
        read_array(steps / f"{name}.npy") for name in tried if name.startswith(kind)
    ]
    clouds = {
        kind: [read_json(steps / f"{name}.json") for name in tried if name.startswith(kind)]
        for kind in ("null", "uniform", "columns")
    }
    kept = [
        inside[attempts.subsample(i, len(inside), seed)]
        for i in range(settings.subsamples if sizes else 0)
    ]
    by_layer = lambda others, rows: [
        stability(labels[:, i], [o[:, i] for o in others], rows) for i in range(len(sizes))
    ]
    subsamples, seeds = (
        by_layer(load("subsample"), kept),
        by_layer(load("seed"), [inside] * settings.seeds),
    )
    records = with_stability(describe_groups(x, tree, sizes, labels, live), subsamples, seeds)
    recall = [None, None]
    if ground.near is not None:
        recall = [
            round(neighbour_recall(ground.near[0], read_array(steps / f"{name}.npy")), 4)
            for name in ("space", "map")
        ]
    proof = {
        "sizes": sizes, "cohesion": round(cohesion(x, finest(labels)), 6), "isolated": round(1 - len(inside) / len(x), 4),
        "nulls": clouds["null"], "uniform": clouds["uniform"], "columns": clouds["columns"], "recall_space": recall[0], "recall_map": recall[1],
        "subsamples": [stability_table(s) for s in subsamples], "seeds": [stability_table(s) for s in seeds],
        "kept": [kept_share(records, i) for i in range(len(sizes))],
    }  # fmt: skip
    return records, proof


def stability_table(found: Stability | None) -> dict | None:
    return (
        None
        if found is None
        else {
            "ari": round(found.ari, 4),
            "ari_grouped": None if found.ari_grouped is None else round(found.ari_grouped, 4),
        }
    )


def write_unit(
    work: Work, table: pd.DataFrame, records: list[dict], proof: dict, graph: np.ndarray
) -> None:
    write_table(work.folder / "features.parquet", table)
    write_json(work.folder / "groups.json", records)
    write_json(work.folder / "proof.json", proof)
    write_array(work.folder / "graph_groups.npy", graph)


def write_neighbours(
    folder: Path, ground: NeighbourGraph, steps: Path, live: np.ndarray, n_features: int
) -> None:
    """Nearest directions and the space of the groups, spread over all features."""
    write_array(
        folder / "neighbours.npy",
        padded(live[ground.rows[:, 1 : KEPT + 1]], live, (n_features, KEPT), -1),
    )
    write_array(
        folder / "cosines.npy",
        padded(np.asarray(ground.cosines[:, 1 : KEPT + 1]), live, (n_features, KEPT), 0),
    )
    space = (
        read_array(steps / "space.npy") if ground.near is not None else np.zeros((0, 1), np.float32)
    )
    write_array(
        folder / "embedding.npy",
        padded(
            space,
            live[ground.inside] if len(space) else live[:0],
            (n_features, space.shape[1]),
            np.nan,
        ),
    )


# ------------------------------------------------------------ summary


def summarise(
    ground: NeighbourGraph, labels: np.ndarray, records: list[dict], proof: dict, pairs: list
) -> dict:
    """Counts of the finest layer, and the figures of the proof that a caption needs."""
    grouped, n, last = int((finest(labels) >= 0).sum()), len(labels), len(proof["sizes"]) - 1
    cosines = [r["cosine"] for r in records if r["layer"] == last]
    noise = len(ground.inside) - grouped
    mean = lambda kind, name: [found[name] for found in proof[kind]]
    firing, ami = proof["firing"]["layers"][-1:], proof["firing"]["graph"]["ami"]
    return {
        "isolated": n - len(ground.inside), "duplicates": len(pairs), "layers": [sum(r["layer"] == i for r in records) for i in range(last + 1)],
        "groups": len(cosines), "grouped": grouped, "noise": noise, "noise_share": round(noise / n, 4),
        "cosine_within": round(float(np.mean(cosines)), 4) if cosines else None,
        "recall": proof["recall_map"], "recall_space": proof["recall_space"], "cohesion": proof["cohesion"],
        "null_cohesion": mean("nulls", "cohesion"), "null_groups": [g[-1] for g in mean("nulls", "groups")], "null_isolated": mean("nulls", "isolated"),
        "ari_subsamples": proof["subsamples"][-1]["ari"] if proof["subsamples"] and proof["subsamples"][-1] else None,
        "ari_seeds": proof["seeds"][-1]["ari"] if proof["seeds"] and proof["seeds"][-1] else None, "kept": proof["kept"][-1] if proof["kept"] else None,
        "phi_within": firing[0]["value"] if firing and firing[0] else None, "phi_z": firing[0]["z"] if firing and firing[0] else None,
        "phi_p": firing[0]["p"] if firing and firing[0] else None, "phi_null": firing[0]["null"] if firing and firing[0] else None,
        "ami": ami["value"] if ami else None, "ami_z": ami["z"] if ami else None, "ami_p": ami["p"] if ami else None,
        "verdict_kind": proof["kind"], "verdict": proof["verdict"],
    }  # fmt: skip


def proof_lines(s: dict) -> list[str]:
    """The proof as it is printed at the end of the stage."""
    number = lambda v, form=".3f": "not tried" if v is None else format(v, form)
    lines = [f"cluster: {s['verdict']}"]
    if s["groups"]:
        null = (
            "not tried"
            if not s["null_groups"]
            else f"{min(s['null_groups'])} to {max(s['null_groups'])}"
        )
        lines += [
            f"  layers {' > '.join(map(str, s['layers']))} groups, {s['noise']} noise, {s['isolated']} isolated; Gaussian clouds: {null} groups, cut at the same size",
            f"  come back in subsamples {number(s['kept'], '.0%')}; ARI of subsamples {number(s['ari_subsamples'])}, of seeds {number(s['ari_seeds'])}",
            f"  neighbours kept: {number(s['recall_space'], '.0%')} by the space of the groups, {number(s['recall'], '.0%')} by the map",
            f"  firing together (phi) {number(s['phi_within'], '.4f')} within groups, {number(s['phi_null'], '.4f')} shuffled, z {number(s['phi_z'], '.1f')}, p {number(s['phi_p'])}",
            f"  agreement with the groups of the co-activation graph: AMI {number(s['ami'])}, z {number(s['ami_z'], '.1f')}, p {number(s['ami_p'])}",
        ]
    return lines

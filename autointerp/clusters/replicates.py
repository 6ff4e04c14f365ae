"""UMAP layouts and replicates of the cluster stage, in a process of their own.

`python -m autointerp.clusters.replicates FOLDER` writes them. UMAP compiles for 8 s in every new
process. So one process is started without threads (a fork of a process with threads may hang); it
compiles once and forks workers that inherit the compiled code. Each result is a file, so a killed
stage computes only what is missing. First come the UMAP space, the map and the families, then the
replicates that the clusters are compared with:

    seed-I        the method with another random seed                    labels (N, L)
    subsample-I   the method on 80 % of the rows                         labels (N, L), -1 also
                                                                         for rows left out
    null-I        the method on Gaussian rows with x's mean and          JSON: clusters, cohesion
                  covariance
    uniform-0     the same on uniform directions; columns-0: on shuffled columns

FOLDER holds plan.json (settings, seed, workers), x.npy, and the fields of a NeighbourGraph as .npy
files.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from autointerp.clusters.families import Families, find_families
from autointerp.clusters.geometry import (
    covariance_twin,
    decorrelate,
    find_nearest,
    shuffle_columns,
    umap_layout,
    umap_neighbours,
    uniform_directions,
    unit_rows,
)
from autointerp.clusters.grouping import (
    NeighbourGraph,
    build_graph,
    build_tree,
    choose_sizes,
    cohesion,
    label_levels,
    lay_out_map,
    lay_out_space,
    lay_out_subsample,
)
from autointerp.settings import ClusterSettings
from core.files import read_array, read_json, write_array, write_json
from core.progress import progress

KEPT_SHARE = 0.8
CLOUDS = {"null": covariance_twin, "uniform": uniform_directions, "columns": shuffle_columns}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # numba ends a process that forks after GNU OpenMP was loaded.
    "NUMBA_THREADING_LAYER": "workqueue",
}


# ------------------------------------------------------------ files of the process


def write_inputs(
    folder: Path, x: np.ndarray, graph: NeighbourGraph, settings: dict, seed: int
) -> None:
    """Write what the process reads, plan.json last."""
    write_array(folder / "x.npy", x)
    parts = {"rows": graph.rows, "cosines": graph.cosines, "inside": graph.inside}
    if graph.near is not None:
        (near_rows, near_cosines), start = graph.connected
        parts |= {"near_rows": near_rows, "near_cosines": near_cosines, "start": start}
    for name, array in parts.items():
        write_array(folder / f"{name}.npy", array)
    plan = {"settings": settings, "seed": seed, "workers": os.cpu_count() or 1}
    write_json(folder / "plan.json", plan)


def read_graph(folder: Path) -> NeighbourGraph:
    """The neighbour graph that `write_inputs` wrote."""

    def load(name: str) -> np.ndarray:
        return read_array(folder / f"{name}.npy")

    whole = (load("rows"), load("cosines"), load("inside"))
    if not (folder / "start.npy").exists():
        return NeighbourGraph(*whole, None, None)
    return NeighbourGraph(*whole, (load("near_rows"), load("near_cosines")), load("start"))


# ------------------------------------------------------------ start and end the process


@contextlib.contextmanager
def run_beside(folder: Path) -> Iterator[None]:
    """Run the process beside the block and wait for it at the end; an error ends it."""
    process = start(folder)
    try:
        yield
    except BaseException:
        stop(process)
        raise
    finish(process)


def start(folder: Path) -> subprocess.Popen:
    """Start the process; `finish` waits for it."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-m", "autointerp.clusters.replicates", str(folder.resolve())]
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    """Wait for the process; an interrupt ends it and its workers.

    Raises RuntimeError where it failed.
    """
    try:
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    if code:
        raise RuntimeError(f"the layouts ended with exit code {code}; the error is printed above")


def stop(process: subprocess.Popen) -> None:
    """End the process and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


# ------------------------------------------------------------ which replicates there are


def subsample(number: int, n: int, seed: int) -> np.ndarray:
    """The ascending rows of n that subsample `number` keeps."""
    rng = np.random.default_rng([seed, 1, number])
    return np.sort(rng.choice(n, max(3, round(KEPT_SHARE * n)), replace=False))


def list_replicates(settings: ClusterSettings) -> list[str]:
    """Names of all replicates, the slow ones first."""
    clouds = [f"null-{i}" for i in range(settings.nulls)]
    clouds += ["columns-0", "uniform-0"] if settings.nulls else []
    seeds = [f"seed-{i}" for i in range(settings.seeds)]
    return clouds + seeds + [f"subsample-{i}" for i in range(settings.subsamples)]


# ------------------------------------------------------------ inside the process


def write_layout(folder: Path, name: str) -> None:
    """Write space.npy or map.npy."""
    graph, seed = read_graph(folder), read_json(folder / "plan.json")["seed"]
    layout = lay_out_space(graph, seed) if name == "space" else lay_out_map(graph, seed)
    write_array(folder / f"{name}.npy", layout)


def write_families(folder: Path) -> None:
    """Write families.json.

    Families are sought among all rows, also isolated ones, at length 1, centred and partly
    decorrelated; the null goes the same way from a Gaussian cloud with x's mean and covariance.
    """
    plan = read_json(folder / "plan.json")
    settings, seed = ClusterSettings(**plan["settings"]), plan["seed"]
    x = np.array(read_array(folder / "x.npy"))
    cloud = covariance_twin(x, np.random.default_rng([seed, 22]))
    shaped, null = (decorrelate(rows, settings.decorrelate) for rows in (x, cloud))
    found = find_families(shaped, null, settings.subsamples, seed)
    write_json(folder / "families.json", families_to_dict(found))


def families_to_dict(found: Families) -> dict:
    """The families as JSON holds them; Jaccards are None where no subsamples were tried."""

    def plain(values: np.ndarray) -> list[float | None]:
        return [None if np.isnan(v) else round(float(v), 4) for v in values]

    return {
        "cut": found.cut,
        "family": found.family.tolist(),
        "jaccard": plain(found.jaccard),
        "null_jaccard": plain(found.null_jaccard),
        "counts": [[cut, n, by_chance] for cut, (n, by_chance) in found.counts.items()],
    }


def write_replicate(folder: Path, name: str) -> None:
    """Write the file of one replicate."""
    plan, sizes = read_json(folder / "plan.json"), read_json(folder / "sizes.json")
    settings, seed = ClusterSettings(**plan["settings"]), plan["seed"]
    kind, number = name.split("-")
    if kind in CLOUDS:
        rng = np.random.default_rng([seed, 2, int(number)])
        cloud = CLOUDS[kind](np.array(read_array(folder / "x.npy")), rng)
        write_json(folder / f"{name}.json", measure_cloud(cloud, settings, seed, sizes))
        return
    graph, n = read_graph(folder), len(read_array(folder / "x.npy", mapped=True))
    if kind == "seed":
        space, inside = lay_out_space(graph, seed + 1 + int(number)), graph.inside
    else:
        keep = subsample(int(number), len(graph.inside), seed)
        space, inside = lay_out_subsample(graph, keep, seed), graph.inside[keep]
        sizes = [max(2, round(KEPT_SHARE * size)) for size in sizes]
    write_array(folder / f"{name}.npy", label_levels(build_tree(space), sizes, inside, n))


def measure_cloud(x: np.ndarray, settings: ClusterSettings, seed: int, sizes: list[int]) -> dict:
    """What the method finds in the cloud x (N, D), cut at the same smallest cluster sizes.

    Keys: groups and grouped (number of clusters and share of rows in one, by level), isolated
    (share), cohesion (of the finest level).
    """
    graph = build_graph(x, settings.decorrelate)
    isolated = round(1 - len(graph.inside) / len(x), 4)
    if graph.near is None:
        none = {"groups": [0] * len(sizes), "grouped": [0.0] * len(sizes)}
        return none | {"isolated": isolated, "cohesion": 0.0}
    tree = build_tree(lay_out_space(graph, seed))
    labels = label_levels(tree, sizes, graph.inside, len(x))
    return {
        "groups": [int(column.max(initial=-1)) + 1 for column in labels.T],
        "grouped": [round(float((column >= 0).mean()), 4) for column in labels.T],
        "isolated": isolated,
        "cohesion": round(cohesion(x, labels[:, -1]), 6) if sizes else 0.0,
    }


def compile_umap() -> None:
    """Compile UMAP on a few points."""
    x = unit_rows(np.random.default_rng(0).normal(size=(40, 4)))
    umap_layout(x[:, :2].copy(), umap_neighbours(*find_nearest(x, 5), 5), 0.0, 0)


def list_missing(folder: Path, names: list[str]) -> list[str]:
    """The names without a file in the folder."""
    return [
        name
        for name in names
        if not any((folder / f"{name}.{end}").exists() for end in ("npy", "json"))
    ]


def main(folder: Path) -> None:
    """Write every layout and replicate that is missing."""
    plan, graph = read_json(folder / "plan.json"), read_graph(folder)
    layouts = list_missing(folder, ["space", "map"] if graph.near is not None else [])
    left = list_missing(folder, list_replicates(ClusterSettings(**plan["settings"])))
    unsought = list_missing(folder, ["families"])
    if not layouts and not left and not unsought:
        return
    compile_umap()
    with ProcessPoolExecutor(plan["workers"], multiprocessing.get_context("fork")) as pool:
        made = pool.map(write_layout, [folder] * len(layouts), layouts)
        families = [pool.submit(write_families, folder) for _ in unsought]
        list(made)
        sizes: list[int] = []
        if graph.near is not None:
            sizes = choose_sizes(build_tree(read_array(folder / "space.npy")))
        write_json(folder / "sizes.json", sizes)
        jobs = families  # without sizes there are no clusters to compare with replicates
        jobs += [pool.submit(write_replicate, folder, name) for name in left if sizes]
        for job in progress(as_completed(jobs), "proof", total=len(jobs), unit="fit"):
            job.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The layouts of the cluster stage and of its proof, in a process of their own: `python -m autointerp.clusters.replicates FOLDER`.

UMAP compiles itself for 8 s in every new process. So one process is started that has no threads (a fork of one that has may hang), compiles once,
and forks workers that inherit the compiled code; each result is a file, so that a killed stage goes on with what is missing. First the
space of the groups and the map, then the attempts that are held against them:

    seed-I        the same with another seed                                  labels (N, L)
    subsample-I   the same on 80 % of the rows                                labels (N, L), -1 also where left out; kept rows: see subsample
    null-I        the same on Gaussian rows with x's mean and covariance      figures (JSON)
    uniform-0     the same on uniform directions; columns-0: on shuffled columns

FOLDER holds plan.json (settings, seed, workers), x.npy, and the fields of a Ground as .npy files.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from autointerp.clusters.geometry import (
    covariance_twin,
    nearest,
    shuffled_columns,
    umap_layout,
    umap_neighbours,
    uniform_directions,
    unit_rows,
)
from autointerp.clusters.grouping import (
    NeighbourGraph,
    cohesion,
    layer_labels,
    layer_sizes,
    map_of,
    space_of,
    subsample_space,
    survey,
    tree_of_space,
)
from autointerp.settings import ClusterSettings
from core.files import read_array, read_json, write_array, write_json
from core.progress import progress

KEPT_SHARE = 0.8
CLOUDS = {"null": covariance_twin, "uniform": uniform_directions, "columns": shuffled_columns}
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
}
ONE_THREAD |= {
    "NUMBA_THREADING_LAYER": "workqueue"
}  # numba ends a process that forks after GNU OpenMP was loaded


def write_ground(
    folder: Path, x: np.ndarray, ground: NeighbourGraph, settings: dict, seed: int
) -> None:
    """What the process needs, plan.json last."""
    write_array(folder / "x.npy", x)
    parts = {"rows": ground.rows, "cosines": ground.cosines, "inside": ground.inside}
    if ground.near is not None:
        parts |= {
            "near_rows": ground.near[0],
            "near_cosines": ground.near[1],
            "start": ground.start,
        }
    for name, array in parts.items():
        write_array(folder / f"{name}.npy", array)
    write_json(
        folder / "plan.json", {"settings": settings, "seed": seed, "workers": os.cpu_count() or 1}
    )


def read_ground(folder: Path) -> NeighbourGraph:
    load = lambda name: read_array(folder / f"{name}.npy")
    connected = (folder / "start.npy").exists()
    near = (load("near_rows"), load("near_cosines")) if connected else None
    return NeighbourGraph(
        load("rows"), load("cosines"), load("inside"), near, load("start") if connected else None
    )


def start(folder: Path) -> subprocess.Popen:
    """Start the process; `finish` waits for it."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-m", "autointerp.clusters.replicates", str(folder.resolve())]
    return subprocess.Popen(
        command, env=os.environ | ONE_THREAD | {"PYTHONPATH": path}, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for the process; raises RuntimeError where it failed. What its group of processes still does is ended when this is interrupted."""
    try:
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    if code:
        raise RuntimeError(f"the layouts ended with exit code {code}; its own error stands above")


def stop(process: subprocess.Popen) -> None:
    """End the process and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def subsample(number: int, n: int, seed: int) -> np.ndarray:
    """The ascending rows of n that subsample `number` keeps."""
    return np.sort(
        np.random.default_rng([seed, 1, number]).choice(
            n, max(3, round(KEPT_SHARE * n)), replace=False
        )
    )


def names(settings: ClusterSettings) -> list[str]:
    """Every attempt of the proof, the slow ones first."""
    clouds = [f"null-{i}" for i in range(settings.nulls)] + (
        ["columns-0", "uniform-0"] if settings.nulls else []
    )
    return (
        clouds
        + [f"seed-{i}" for i in range(settings.seeds)]
        + [f"subsample-{i}" for i in range(settings.subsamples)]
    )


# ------------------------------------------------------------ inside the process


def lay_out(folder: Path, name: str) -> None:
    """Write space.npy or map.npy."""
    plan, ground = read_json(folder / "plan.json"), read_ground(folder)
    make = space_of if name == "space" else map_of
    write_array(
        folder / f"{name}.npy", make(ground, ClusterSettings(**plan["settings"]), plan["seed"])
    )


def attempt(folder: Path, name: str) -> None:
    """Write one attempt's file."""
    plan = read_json(folder / "plan.json")
    settings, seed, sizes = (
        ClusterSettings(**plan["settings"]),
        plan["seed"],
        read_json(folder / "sizes.json"),
    )
    kind, number = name.split("-")
    if kind in CLOUDS:
        cloud = CLOUDS[kind](
            np.array(read_array(folder / "x.npy")), np.random.default_rng([seed, 2, int(number)])
        )
        write_json(folder / f"{name}.json", cloud_figures(cloud, settings, seed, sizes))
        return
    ground, n = read_ground(folder), len(read_array(folder / "x.npy", mapped=True))
    if kind == "seed":
        space, inside = space_of(ground, settings, seed + 1 + int(number)), ground.inside
    else:
        keep = subsample(int(number), len(ground.inside), seed)
        space, inside = subsample_space(ground, keep, settings, seed), ground.inside[keep]
        sizes = [max(2, round(KEPT_SHARE * m)) for m in sizes]
    write_array(folder / f"{name}.npy", layer_labels(tree_of_space(space), sizes, inside, n))


def cloud_figures(x: np.ndarray, settings: ClusterSettings, seed: int, sizes: list[int]) -> dict:
    """What the whole method finds in x, cut at the same smallest sizes: groups and grouped share by layer, isolated share, cohesion (finest layer)."""
    ground = survey(x, settings)
    isolated = round(1 - len(ground.inside) / len(x), 4)
    if ground.near is None:
        return {
            "groups": [0] * len(sizes),
            "grouped": [0.0] * len(sizes),
            "isolated": isolated,
            "cohesion": 0.0,
        }
    labels = layer_labels(
        tree_of_space(space_of(ground, settings, seed)), sizes, ground.inside, len(x)
    )
    groups = [int(column.max(initial=-1)) + 1 for column in labels.T]
    grouped = [round(float((column >= 0).mean()), 4) for column in labels.T]
    return {
        "groups": groups,
        "grouped": grouped,
        "isolated": isolated,
        "cohesion": round(cohesion(x, labels[:, -1]), 6) if sizes else 0.0,
    }


def warm_up() -> None:
    """Compile UMAP on a few points."""
    x = unit_rows(np.random.default_rng(0).normal(size=(40, 4)))
    umap_layout(x[:, :2].copy(), umap_neighbours(*nearest(x, 5), 5), 0.0, 0)


def main(folder: Path) -> None:
    plan = read_json(folder / "plan.json")
    settings = ClusterSettings(**plan["settings"])
    missing = lambda wanted: [
        n
        for n in wanted
        if not (folder / f"{n}.npy").exists() and not (folder / f"{n}.json").exists()
    ]
    ground = read_ground(folder)
    layouts, left = (
        missing(["space", "map"] if ground.near is not None else []),
        missing(names(settings)),
    )
    if not layouts and not left:
        return
    warm_up()
    with ProcessPoolExecutor(plan["workers"], multiprocessing.get_context("fork")) as pool:
        list(pool.map(lay_out, [folder] * len(layouts), layouts))
        sizes = (
            []
            if ground.near is None
            else layer_sizes(tree_of_space(read_array(folder / "space.npy")), settings)
        )
        write_json(folder / "sizes.json", sizes)
        if not sizes:
            return  # nothing was found that could be held against anything
        for done in progress(
            as_completed([pool.submit(attempt, folder, name) for name in left]),
            "proof",
            total=len(left),
            unit="fit",
        ):
            done.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

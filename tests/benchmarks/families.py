"""Seconds and peak memory of the search for families, beside one UMAP and HDBSCAN fit.

    python tests/benchmarks/families.py --features 16384 --width 768 [--fit]

Directions are random, with planted families of six in an eighth of them. `--fit` also times one fit
of the regions of the map, of which the stage makes 16 with its default settings; it fits only rows
that are nearer to another than chance, here the planted ones.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from autointerp.clusters import grouping, replicates  # noqa: E402
from autointerp.clusters.families import find_families  # noqa: E402
from autointerp.clusters.geometry import covariance_twin, decorrelate, unit_rows  # noqa: E402

SIZE, SHARE, COSINE = 6, 0.125, 0.35  # members, features in a family, mean cosine of members
DECORRELATE = 0.5


def plant_directions(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """(unit rows (n, width), how many families are planted): families first, then random rows."""
    rng = np.random.default_rng(seed)
    n_families = int(SHARE * n) // SIZE
    centres = np.repeat(unit_rows(rng.standard_normal((n_families, width))), SIZE, 0)
    own = unit_rows(rng.standard_normal((n_families * SIZE, width)))
    others = rng.standard_normal((n - len(own), width))
    members = np.sqrt(COSINE) * centres + np.sqrt(1 - COSINE) * own
    return unit_rows(np.concatenate([members, others])), n_families


def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call, and print the seconds (of the wall and of the processor) and the peak memory so far."""
    wall, processor = time.perf_counter(), time.process_time()
    made = function(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name}: {wall:.1f} s, processor {processor:.1f} s, peak {peak:.2f} GiB", flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--subsamples", type=int, default=8)
    parser.add_argument("--fit", action="store_true", help="also time one fit of UMAP and HDBSCAN")
    asked = parser.parse_args()
    x, n_planted = plant_directions(asked.features, asked.width)
    cloud = timed("null cloud", covariance_twin, x, np.random.default_rng(1))
    shaped = timed(
        "decorrelation, twice", lambda: [decorrelate(y, DECORRELATE) for y in (x, cloud)]
    )
    found = timed("families", find_families, *shaped, asked.subsamples, 0)
    back = f"{found.come_back.mean():.0%} come back" if found.n else ""
    print(f"{found.n} families at {found.cut}, {n_planted} planted; {back}")
    if asked.fit:
        replicates.compile_umap()
        graph = timed("neighbours", grouping.build_graph, x, DECORRELATE)
        if graph.near is not None:
            space = timed("one UMAP fit", grouping.lay_out_space, graph, 0)
            timed("its tree", grouping.build_tree, space)


if __name__ == "__main__":
    main()

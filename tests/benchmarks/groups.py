"""How fast the grouping is, and how often it believes in groups that are not there.

python tests/benchmarks/groups.py speed 16384 [--proof]     seconds and memory, 768 dimensions, planted leaves and noise
python tests/benchmarks/groups.py believe [--seeds 20]      verdicts on isotropic and anisotropic Gaussian directions (1,500 x 64)
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from sklearn.metrics import adjusted_rand_score  # noqa: E402

from autointerp.clusters import cluster, replicates  # noqa: E402
from autointerp.clusters.geometry import unit_rows  # noqa: E402
from autointerp.clusters.tables import (  # noqa: E402
    add_stability,
    describe_clusters,
    kept_share,
    take_finest,
)
from autointerp.clusters.validation import judge  # noqa: E402
from autointerp.settings import ClusterSettings  # noqa: E402
from tests.support.clouds import anisotropic, planted  # noqa: E402


def planted_leaves(n: int, d: int = 768, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(unit rows, leaf, -1 for noise): 24 super-directions, n / 64 leaves with power-law sizes, 20
    % of the rows uniform on the sphere.
    """
    rng = np.random.default_rng(seed)
    n_noise, n_leaves = n // 5, max(16, n // 64)
    above = unit_rows(rng.standard_normal((24, d)))
    leaves = unit_rows(
        above[rng.integers(0, 24, n_leaves)] * 0.75
        + unit_rows(rng.standard_normal((n_leaves, d))) * 0.66
    )
    share = (1 + np.arange(n_leaves)) ** -0.5
    leaf = rng.choice(n_leaves, n - n_noise, p=share / share.sum())
    spread = (
        unit_rows(rng.standard_normal((n - n_noise, d)))
        * 0.60
        * rng.uniform(0.7, 1.3, (n - n_noise, 1))
    )
    x = unit_rows(
        np.concatenate([leaves[leaf] * 0.80 + spread, rng.standard_normal((n_noise, d))]).astype(
            np.float32
        )
    )
    return x, np.r_[leaf, np.full(n_noise, -1)]


def found_in(
    x: np.ndarray, settings: ClusterSettings, seed: int
) -> tuple[np.ndarray, list[dict], dict, dict[str, float]]:
    """(labels by layer, records, proof, seconds of each step) by the steps of the stage that look
    at directions.
    """
    clock, took = time.perf_counter(), {}

    def lap(name: str) -> None:
        nonlocal clock
        took[name], clock = round(time.perf_counter() - clock, 1), time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder) / "steps"
        graph = cluster.make_graph(steps, x, settings, seed)
        lap("neighbours")
        replicates.finish(replicates.start(steps))
        lap("layouts")
        levels = cluster.read_levels(steps, graph, x)
        lap("tree")
        validation = cluster.validate(steps, x, graph, levels, settings, seed)
        everything = np.arange(len(x))
        records = describe_clusters(x, levels.tree, levels.sizes, levels.labels, everything)
        records = add_stability(records, validation.subsamples, validation.seeds)
        lap("tables")
    return levels.labels, records, validation.proof, took


def speed(n: int, proof: bool) -> None:
    x, leaf = planted_leaves(n)
    settings = ClusterSettings() if proof else ClusterSettings(nulls=0, seeds=0, subsamples=0)
    started = time.perf_counter()
    labels, _, _, took = found_in(x, settings, 0)
    own, inner = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    signal = leaf >= 0
    layers = ", ".join(
        f"{c.max() + 1} groups (ARI with the leaves {adjusted_rand_score(leaf[signal], c[signal]):.3f})"
        for c in labels.T
    )
    noise = (take_finest(labels)[~signal] < 0).mean()
    print(
        f"{n} x 768: {time.perf_counter() - started:.0f} s {took}, peak {own:.0f} MiB here and {inner:.0f} MiB in the largest other process"
    )
    print(
        f"  {layers}; {len(np.unique(leaf[signal]))} planted; {noise:.1%} of the planted noise is in no group"
    )


def believe(seeds: int) -> None:
    kinds = {
        "isotropic": lambda s: unit_rows(np.random.default_rng(s).normal(size=(1500, 64))),
        "anisotropic": lambda s: anisotropic(seed=s),
        "planted (cosine .3)": lambda s: planted(30, 40, 300, 64, 0.3, s)[0],
    }
    for name, make in kinds.items():
        verdicts = []
        for seed in range(seeds):
            x = make(seed)
            labels, records, proof, _ = found_in(x, ClusterSettings(seeds=0, subsamples=4), seed)
            kept = kept_share(records, labels.shape[1] - 1)
            n_groups = int(take_finest(labels).max(initial=-1)) + 1
            verdicts.append(
                judge(
                    n_groups, proof["cohesion"], [c["cohesion"] for c in proof["nulls"]], kept, None
                ).kind
            )
            print(
                f"{name} {seed}: {verdicts[-1]} ({n_groups} groups, cohesion {proof['cohesion']:.3f}, kept {kept})",
                file=sys.stderr,
                flush=True,
            )
        print(
            f"{name}: "
            + ", ".join(f"{kind} {verdicts.count(kind)}" for kind in sorted(set(verdicts)))
            + f" of {seeds}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "believe"))
    parser.add_argument("n", type=int, nargs="?", default=16384)
    parser.add_argument("--proof", action="store_true", help="speed: with the whole proof")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    speed(args.n, args.proof) if args.what == "speed" else believe(args.seeds)

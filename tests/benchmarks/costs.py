"""What each stage costs in processor time: three sizes of each, a straight line, its residuals.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.costs FOLDER

The subject is python-7m, the corpus the standard library, everything in one process of one thread.
capture and index grow with tokens, label with features; a line is fitted through the three sizes,
and the residual is the largest distance of a size from it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from autointerp.settings import LabelSettings
from core.run import Run
from core.settings import (
    CaptureSettings,
    EffectsSettings,
    IndexSettings,
    RunSettings,
    TrainSettings,
)
from tests.support import stages

TOKENS = (20_000, 60_000, 100_000)  # asked for; a document is whole, so more are read
FEATURES = (50, 100, 200)


def spend(work) -> float:
    """Processor seconds of this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def line(stage: str, unit: str, sizes, seconds) -> str:
    """A row of the table."""
    slope, start = np.polyfit(sizes, seconds, 1)
    residual = max(abs(slope * n + start - s) for n, s in zip(sizes, seconds, strict=True))
    shown = " / ".join(f"{s:.1f}" for s in seconds)
    counts = " / ".join(f"{n:,}" for n in sizes)
    return (
        f"| {stage} | {counts} {unit} | {shown} s | {1e6 * slope:,.0f} µs a {unit[:-1]} "
        f"| {start:.1f} s | {residual:.2f} s |"
    )


def main(folder: Path) -> None:
    spent: dict[str, list[float]] = {}
    sizes: dict[str, list[int]] = {}

    def measure(stage: str, size: int, seconds: float) -> None:
        spent.setdefault(stage, []).append(seconds)
        sizes.setdefault(stage, []).append(size)
        print(stage, f"{size:,}", f"{spent[stage][-1]:.2f}", flush=True)

    for n in TOKENS:
        about = RunSettings(subject="python-7m", corpus="stdlib", device="cpu", dtype="float32")
        run = Run.create(str(folder / f"run-{n}"), about)
        capture = CaptureSettings(max_tokens=n)
        seconds = spend(lambda run=run, c=capture: stages.capture(run, c))
        n = run.manifest("capture").summary["tokens"]
        measure("capture", n, seconds)
        train = TrainSettings(expansion=4.0, k=16, epochs=0.2, warmup=2, check_every=50)
        stages.train(run, train)
        measure("index", n, spend(lambda run=run: stages.index(run, IndexSettings())))
    stages.effects(run, EffectsSettings(clamp=0.0))
    for n in FEATURES:
        settings = LabelSettings(sample=n, engine="inline")
        measure("label", n, spend(lambda s=settings: stages.label(run, s, redo=True)))
    for stage, seconds in spent.items():
        if len(seconds) > 2:
            unit = "tokens" if stage in ("capture", "index") else "features"
            print(line(stage, unit, sizes[stage], seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The files of `train` and `compare` that are read without torch: directions, metrics, matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.files import read_array, read_lines, write_array
from core.run import Run

DIRECTIONS = "directions.npy"
METRICS = "metrics.jsonl"


def read_directions(run: Run, mapped: bool = True) -> npt.NDArray[np.float32]:
    """The decoder W_dec (F, D) of the run's SAE, memory-mapped. Raises NotReady before `train`."""
    return read_array(run.folder("train") / DIRECTIONS, mapped=mapped)


def write_directions(folder: Path, directions: npt.NDArray[np.float32]) -> None:
    """Write W_dec (F, D) beside the SAE."""
    write_array(folder / DIRECTIONS, directions)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a training's log, one a measured step; none where it was trained elsewhere."""
    path = folder / METRICS
    return read_lines(path) if path.exists() else []


def read_matches(
    run: Run, other: str, which: Literal["match", "null"] = "match"
) -> npt.NDArray[np.float32]:
    """Cosine (F,) of each of the run's features with its best match in `other`, from `compare`.

    NaN for a direction of length 0; `null` is the same against random directions of like
    covariance. Raises NotReady before `compare`.
    """
    folder = run.folder(f"compare/{other}")
    return np.asarray(read_array(folder / matches_name(which, "there")))


def matches_name(which: str, direction: str) -> str:
    """The name of a file of cosines: `there` of the run's features, `here` of the other's."""
    return f"{which}_{direction}.npy"

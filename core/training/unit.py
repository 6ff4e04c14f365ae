"""The files of the unit `train` that later stages read without torch: the decoder directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.files import read_array, write_array
from core.run import Run

DIRECTIONS = "directions.npy"


def read_directions(run: Run, mapped: bool = True) -> npt.NDArray[np.float32]:
    """The decoder W_dec (F, D) of the run's SAE, memory-mapped. Raises NotReady before `train`."""
    return read_array(run.folder("train") / DIRECTIONS, mapped=mapped)


def write_directions(folder: Path, directions: npt.NDArray[np.float32]) -> None:
    """Write W_dec (F, D) beside the SAE."""
    write_array(folder / DIRECTIONS, directions)

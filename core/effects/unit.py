"""Name, write and read the files of the unit `effects`, without torch.

effects.parquet   a row a feature: the tokens that its direction promotes and suppresses through
                  the subject's own final norm and unembedding. That is what the direction
                  writes, without what the layers in between make of it; and the tokens that
                  its clamp makes likelier. Missing where the site or the architecture allows none
clamped.npy       (F, V) float16: the change of every token's log-probability (nats) after
                  neutral prefixes when the feature is clamped to a multiple of its maximum,
                  the mean over the prefixes; zero for features that never fired. Missing
                  where the stage was run without clamps
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.files import read_array, replace_file, write_table
from core.run import Run

if TYPE_CHECKING:
    import pandas as pd

UNIT = "effects"
TABLE, CHANGES = "effects.parquet", "clamped.npy"


def read_effects(run: Run) -> pd.DataFrame | None:
    """The table of promoted tokens, a row a feature; None where the run has none.

    Columns: feature, promoted_id, promoted, promoted_logit, suppressed, suppressed_logit and, where
    clamps were measured, measured, measured_change (nats); all but the first are lists, the
    strongest token first. Logits and changes are differences from the mean over features, and rare
    tokens are left out (`promoted.py`).
    """
    import pandas as pd

    path = _find_file(run, TABLE)
    return None if path is None else pd.read_parquet(path)


def has_changes(run: Run) -> bool:
    """Whether the run has measured what clamps change."""
    return _find_file(run, CHANGES) is not None


def read_changes(run: Run) -> np.ndarray | None:
    """Changes of log-probabilities (F, V) float16, memory-mapped; None where the run has none."""
    path = _find_file(run, CHANGES)
    return None if path is None else read_array(path)


def _find_file(run: Run, name: str) -> Path | None:
    if run.find(UNIT) is None:
        return None
    path = run.folder(UNIT) / name
    return path if path.exists() else None


# ---------------------------------------------------------------- writing


def write_effects(folder: Path, table: pd.DataFrame) -> None:
    """Write the table of promoted tokens."""
    write_table(folder / TABLE, table)


@contextlib.contextmanager
def open_changes(
    folder: Path, n_features: int, n_vocabulary: int
) -> Iterator[Callable[[np.ndarray], None]]:
    """Context manager: yields a function that appends rows (m, V) float16 of clamped.npy.

    The file appears when the block ends, and all of its `n_features` rows must be there by then.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
        "fortran_order": False,
        "shape": (n_features, n_vocabulary),
    }
    with replace_file(folder / CHANGES) as temporary, open(temporary, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)

        def append(rows: np.ndarray) -> None:
            handle.write(rows.tobytes())

        yield append

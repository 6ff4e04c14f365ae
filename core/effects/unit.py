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

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.files import read_array, replace_file, write_array, write_table
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


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f".clamped-{number:05d}.npy"  # scratch: `join_changes` removes it


def has_changes_shard(folder: Path, number: int) -> bool:
    """Whether block `number` of clamped.npy was written."""
    return _shard_path(folder, number).exists() or (folder / CHANGES).exists()


def write_changes_shard(folder: Path, number: int, rows: np.ndarray) -> None:
    """Write block `number`, rows (m, V) float16, of what becomes clamped.npy."""
    write_array(_shard_path(folder, number), rows)


def join_changes(folder: Path, n_features: int, n_vocabulary: int, rows: int) -> None:
    """Write clamped.npy from its blocks of `rows` features, and remove them.

    A block without a file is zeros: none of its features fires.
    """
    if (folder / CHANGES).exists():  # killed between this and what follows
        return
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
        "fortran_order": False,
        "shape": (n_features, n_vocabulary),
    }
    blocks = [(n, min(rows, n_features - n * rows)) for n in range(-(-n_features // rows))]
    with replace_file(folder / CHANGES) as temporary, open(temporary, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for number, size in blocks:
            path = _shard_path(folder, number)
            silent = np.zeros((size, n_vocabulary), np.float16)
            handle.write((read_array(path) if path.exists() else silent).tobytes())
    for number, _ in blocks:
        _shard_path(folder, number).unlink(missing_ok=True)

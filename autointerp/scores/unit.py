"""The files of a score unit `score/<set>/<kind>`: names, readers, writer.

scores.parquet    feature, set, kind, value, undefined, low, high, null, n_tokens, n_documents;
                  detection and fuzzing also hold auroc, null_auroc and rows of kind `<kind>-hard`;
                  coverage also holds COVERAGE_COLUMNS and estimated (see `coverage.py`);
                  simulation, detection and fuzzing also hold STRATUM_COLUMNS (see `strata.py`)
                  and strong, the value of the label without its parts for weak firings
failures.parquet  stage, feature, kind, message, reply_key: features without a value
misses.parquet    feature, ordinal, stratum, told: where labels in free words were wrong; the
                  file exists only where there are such places
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from autointerp.tables import table_of
from core.files import write_table
from core.records import Failure, Score
from core.run import Run

PREFIX = "score/"
SCORES, FAILURES, MISSES = "scores.parquet", "failures.parquet", "misses.parquet"
MISS_COLUMNS = ["feature", "ordinal", "stratum", "told"]
MISS_KINDS = ("simulation", "fuzzing", "detection")  # kinds that keep misses, most exact first
COVERAGE = "coverage"  # the kind of score that says how much of a feature's activity a label names
COVERAGE_VALUES = (
    "precision", "strong", "recall_top", "recall_half",
    "r_top", "r_half", "r_all", "auroc_top", "auroc_half", "auroc_all",
)  # fmt: skip
COVERAGE_COLUMNS = (  # the areas have no interval; `activation` is the feature's total, held out
    "activation",
    *COVERAGE_VALUES,
    *(f"null_{name}" for name in COVERAGE_VALUES),
    *(
        f"{end}_{name}"
        for name in COVERAGE_VALUES
        if not name.startswith("auroc")
        for end in ("low", "high")
    ),
)
STRATA = {"top": 0.9, "half": 0.5, "all": 0.0}  # name -> quantile of the firings where it begins
STRATUM_COLUMNS = tuple(
    f"{lead}{name}" for name in STRATA for lead in ("", "low_", "high_", "null_")
)
NUMBERS = ("value", "low", "high", "null")

Miss = tuple[int, int, str, float]  # feature, ordinal, stratum, prediction (0 to 1)


def unit_of(label_set: str, kind: str) -> str:
    """Return the name of the unit that holds the scores of `kind` of `label_set`."""
    return f"{PREFIX}{label_set}/{kind}"


def list_units(run: Run) -> list[tuple[str, str]]:
    """Return (set, kind) of all committed score units in alphabetical order."""
    names = (unit for unit in run.committed() if unit.startswith(PREFIX))
    return [(label_set, kind) for _, label_set, kind in (name.split("/") for name in names)]


# ---------------------------------------------------------------- read


def read_scores(run: Run, label_set: str, kind: str) -> pd.DataFrame:
    """Return the scores of one unit; raises NotReady when it does not exist."""
    return pd.read_parquet(run.folder(unit_of(label_set, kind)) / SCORES)


def find_scores(run: Run, label_set: str, kind: str) -> pd.DataFrame | None:
    """Return the scores of one unit, or None when it does not exist."""
    return read_scores(run, label_set, kind) if run.find(unit_of(label_set, kind)) else None


def read_failures(run: Run, label_set: str, kind: str) -> pd.DataFrame:
    """Return the failures of one unit; no rows where it has no such file."""
    path = run.folder(unit_of(label_set, kind)) / FAILURES
    return pd.read_parquet(path) if path.exists() else table_of([], Failure)


def read_misses(run: Run, label_set: str, kind: str) -> pd.DataFrame:
    """Return the misses of one unit, worst first; no rows where it kept none."""
    path = run.folder(unit_of(label_set, kind)) / MISSES
    return pd.read_parquet(path) if path.exists() else miss_table([])


def read_all_scores(run: Run) -> pd.DataFrame:
    """Return the scores of all sets and kinds, coverage first, then simulation."""
    units = sorted(list_units(run), key=_place_of_kind)
    parts = [read_scores(run, *unit) for unit in units]
    if not parts:
        return pd.DataFrame({"feature": [], "set": [], "kind": [], "value": []})
    return pd.concat(parts, ignore_index=True)


def _place_of_kind(unit: tuple[str, str]) -> int:
    return 0 if unit[1] == COVERAGE else 1 if unit[1].startswith("simulation") else 2


def read_all_misses(run: Run) -> pd.DataFrame:
    """Return MISS_COLUMNS and `set` of all units, the most exact kind of score first."""
    units = [unit for kind in MISS_KINDS for unit in list_units(run) if unit[1] == kind]
    tables = [(label_set, read_misses(run, label_set, kind)) for label_set, kind in units]
    parts = [table.assign(set=label_set) for label_set, table in tables if len(table)]
    if not parts:
        return pd.DataFrame({c: [] for c in (*MISS_COLUMNS, "set")})
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------- write


def score_table(scores: Sequence[Score], columns: dict[str, list] | None = None) -> pd.DataFrame:
    """Return scores as a table; `columns` are further ones, in the order of `scores`."""
    table = table_of(scores, Score).assign(**(columns or {}))
    return table.astype(dict.fromkeys(NUMBERS, float))


def miss_table(misses: Sequence[Miss]) -> pd.DataFrame:
    """Return misses as a table."""
    return pd.DataFrame(misses, columns=MISS_COLUMNS)


def write_scores(
    folder: Path, scores: pd.DataFrame, failures: Sequence[Failure], misses: pd.DataFrame
) -> None:
    """Write the files of a unit; misses only where there are any."""
    write_table(folder / SCORES, scores)
    if len(misses):
        write_table(folder / MISSES, misses)
    write_table(folder / FAILURES, table_of(failures, Failure))

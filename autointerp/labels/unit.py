"""The files of a label unit `label/<set>`: names, readers, writer, and the order of the sets.

labels.parquet        feature, set, text, confidence, kind, reply_key, evidence: a row a label
failures.parquet      stage, feature, kind, message, reply_key: features without a label
explanations.parquet  imported sets only: every explanation that the source holds
activations.parquet   imported sets only: the source's own snippets
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from autointerp.tables import append_rows, table_of
from core.errors import UsageError
from core.files import write_table
from core.records import Failure, Label
from core.run import Run

PREFIX = "label/"
LABELS, FAILURES = "labels.parquet", "failures.parquet"
EXPLANATIONS, ACTIVATIONS = "explanations.parquet", "activations.parquet"
COLUMNS = ["feature", "set", "text", "confidence", "kind", "evidence"]  # of all sets together
HAND, RULES, LLM = "hand", "rules", "llm"
RANK = {HAND: 0, RULES: 2}  # all other sets have rank 1; the lowest rank speaks first


def unit_of(label_set: str) -> str:
    """Return the name of the unit that holds `label_set`."""
    return f"{PREFIX}{label_set}"


def list_sets(run: Run) -> list[str]:
    """Return the names of all committed label sets in alphabetical order."""
    return [unit.removeprefix(PREFIX) for unit in run.committed() if unit.startswith(PREFIX)]


def complete_name(run: Run, label_set: str) -> str:
    """Return `label_set`, or for `llm` the only set of the run that an LLM made.

    Raises UsageError where there is none or more than one.
    """
    sets = list_sets(run)
    if label_set != LLM or label_set in sets:
        return label_set
    made = [name for name in sets if name.startswith(f"{LLM}-")]
    if not made:
        make = f"python main.py label {run.name} --labels llm --llm-url URL"
        raise UsageError("No LLM has labelled this run.", f"Make a set: {make}")
    if len(made) > 1:
        raise UsageError(
            f"The run has {len(made)} label sets of an LLM: {', '.join(made)}.",
            f"Name one, such as --labels {made[0]}.",
        )
    return made[0]


def rank_of(label_set: str) -> int:
    """Return the rank of a set: what people wrote comes first, rules last."""
    return RANK.get(label_set, 1)


# ---------------------------------------------------------------- read


def read_labels(run: Run, label_set: str) -> pd.DataFrame:
    """Return the labels of one set, a row a feature; raises NotReady without the set."""
    return pd.read_parquet(run.folder(unit_of(label_set)) / LABELS)


def read_texts(run: Run, label_set: str) -> pd.Series:
    """Return {feature: text} of one set; raises NotReady without the set."""
    return read_labels(run, label_set).set_index("feature")["text"]


def read_failures(run: Run, label_set: str) -> pd.DataFrame:
    """Return the features that one set has no label for; raises NotReady without the set."""
    path = run.folder(unit_of(label_set)) / FAILURES
    return pd.read_parquet(path) if path.exists() else table_of([], Failure)


def read_all_labels(run: Run) -> pd.DataFrame:
    """Return COLUMNS of all sets, best rank first, so that a feature's first row is its best label.

    `evidence` is 0 in sets that do not count it.
    """
    parts = [read_labels(run, name).assign(set=name) for name in list_sets(run)]
    if not parts:
        return pd.DataFrame({c: [] for c in COLUMNS})
    table = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
    table["evidence"] = table["evidence"].fillna(0).astype(int)
    return table.iloc[table["set"].map(rank_of).argsort(kind="stable")]


def read_explanations(run: Run, label_set: str) -> pd.DataFrame | None:
    """Return every explanation of an imported set; None where the set was not imported."""
    path = run.folder(unit_of(label_set)) / EXPLANATIONS
    return pd.read_parquet(path) if path.exists() else None


# ---------------------------------------------------------------- write


def write_labels(
    folder: Path,
    labels: Sequence[Label],
    failures: Sequence[Failure],
    kept: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write labels and failures into the unit's folder, together with the rows `kept`.

    Returns the two tables as they were written.
    """
    tables = table_of(labels, Label), table_of(failures, Failure)
    if kept is not None:
        tables = append_rows(kept[0], tables[0]), append_rows(kept[1], tables[1])
    write_table(folder / LABELS, tables[0])
    write_table(folder / FAILURES, tables[1])
    return tables


def write_imported(folder: Path, explanations: pd.DataFrame, activations: pd.DataFrame) -> None:
    """Write what an imported set keeps of its source."""
    write_table(folder / EXPLANATIONS, explanations)
    write_table(folder / ACTIVATIONS, activations)

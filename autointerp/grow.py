"""Add features to a unit that grows: label sets and scores.

A growing unit holds tables with rows by feature. A command names the features that it wants. Rows
of features that the unit holds stay as they are, and only the missing features are made; `--redo`
makes the wanted features again and leaves all others alone. A unit that was made in another way
(another version, other settings, other inputs) keeps no rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from autointerp.llm.session import DryRun
from autointerp.tables import keep_rows
from core.records import Manifest
from core.run import Run


@dataclass(frozen=True)
class GrowingUnit:
    """A unit with rows by feature, and what decides what it holds."""

    name: str  # such as label/rules
    version: int  # of the stage's code
    settings: Any  # settings dataclass, or a table of the values that decide
    inputs: tuple[str, ...]  # units
    tables: tuple[str, ...]  # file names; a feature with a row in the first one is not missing


@dataclass(frozen=True)
class Growth:
    """One addition to a unit: what to make, what to keep, and where to write both."""

    folder: Path
    missing: list[int]  # features to make, ascending
    kept: dict[str, pd.DataFrame]  # file name -> rows of the features that stay


def grow(
    run: Run,
    unit: GrowingUnit,
    wanted: Iterable[int],
    make: Callable[[Growth], dict[str, Any]],
    redo: bool = False,
    extend: bool = True,
) -> Manifest | None:
    """Make the wanted features that are missing, and commit them with the rows that stay.

    `make` writes the unit's files, kept rows included, and returns the summary. With `redo` all
    wanted features are missing. Without `extend`, a unit that is committed stays as it is.

    Returns the manifest of the committed unit. Returns None, and leaves no partial unit, when
    `make` raises DryRun: the command asked for an estimate or a batch file. Raises NotReady as
    `Run.begin`.
    """
    wanted, inputs = set(wanted), list(unit.inputs)
    current = run.is_current(unit.name, unit.version, unit.settings, inputs)
    files = {name: run.path / unit.name / name for name in unit.tables}
    held = keep_rows(files[unit.tables[0]], current, ())
    missing = sorted(wanted if redo else wanted - set(held["feature"]))
    extend = extend and bool(missing)
    work = run.begin(unit.name, unit.version, unit.settings, inputs, redo, extend)
    if work is None:
        return run.manifest(unit.name)
    kept = {name: keep_rows(path, current, missing) for name, path in files.items()}
    try:
        summary = make(Growth(work.folder, missing, kept))
    except DryRun:
        shutil.rmtree(work.folder)
        return None
    return work.commit(summary)

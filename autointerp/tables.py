"""Tables of the units: records to Parquet, rows by feature, rows that a command keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.files import write_table

COLUMN_OF = {"label_set": "set"}  # field of a record -> column of its table, where they differ


class RowIndex:
    """Rows of a table by feature, as dicts that JSON can hold.

    Searching a frame of 100,000 rows for every card would take most of a card's time.
    """

    def __init__(
        self, table: pd.DataFrame, columns: list[str], keys: tuple[str, ...] = ("feature",)
    ):
        """Index `table`; `keys` name the columns in which the feature's number may stand."""
        self._columns = {
            c: table[c].astype(object).tolist() if c in table else [None] * len(table)
            for c in columns
        }
        places = np.concatenate([np.arange(len(table))] * len(keys))
        numbers = np.concatenate([table[key].to_numpy(np.int64) for key in keys])
        groups: dict[Any, Any] = pd.Series(numbers).groupby(numbers).indices
        self._places = {int(f): np.unique(places[rows]).tolist() for f, rows in groups.items()}

    def of(self, feature: int) -> list[dict[str, Any]]:
        """Return the feature's rows in the order of the table; NaN becomes None."""
        return [
            {name: or_none(column[place]) for name, column in self._columns.items()}
            for place in self._places.get(feature, ())
        ]


def or_none(value: Any) -> Any:
    """Return `value`, or None for NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dicts that JSON can hold: NaN becomes None."""
    return [
        {str(k): or_none(v) for k, v in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def append_rows(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both tables by feature; `new` as it is when `old` is empty."""
    if not len(old):
        return new
    return pd.concat([old, new], ignore_index=True).sort_values("feature", kind="stable")


def table_of(records: Sequence[Any], kind: type) -> pd.DataFrame:
    """Return a table of frozen records of type `kind`: one column a field, one row a record.

    Undefined becomes its text, and no reason the empty text.
    """
    names = [f.name for f in fields(kind)]
    columns = [COLUMN_OF.get(name, name) for name in names]
    rows = [[plain_value(name, getattr(r, name)) for name in names] for r in records]
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows], columns=columns)


def plain_value(name: str, value: Any) -> Any:
    """Return what a table holds for the field `name` of a record."""
    if name == "undefined":
        return str(value or "")
    return value


def write_records(path: Path, records: Sequence[Any], kind: type) -> None:
    """Write frozen records of type `kind` as a Parquet file."""
    write_table(path, table_of(records, kind))


def keep_rows(path: Path, current: bool, redone: Iterable[int]) -> pd.DataFrame:
    """Return the rows of a committed table that a command leaves alone.

    These are the rows of features that are not `redone`. There are none where there is no file, and
    none where the unit is not `current`: rows that were made in two ways do not belong together.
    """
    if not (current and path.exists()):
        return pd.DataFrame({"feature": []})
    table = pd.read_parquet(path)
    return table[~table["feature"].isin(list(redone))]

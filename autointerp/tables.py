"""Rows of a table by feature, as plain dicts. A search of a frame of 100,000 rows for every card would take most of the card's time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd


class RowIndex:
    """The rows of each feature in the order of the table; `keys` name the columns in which its number may stand."""

    def __init__(
        self, table: pd.DataFrame, columns: list[str], keys: tuple[str, ...] = ("feature",)
    ):
        self._columns = {
            c: table[c].astype(object).tolist() if c in table else [None] * len(table)
            for c in columns
        }
        places = np.concatenate([np.arange(len(table))] * len(keys))
        numbers = np.concatenate([table[key].to_numpy(np.int64) for key in keys])
        self._places = {
            int(f): np.unique(places[rows]).tolist()
            for f, rows in pd.Series(numbers).groupby(numbers).indices.items()
        }

    def of(self, feature: int) -> list[dict]:
        """Values that JSON can hold: NaN becomes None."""
        return [
            {name: or_none(column[place]) for name, column in self._columns.items()}
            for place in self._places.get(feature, ())
        ]


def or_none(value):
    """`value`, or None for NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def plain(table: pd.DataFrame) -> list[dict]:
    """Rows as dicts that JSON can hold: NaN becomes None."""
    return [
        {k: or_none(v) for k, v in row.items()} for row in table.astype(object).to_dict("records")
    ]


def append_rows(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    return (
        pd.concat([old, new], ignore_index=True).sort_values("feature", kind="stable")
        if len(old)
        else new
    )


def table_of(records: list, kind) -> pd.DataFrame:
    return pd.DataFrame([asdict(r) for r in records], columns=list(kind.__annotations__))


def keep_rows(path: Path, current: bool, redone: Iterable[int]) -> pd.DataFrame:
    """The rows of a committed table that a command leaves alone: those of features that are not `redone`, and none where the unit is not `current`,
    since rows that were made in two ways do not belong together. Empty where there is no table."""
    if not (current and path.exists()):
        return pd.DataFrame({"feature": []})
    table = pd.read_parquet(path)
    return table[~table["feature"].isin(list(redone))]

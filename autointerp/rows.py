"""Rows of a table by feature, as plain dicts. A search of a frame of 100,000 rows for every card would take most of the card's time."""

from __future__ import annotations

import numpy as np
import pandas as pd


class Rows:
    """The rows of each feature in the order of the table; `keys` name the columns in which its number may stand."""

    def __init__(self, table: pd.DataFrame, columns: list[str], keys: tuple[str, ...] = ("feature",)):
        self._columns = {c: table[c].astype(object).tolist() if c in table else [None] * len(table) for c in columns}
        places = np.concatenate([np.arange(len(table))] * len(keys))
        numbers = np.concatenate([table[key].to_numpy(np.int64) for key in keys])
        self._places = {int(f): np.unique(places[rows]).tolist() for f, rows in pd.Series(numbers).groupby(numbers).indices.items()}

    def of(self, feature: int) -> list[dict]:
        """Values that JSON can hold: NaN becomes None."""
        return [{name: known(column[place]) for name, column in self._columns.items()} for place in self._places.get(feature, ())]


def known(value):
    """`value`, or None for NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def plain(table: pd.DataFrame) -> list[dict]:
    """Rows as dicts that JSON can hold: NaN becomes None."""
    return [{k: known(v) for k, v in row.items()} for row in table.astype(object).to_dict("records")]

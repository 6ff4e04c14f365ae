"""Where predictions made from a label in free words were wrong: kept beside the score, so that pages can show it without asking anybody again.

    missed        it fires, and the label was taken to say that it does not
    false_alarm   it is silent, and the label was taken to say that it fires

File misses.parquet of a score unit: feature, ordinal (the place to look at), stratum, told (what was predicted there, 0..1), worst first. Labels in
the language of rules predict by themselves, so nothing is kept of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from autointerp.panels import FIRES, Panel
from autointerp.postings import lookup

KEPT = 6  # of each stratum
SILENT, FIRING = 0.1, 0.5  # shares of the largest prediction: at most, at least
SPACING = 16  # tokens between two places
COLUMNS = ["feature", "ordinal", "stratum", "told"]
Row = tuple[int, int, str, float]


def of_sample(feature: int, ordinals: np.ndarray, activations: np.ndarray, predicted: np.ndarray) -> list[Row]:
    """Of predictions (n,) on ordinals (n,): the strongest firings that were not predicted, the strongest predictions where it is silent. NaN
    predictions are neither."""
    top = np.nanmax(predicted, initial=0.0)
    told = predicted / top if top > 0 else predicted * 0.0
    missed = np.flatnonzero((activations > 0) & (told <= SILENT))
    alarms = np.flatnonzero((activations == 0) & (told >= FIRING))
    worst = [("missed", missed[np.argsort(-activations[missed], kind="stable")]), ("false_alarm", alarms[np.argsort(-told[alarms], kind="stable")])]
    return [(feature, int(ordinals[i]), stratum, float(told[i])) for stratum, found in worst for i in apart(ordinals, found)]


def apart(ordinals: np.ndarray, found: np.ndarray) -> list[int]:
    """The first KEPT of `found` whose ordinals are at least SPACING apart."""
    chosen: list[int] = []
    for i in found.tolist():
        if len(chosen) < KEPT and all(abs(int(ordinals[i]) - int(ordinals[j])) >= SPACING for j in chosen):
            chosen.append(i)
    return chosen


def of_panel(panel: Panel, ratings: np.ndarray, yes: float, firings: tuple[np.ndarray, np.ndarray]) -> list[Row]:
    """Of ratings (w,) of a panel's windows, `yes` from where on they say that the feature fires: the surest mistakes. The place of a window is its
    strongest firing, or, where the feature is silent, the first of its marks. Windows without a rating are neither."""
    fires = panel.sorts == FIRES
    missed, alarms = np.flatnonzero(fires & (ratings < yes)), np.flatnonzero(~fires & (ratings >= yes))
    missed, alarms = missed[np.argsort(ratings[missed], kind="stable")][:KEPT], alarms[np.argsort(-ratings[alarms], kind="stable")][:KEPT]
    rows = [(panel.feature, int(panel.marks[i][lookup(*firings, panel.marks[i]).argmax()]), "missed", float(ratings[i])) for i in missed]
    return rows + [(panel.feature, int(panel.marks[i][0]), "false_alarm", float(ratings[i])) for i in alarms]


def table_of(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)

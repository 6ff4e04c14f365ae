"""Where predictions made from a label in free words were wrong: kept beside the score, so that pages can show it without asking anybody again.

    missed        it fires, and the label was taken to say that it does not
    false_alarm   it is silent, and the label was taken to say that it fires

File misses.parquet of a score unit: feature, ordinal (the place to look at), stratum, told (what was predicted there, 0..1), worst first. Labels in
the language of rules predict by themselves, so nothing is kept of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from autointerp.examples import Examples, ascending
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores.panels import FIRES, Panel
from core.firings.postings import lookup
from core.records import Snippet

KEPT = 6  # of each stratum
SILENT, FIRING = 0.1, 0.5  # shares of the largest prediction: at most, at least
SPACING = 16  # tokens between two places
COLUMNS = ["feature", "ordinal", "stratum", "told"]
Row = tuple[int, int, str, float]


def of_sample(
    feature: int, ordinals: np.ndarray, activations: np.ndarray, predicted: np.ndarray
) -> list[Row]:
    """Of predictions (n,) on ordinals (n,): the strongest firings that were not predicted, the strongest predictions where it is silent. NaN
    predictions are neither."""
    top = np.nanmax(predicted, initial=0.0)
    told = predicted / top if top > 0 else predicted * 0.0
    missed = np.flatnonzero((activations > 0) & (told <= SILENT))
    alarms = np.flatnonzero((activations == 0) & (told >= FIRING))
    worst = [
        ("missed", missed[np.argsort(-activations[missed], kind="stable")]),
        ("false_alarm", alarms[np.argsort(-told[alarms], kind="stable")]),
    ]
    return [
        (feature, int(ordinals[i]), stratum, float(told[i]))
        for stratum, found in worst
        for i in choose_spaced(ordinals, found)
    ]


def choose_spaced(ordinals: np.ndarray, found: np.ndarray) -> list[int]:
    """The first KEPT of `found` whose ordinals are at least SPACING apart."""
    chosen: list[int] = []
    for i in found.tolist():
        if len(chosen) < KEPT and all(
            abs(int(ordinals[i]) - int(ordinals[j])) >= SPACING for j in chosen
        ):
            chosen.append(i)
    return chosen


def of_panel(
    panel: Panel, ratings: np.ndarray, yes: float, firings: tuple[np.ndarray, np.ndarray]
) -> list[Row]:
    """Of ratings (w,) of a panel's windows, `yes` from where on they say that the feature fires: the surest mistakes. The place of a window is its
    strongest firing, or, where the feature is silent, the first of its marks. Windows without a rating are neither."""
    fires = panel.sorts == FIRES
    missed, alarms = (
        np.flatnonzero(fires & (ratings < yes)),
        np.flatnonzero(~fires & (ratings >= yes)),
    )
    missed, alarms = (
        missed[np.argsort(ratings[missed], kind="stable")][:KEPT],
        alarms[np.argsort(-ratings[alarms], kind="stable")][:KEPT],
    )
    rows = [
        (
            panel.feature,
            int(panel.marks[i][lookup(*firings, panel.marks[i]).argmax()]),
            "missed",
            float(ratings[i]),
        )
        for i in missed
    ]
    return rows + [
        (panel.feature, int(panel.marks[i][0]), "false_alarm", float(ratings[i])) for i in alarms
    ]


def table_of(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


STRONGEST = 400  # firings among which missed ones are sought
SAMPLE, PLACES = (
    5_000,
    500,
)  # tokens anywhere, and places of the feature's own token, among which false alarms are sought


class Failing:
    """Finds them for one feature after another; the corpus that rules are matched on is built once."""

    def __init__(self, examples: Examples, seed: int):
        self.examples, self.seed = examples, seed

    @cached_property
    def corpus(self) -> Annotations:
        return Annotations.from_tokens(self.examples.tokens)

    @cached_property
    def sample(self) -> np.ndarray:
        pool = self.examples.pool("test")
        return np.sort(
            np.random.default_rng(self.seed).choice(pool, min(SAMPLE, len(pool)), replace=False)
        )

    def prepare(self) -> None:
        """Make what all features share."""
        self.corpus, self.sample  # noqa: B018 - made once

    def snippets(
        self,
        feature: int,
        firings: tuple[np.ndarray, np.ndarray],
        text: str,
        count: int,
        kept: Sequence[dict] = (),
    ) -> list[Snippet]:
        """At most `count` snippets of each of the strata `missed` (strongest first) and `false_alarm`; of a label that is no rule those of `kept`, rows
        with ordinal and stratum, worst first."""
        rule = rules.read_rule(text)
        if rule is None:
            missed, alarms = (
                [row["ordinal"] for row in kept if row["stratum"] == stratum][:count]
                for stratum in ("missed", "false_alarm")
            )
        else:
            missed, alarms = (
                self._missed(rule, firings, count),
                self._false_alarms(rule, feature, firings, count),
            )
        strata = ["missed"] * len(missed) + ["false_alarm"] * len(alarms)
        return self.examples.cut(
            feature, firings, np.r_[missed, alarms].astype(np.int64), strata, [0.0] * len(strata)
        )

    def _missed(self, rule, firings, count: int) -> np.ndarray:
        where, values, _ = self.examples.firings_in(firings, "test")
        strongest = np.sort(ascending(values)[-STRONGEST:])
        where, values = where[strongest], values[strongest]
        unseen = rules.predict(rule, self.corpus, where) == 0
        return self.examples.spaced(where[unseen], ascending(values[unseen]), count)

    def _false_alarms(self, rule, feature: int, firings, count: int) -> np.ndarray:
        """Tokens that a strong part of the rule matches and on which the feature is silent, the same ones every time."""
        rng = np.random.default_rng([self.seed, feature])
        own = self.examples.silent_places(*firings, "test")
        own = rng.choice(own, min(PLACES, len(own)), replace=False) if len(own) else own
        tried = np.union1d(self.sample, own)
        tried = tried[lookup(*firings, tried) == 0]
        alarms = tried[rules.predict(rule, self.corpus, tried) >= 1]
        return self.examples.spaced(alarms, rng.permutation(len(alarms)), count)

"""Mistakes of labels: tokens where the prediction made from a label is wrong.

    missed        the feature fires and the label predicts that it does not
    false_alarm   the feature is silent and the label predicts that it fires

For labels in free words the mistakes are found while they are scored and kept in the score unit
(`unit.py`), so that pages can show them without asking an LLM again. Labels in the language of
rules predict by themselves, so their mistakes are computed when they are shown (`MistakeFinder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from autointerp.examples import Examples, Firings, argsort_stable
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores.panels import FIRES, Panel
from autointerp.scores.unit import Miss
from core.firings.postings import lookup
from core.records import Snippet

KEPT = 6  # mistakes of each stratum, for each feature
SILENT, FIRING = 0.1, 0.5  # shares of the largest prediction: at most, at least
SPACING = 16  # tokens between two mistakes
STRONGEST = 400  # firings among which a rule's misses are sought
SAMPLE = 5_000  # random tokens among which a rule's false alarms are sought
PLACES = 500  # silent places of the feature's own token, sought likewise


def find_sample_misses(
    feature: int, ordinals: np.ndarray, activations: np.ndarray, predicted: np.ndarray
) -> list[Miss]:
    """Return the worst mistakes of predictions (n,) on the tokens at `ordinals` (n,), worst first.

    These are the strongest firings that were not predicted, and the strongest predictions where the
    feature is silent. A NaN prediction is no mistake.
    """
    top = np.nanmax(predicted, initial=0.0)
    shares = predicted / top if top > 0 else predicted * 0.0
    missed = np.flatnonzero((activations > 0) & (shares <= SILENT))
    alarms = np.flatnonzero((activations == 0) & (shares >= FIRING))
    worst = [
        ("missed", missed[np.argsort(-activations[missed], kind="stable")]),
        ("false_alarm", alarms[np.argsort(-shares[alarms], kind="stable")]),
    ]
    return [
        (feature, int(ordinals[i]), stratum, float(shares[i]))
        for stratum, places in worst
        for i in choose_spaced(ordinals, places)
    ]


def choose_spaced(ordinals: np.ndarray, places: np.ndarray) -> list[int]:
    """Choose the first KEPT of `places` whose ordinals are at least SPACING apart."""
    chosen: list[int] = []
    for i in places.tolist():
        far = all(abs(int(ordinals[i]) - int(ordinals[j])) >= SPACING for j in chosen)
        if far and len(chosen) < KEPT:
            chosen.append(i)
    return chosen


def find_panel_misses(
    panel: Panel, ratings: np.ndarray, yes: float, firings: Firings
) -> list[Miss]:
    """Return the surest mistakes of ratings (w,) of a panel's windows, surest first.

    A rating of at least `yes` says that the feature fires; a NaN rating is no mistake. The place of
    a window is its strongest firing or, where the feature is silent, the first of its marks.
    """
    fires = panel.sorts == FIRES
    missed = np.flatnonzero(fires & (ratings < yes))
    alarms = np.flatnonzero(~fires & (ratings >= yes))
    missed = missed[np.argsort(ratings[missed], kind="stable")][:KEPT]
    alarms = alarms[np.argsort(-ratings[alarms], kind="stable")][:KEPT]
    out: list[Miss] = []
    for i in missed:
        strongest = panel.marks[i][lookup(*firings, panel.marks[i]).argmax()]
        out.append((panel.feature, int(strongest), "missed", float(ratings[i])))
    for i in alarms:
        out.append((panel.feature, int(panel.marks[i][0]), "false_alarm", float(ratings[i])))
    return out


class MistakeFinder:
    """Finds the mistakes of labels, feature by feature; the matched tokens are built once."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples, self.seed = examples, seed

    @cached_property
    def corpus(self) -> Annotations:
        return Annotations.from_tokens(self.examples.tokens)

    @cached_property
    def sample(self) -> np.ndarray:
        """Random ordinals of the test split, ascending."""
        pool = self.examples.pool("test")
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(pool, min(SAMPLE, len(pool)), replace=False))

    def prepare(self) -> None:
        """Build what all features share, before worker processes are forked."""
        self.corpus, self.sample  # noqa: B018 - cached properties

    def snippets(
        self,
        feature: int,
        firings: Firings,
        text: str,
        count: int,
        kept: Sequence[dict[str, Any]] = (),
    ) -> list[Snippet]:
        """Return up to `count` snippets of each of the strata `missed` and `false_alarm`.

        `text` is the label. The mistakes of a rule are computed; those of a label in free words are
        taken from `kept`: rows with ordinal and stratum, worst first.
        """
        rule = rules.read_rule(text)
        if rule is None:
            missed, alarms = (
                np.array([row["ordinal"] for row in kept if row["stratum"] == stratum][:count])
                for stratum in ("missed", "false_alarm")
            )
        else:
            missed = self._missed(rule, firings, count)
            alarms = self._false_alarms(rule, feature, firings, count)
        strata = ["missed"] * len(missed) + ["false_alarm"] * len(alarms)
        ordinals = np.r_[missed, alarms].astype(np.int64)
        return self.examples.cut(feature, firings, ordinals, strata, [0.0] * len(strata))

    def _missed(self, rule: rules.Rule, firings: Firings, count: int) -> np.ndarray:
        """Return the strongest firings on which the rule predicts nothing."""
        where, values, _ = self.examples.firings_in(firings, "test")
        strongest = np.sort(argsort_stable(values)[-STRONGEST:])
        where, values = where[strongest], values[strongest]
        unseen = rules.predict(rule, self.corpus, where) == 0
        return self.examples.choose_spaced(where[unseen], argsort_stable(values[unseen]), count)

    def _false_alarms(
        self, rule: rules.Rule, feature: int, firings: Firings, count: int
    ) -> np.ndarray:
        """Return silent tokens that a strong part of the rule matches, the same on every call."""
        rng = np.random.default_rng([self.seed, feature])
        own = self.examples.find_silent(*firings, "test")
        own = rng.choice(own, min(PLACES, len(own)), replace=False) if len(own) else own
        tried = np.union1d(self.sample, own)
        tried = tried[lookup(*firings, tried) == 0]
        alarms = tried[rules.predict(rule, self.corpus, tried) >= 1]
        return self.examples.choose_spaced(alarms, rng.permutation(len(alarms)), count)

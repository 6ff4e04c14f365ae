"""Score `coverage`: how much of a feature's activity a label names, over every held-out token.

The value is the share of the feature's total activation that lies on tokens for which the label
predicts anything: recall, weighted by activation. It says nothing of what else the label predicts,
so `precision` stands beside it: of all that the label predicts, the share on tokens where the
feature fires. Both are exact, from the postings and the matches of the rule; no token is sampled.
For a label in free words both are estimated (`estimated` in its row): an LLM predicts on the
sample of tokens of `simulation`, the same requests, and each token is weighted by how many tokens
it stands for (`strata`). Such a label predicts something where the LLM says at least SAYS of 9.

Most firings of a feature are weak, and a label may be right about the strong ones alone. So the
table also holds, for three strata of the feature's firings (the top tenth, the upper half, all):

    recall_top, recall_half           the value within the stratum
    r_top, r_half, r_all              Pearson's r of prediction and activation, over the stratum's
                                      firings and all silent tokens; weaker firings are left out
    auroc_top, auroc_half, auroc_all  the share of pairs of one such firing and one silent token in
                                      which the firing is predicted higher; ties count half

and `strong`, the value of the parts that are not marked (weak). Each has its null, the same for
the label of another feature of like density (`null_...`), and all but the areas have an interval
over documents (`low_...`, `high_...`), where the feature fires in enough of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.scores.context import (
    Context,
    Scored,
    list_failures,
    round_or_none,
    undefined_score,
)
from autointerp.scores.simulation import Predict, Sample, draw_samples, make_predictor
from autointerp.scores.simulation_corpus import HeldOut
from autointerp.scores.strata import (
    STRATA,
    Values,
    Weighted,
    area,
    correlations,
    precision,
    recall,
    share,
)
from autointerp.scores.unit import COVERAGE, COVERAGE_COLUMNS, COVERAGE_VALUES
from autointerp.statistics import MIN_DOCUMENTS, auroc, correlation, interval, ratio_interval
from core.parallel import map_in_workers
from core.progress import progress
from core.records import Score, Undefined

SAYS = 0.5  # of 9: a prediction that rounds to at least 1 says that the feature fires
CHUNK = 16  # features handed to a worker at a time


@dataclass(frozen=True)
class Activity:
    """The firings of one feature on held-out tokens."""

    where: np.ndarray  # (m,) ordinals, ascending
    activations: np.ndarray  # (m,) float64, SAE units
    documents: np.ndarray  # (m,) document of each firing
    rank: np.ndarray  # (m,) place of each firing by activation, 0 the weakest

    @classmethod
    def build(cls, where: np.ndarray, values: np.ndarray, documents: np.ndarray) -> Activity:
        """Firings at `where` (m,) with `values` (m,) in `documents` (m,)."""
        rank = np.empty(len(where), np.int64)
        rank[np.argsort(values, kind="stable")] = np.arange(len(where))
        return cls(where, values.astype(np.float64), documents, rank)

    def stratum(self, name: str) -> np.ndarray:
        """bool (m,): the firings of a stratum, at least the strongest."""
        return self.rank >= min(int(STRATA[name] * len(self.where)), len(self.where) - 1)


@dataclass(frozen=True)
class Matched:
    """One label's predictions beside one feature's firings, on the tokens of a `HeldOut`."""

    held_out: HeldOut
    activity: Activity
    at: np.ndarray  # (k,) ordinals where the label predicts anything, ascending
    levels: np.ndarray  # (k,) float64 predictions there, above 0
    on_firings: np.ndarray  # (m,) float64 prediction on each firing, 0 for none

    @classmethod
    def build(
        cls, held_out: HeldOut, activity: Activity, predicted: tuple[np.ndarray, np.ndarray]
    ) -> Matched:
        """`predicted` is what `HeldOut.predict` returns."""
        at, levels = predicted[0], predicted[1].astype(np.float64)
        on_firings = np.zeros(len(activity.where))
        _, here, there = np.intersect1d(activity.where, at, assume_unique=True, return_indices=True)
        on_firings[here] = levels[there]
        return cls(held_out, activity, at, levels, on_firings)

    def values(self, bounded: bool) -> Values:
        """Every value of COVERAGE_VALUES and `recall_all`; with intervals where `bounded`."""
        ratios = {f"recall_{name}": self._recall(self.activity.stratum(name)) for name in STRATA}
        ratios["strong"] = self._recall(self.activity.stratum("all"), self.levels.max(initial=1.0))
        ratios["precision"] = self._precision()
        out: Values = {}
        for name, (parts, wholes) in ratios.items():
            out[name] = _ratio(parts, wholes)
            if bounded and (span := ratio_interval(parts, wholes)):
                out[f"low_{name}"], out[f"high_{name}"] = span
        for name in STRATA:
            inside = self.activity.stratum(name)
            sums = self._sums(inside)
            # A constant prediction explains nothing.
            out[f"r_{name}"] = float(np.nan_to_num(correlation(sums.sum(0))))
            if bounded and (span := interval(sums)):
                out[f"low_r_{name}"], out[f"high_r_{name}"] = span
            out[f"auroc_{name}"] = self._area(inside)
        return out

    def _recall(self, inside: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """(activation on tokens predicted at `least` or more, all activation), by document."""
        a, documents = self.activity.activations, self.activity.documents
        told = inside & (self.on_firings > 0) & (self.on_firings >= least)
        return self._by_document(documents[told], a[told]), self._by_document(
            documents[inside], a[inside]
        )

    def _precision(self) -> tuple[np.ndarray, np.ndarray]:
        """(prediction on tokens where the feature fires, all prediction), by document."""
        everywhere = self._by_document(self.held_out.documents[self.at], self.levels)
        return self._by_document(self.activity.documents, self.on_firings), everywhere

    def _by_document(self, documents: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        return np.bincount(documents, values, len(self.held_out.sizes))

    def _sums(self, inside: np.ndarray) -> np.ndarray:
        """Sums (documents, 6) of `statistics` over firings `inside` and all silent tokens."""
        left_out, documents = ~inside, self.activity.documents
        p, a = self.on_firings, np.where(inside, self.activity.activations, 0.0)
        of_p = self.held_out.documents[self.at]
        columns = [
            self.held_out.sizes - self._by_document(documents[left_out], None),
            self._by_document(of_p, self.levels)
            - self._by_document(documents[left_out], p[left_out]),
            self._by_document(documents, a),
            self._by_document(of_p, self.levels**2)
            - self._by_document(documents[left_out], p[left_out] ** 2),
            self._by_document(documents, a * a),
            self._by_document(documents, p * a),
        ]
        return np.stack(columns, axis=1)[self.held_out.sizes > 0]

    def _area(self, inside: np.ndarray) -> float:
        """Area under the ROC curve of firings `inside` against all silent tokens."""
        silent = np.setdiff1d(self.at, self.activity.where, assume_unique=True)
        told = self.levels[np.searchsorted(self.at, silent)]
        n_silent = int(self.held_out.sizes.sum()) - len(self.activity.where)
        if not n_silent:
            return float("nan")
        firing = self.on_firings[inside]
        untold = n_silent - len(told)  # silent tokens with prediction 0
        above_none = float(np.where(firing > 0, 1.0, 0.5).mean())
        above_told = auroc(firing, told) if len(told) else 0.0
        return (above_none * untold + above_told * len(told)) / n_silent


def _ratio(parts: np.ndarray, wholes: np.ndarray) -> float:
    """The share of the summed wholes that the parts are; NaN of nothing."""
    whole = float(wholes.sum())
    return float(parts.sum()) / whole if whole > 0 else float("nan")


# ---------------------------------------------------------------- the stage


def score_coverage(context: Context, features: list[int]) -> Scored:
    """Score the labels, rules exactly and others by estimate; one row a feature."""
    with_rule = [f for f in features if not context.is_free(f)]
    held_out = HeldOut.build(context)
    score = partial(score_one, context.prepare(), held_out)
    scored = map_in_workers(score, with_rule, context.engine, CHUNK)
    pairs = list(progress(scored, "coverage", total=len(with_rule), unit="feat"))
    in_words = [f for f in features if context.is_free(f)]
    estimated, info = estimate_coverage(context, in_words) if in_words else ([], {})
    scores = [one for one, _ in pairs + estimated]
    columns: dict[str, list] = {
        name: [values.get(name, float("nan")) for _, values in pairs + estimated]
        for name in COVERAGE_COLUMNS
    }
    columns["estimated"] = [False] * len(pairs) + [True] * len(estimated)
    summary = {"held_out_tokens": int(held_out.sizes.sum()), "estimated": len(estimated)} | info
    return Scored(scores, list_failures(scores), columns, summary)


def score_one(context: Context, held_out: HeldOut, feature: int) -> tuple[Score, Values]:
    """(score, values of COVERAGE_COLUMNS) of one feature's rule; no values where it is too rare."""
    where, values, _ = context.examples.firings_in(context.postings.firings(feature), "test")
    activity = Activity.build(where, values, held_out.documents[where])
    n_documents, n_tokens = len(np.unique(activity.documents)), int(held_out.sizes.sum())
    if n_documents < RARE_DOCUMENTS:
        why = f"fires in {n_documents} held-out documents; {RARE_DOCUMENTS} are needed"
        rare = Undefined("too_rare", why)
        return undefined_score(context, COVERAGE, feature, rare, n_tokens, n_documents), {}
    rule, null_rule = (
        context.rule_of[text] for text in (context.labels[feature], context.others[feature])
    )
    assert rule is not None, "score_coverage skips labels in free words"
    predicted = held_out.predict(rule)
    found = Matched.build(held_out, activity, predicted).values(n_documents >= MIN_DOCUMENTS)
    value = found.pop("recall_all")
    low, high = found.pop("low_recall_all", None), found.pop("high_recall_all", None)
    found["activation"] = float(activity.activations.sum())
    null = None
    if null_rule is not None:
        by_null = Matched.build(held_out, activity, held_out.predict(null_rule)).values(False)
        null = by_null.pop("recall_all")
        found |= {f"null_{name}": v for name, v in by_null.items()}
    name = context.label_set
    score = Score(feature, name, COVERAGE, value, None, low, high, null, n_tokens, n_documents)
    return score, found


# ---------------------------------------------------------------- labels in free words


def estimate_coverage(
    context: Context, features: list[int]
) -> tuple[list[tuple[Score, Values]], dict[str, Any]]:
    """((score, values) of each feature, entries for the manifest's summary), by an LLM's answers.

    The samples and the requests are those of `simulation`, so that an answer that one of the two
    kinds has paid for serves both.
    """
    samples = list(draw_samples(context, features))
    predict, info = make_predictor(context, samples)
    return [estimate_one(context, sample, predict) for sample in samples], info


def estimate_one(context: Context, sample: Sample, predict: Predict) -> tuple[Score, Values]:
    """(score, values of COVERAGE_COLUMNS) of one label in free words, from a weighted sample."""
    feature, n_documents = sample.feature, sample.n_documents
    n_tokens = len(sample.ordinals)
    predicted = "too_rare" if sample.rare else predict(context.labels[feature], feature)
    if isinstance(predicted, str):
        undefined = Undefined(predicted)
        return undefined_score(context, COVERAGE, feature, undefined, n_tokens, n_documents), {}
    known = sample.weighted.known(predicted)
    bounded = n_documents >= MIN_DOCUMENTS
    found = estimate_values(known, predicted[~np.isnan(predicted)], bounded)
    strong = predict(context.strong(feature), feature)
    if isinstance(strong, np.ndarray):
        known = sample.weighted.known(strong)
        told = strong[~np.isnan(strong)] >= SAYS
        found |= share(*recall(known, told, "all"), bounded, "strong")
    value = found.pop("recall_all")
    low, high = found.pop("low_recall_all", None), found.pop("high_recall_all", None)
    weighted = sample.weighted
    found["activation"] = float(weighted.weights @ weighted.activations)
    other = context.others[feature]
    by_null = predict(other, feature) if other else ""
    null = None
    if isinstance(by_null, np.ndarray):
        known = sample.weighted.known(by_null)
        of_null = estimate_values(known, by_null[~np.isnan(by_null)], False)
        null = of_null.pop("recall_all")
        found |= {f"null_{name}": v for name, v in of_null.items()}
    name = context.label_set
    score = Score(feature, name, COVERAGE, value, None, low, high, null, n_tokens, n_documents)
    return score, found


def estimate_values(sample: Weighted, predicted: np.ndarray, bounded: bool) -> Values:
    """Values of COVERAGE_VALUES but `strong`, and `recall_all`, of predictions (n,) of 0 to 9."""
    told = predicted >= SAYS
    out = share(*precision(sample, np.where(told, predicted, 0.0)), bounded, "precision")
    for name in STRATA:
        out |= share(*recall(sample, told, name), bounded, f"recall_{name}")
        out[f"auroc_{name}"] = area(sample, predicted, name)
    by_stratum = correlations(sample, predicted, bounded)
    for name in STRATA:
        ends = {"": "r", "low_": "low_r", "high_": "high_r"}
        out |= {
            f"{end}_{name}": by_stratum[f"{lead}{name}"]
            for lead, end in ends.items()
            if f"{lead}{name}" in by_stratum
        }
    return out


def coverage_figures(table: pd.DataFrame) -> dict[str, Any]:
    """The medians of a whole table, and the share of all features' activation that is named.

    `named` weighs each feature by its total activation; `null_named` is the same for null labels.
    """
    scored = table[table["value"].notna()]
    names = [name for name in COVERAGE_VALUES if name in scored]
    names += [f"null_{name}" for name in names]
    medians = {name: round_or_none(float(scored[name].median())) for name in names}
    total = float(scored["activation"].sum()) if len(scored) else 0.0
    shares = {
        name: round_or_none(float((scored[column] * scored["activation"]).sum()) / total)
        for name, column in (("named", "value"), ("null_named", "null"))
        if total > 0
    }
    return {"medians": medians} | shares

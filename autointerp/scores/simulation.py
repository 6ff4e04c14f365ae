"""Score `simulation`: Pearson's r between a feature's activations and the predictions of its label.

Each feature has one sample of windows of the test split, which depends on the seed and the feature
alone, so that every label set is scored on the same tokens: windows around the largest activations,
from each of five quantile strata of activations, and anywhere (`context.EFFORTS`). The value is
Pearson's r over all tokens of the sample, sign kept (Bills et al. 2023). The null is the value of
another feature's label on the same tokens. `top`, `half` and `all` are r over the top tenth, the
upper half and all of the firings, with the tokens weighted as `strata` says; `strong` is the value
of the label without its parts for weak firings.

Labels in the language of rules predict by themselves; from other labels an LLM predicts, which sees
the label and the tokens of each window, nothing else.

A feature that fires in fewer than RARE_DOCUMENTS documents of its sample is `too_rare`. A label
that predicts the same on every token has no correlation and is `constant`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.rules import language as rules
from autointerp.scores.context import Context, Scored
from autointerp.scores.mistakes import find_sample_misses
from autointerp.scores.simulator import simulate
from autointerp.scores.strata import Values, Weighted, correlations, weigh
from autointerp.scores.unit import STRATUM_COLUMNS, Miss
from autointerp.statistics import MIN_DOCUMENTS, correlation, document_sums, interval
from core.firings.postings import lookup
from core.parallel import map_in_workers
from core.progress import progress
from core.records import Failure, Score, Undefined

KIND = "simulation"
CHUNK = 16  # features handed to a worker at a time

# (label text, feature whose sample it is) -> predictions (n,), or the kind of failure
Predict = Callable[[str, int], np.ndarray | str]


@dataclass(frozen=True)
class Sample:
    """The tokens (n,) on which one feature's labels are scored."""

    feature: int
    ordinals: np.ndarray  # (n,) ascending
    activations: np.ndarray  # (n,) SAE units
    documents: np.ndarray  # (n,)
    n_documents: int  # documents of the sample in which the feature fires
    n_copied: int  # firings left out because their text also stands in a train document
    weighted: Weighted  # the same tokens, with how many held-out tokens each stands for

    @property
    def rare(self) -> bool:
        return self.n_documents < RARE_DOCUMENTS

    def undefined(self, label_set: str, undefined: Undefined) -> Score:
        """Return a score without a value."""
        n_tokens, n_documents = len(self.ordinals), self.n_documents
        nothing = (None, None, None)
        return Score(
            self.feature, label_set, KIND, None, undefined, *nothing, n_tokens, n_documents
        )


def score_simulation(context: Context, features: list[int]) -> Scored:
    """Score the labels of `features`; one row a feature."""
    samples = list(draw_samples(context, features))
    predict, info = make_predictor(context, samples)
    scores, failures, columns = score_samples(samples, context, predict)
    misses: list[Miss] = []
    for s in samples:
        if not s.rare and context.is_free(s.feature):
            predicted = predict(context.labels[s.feature], s.feature)
            if isinstance(predicted, np.ndarray):
                misses += find_sample_misses(s.feature, s.ordinals, s.activations, predicted)
    summary = {"copied_firings_left_out": sum(s.n_copied for s in samples)} | info
    return Scored(scores, failures, columns, summary, misses)


def draw_samples(context: Context, features: list[int]) -> Iterator[Sample]:
    """Draw the sample of each feature, in worker processes."""
    drawn = map_in_workers(partial(draw_sample, context.prepare()), features, context.engine, CHUNK)
    yield from progress(drawn, "sample", total=len(features), unit="feat")


def draw_sample(context: Context, feature: int) -> Sample:
    """Draw the sample of one feature; copies of train text are left out and counted."""
    examples, effort = context.examples, context.effort
    counts = {"top": effort.top, "strata": effort.strata, "random": effort.random}
    firings = context.postings.firings(feature)
    drawn = examples.draw(firings, "test", counts, np.random.default_rng([context.seed, feature]))
    ordinals = examples.cover(drawn.ordinals)
    ordinals = ordinals[~examples.copied[ordinals]]
    activations, documents = lookup(*firings, ordinals), context.tokens.document_of(ordinals)
    n_documents = len(np.unique(documents[activations > 0]))
    weighted = weigh(examples, firings, ordinals, documents)
    return Sample(feature, ordinals, activations, documents, n_documents, drawn.n_copied, weighted)


def make_predictor(context: Context, samples: list[Sample]) -> tuple[Predict, dict[str, Any]]:
    """Return (function that predicts, entries for the manifest's summary).

    Labels and nulls in free words go to the LLM here, all in one batch.
    """
    annotations, ordinals = context.annotations, {s.feature: s.ordinals for s in samples}
    free = [
        (text, s.feature, s.ordinals)
        for s in samples
        if not s.rare
        for text in context.texts(s.feature)
        if context.rule_of[text] is None
    ]
    simulated: dict[tuple[str, int], np.ndarray | str] = {}
    info: dict[str, Any] = {}
    if free:
        assert context.asker is not None, "score opens a session where labels are in free words"
        simulated, info = simulate(
            context.asker, context.tokens, free, context.settings.simulate_by
        )

    def predict(text: str, feature: int) -> np.ndarray | str:
        rule = context.rule_of[text]
        if rule is None:
            return simulated[text, feature]
        return rules.predict(rule, annotations, ordinals[feature])

    return predict, info


def score_samples(
    samples: list[Sample], context: Context, predict: Predict
) -> tuple[list[Score], list[Failure], dict[str, list]]:
    """Return (a score for each sample, a failure for each score without a value, more columns).

    The columns are STRATUM_COLUMNS, and `strong`: r, as the value, of the strong reading.
    """
    scores, failures = [], []
    names = (*STRATUM_COLUMNS, "strong")
    columns: dict[str, list] = {name: [] for name in names}
    for sample in progress(samples, "score", unit="feat"):
        score, why, values = _score_sample(sample, context, predict)
        scores.append(score)
        for name in names:
            columns[name].append(values.get(name, float("nan")))
        if score.undefined:
            failures.append(Failure("score", sample.feature, score.undefined.kind, why))
    return scores, failures, columns


def _score_sample(sample: Sample, context: Context, predict: Predict) -> tuple[Score, str, Values]:
    """Return (score, why it has no value, values of the further columns)."""
    name, feature = context.label_set, sample.feature
    if sample.rare:
        n = sample.n_documents
        why = f"fires in {n} documents of the test sample; {RARE_DOCUMENTS} are needed"
        return sample.undefined(name, Undefined("too_rare", why)), why, {}
    predicted = predict(context.labels[feature], feature)
    if isinstance(predicted, str):
        return sample.undefined(name, Undefined(predicted)), "no simulation could be read", {}
    other = context.others[feature]
    by_null = predict(other, feature) if other else None
    score = score_one(sample, predicted, by_null, name)
    if score.undefined:
        return score, str(score.undefined), {}
    values = correlations(sample.weighted, predicted, sample.n_documents >= MIN_DOCUMENTS)
    if isinstance(by_null, np.ndarray):
        of_null = correlations(sample.weighted, by_null, False)
        values |= {f"null_{name}": value for name, value in of_null.items()}
    by_strong = predict(context.strong(feature), feature)
    if isinstance(by_strong, np.ndarray):
        sums = _sums(sample, by_strong).sum(0)
        values["strong"] = float(np.nan_to_num(correlation(sums)))
    return score, "", values


def score_one(
    sample: Sample, predicted: np.ndarray, by_null: np.ndarray | str | None, label_set: str
) -> Score:
    """Return the score of predictions (n,) on a sample.

    `by_null` are the predictions of the null label, or why there are none. A NaN prediction stands
    for a token whose simulation failed; it is left out.
    """
    known = ~np.isnan(predicted)
    sums = _sums(sample, predicted)
    value = float(correlation(sums.sum(0)))
    if np.isnan(value):
        side = "label" if np.ptp(predicted[known]) == 0 else "activation"
        why = f"the {side} is the same on every token of the sample"
        return sample.undefined(label_set, Undefined("constant", why))
    null = None
    if isinstance(by_null, np.ndarray):  # a constant prediction explains nothing: NaN becomes 0
        null = float(np.nan_to_num(correlation(_sums(sample, by_null).sum(0))))
    span = interval(sums) if sample.n_documents >= MIN_DOCUMENTS else None
    low, high = span or (None, None)
    n_tokens, n_documents = int(known.sum()), sample.n_documents
    return Score(
        sample.feature, label_set, KIND, value, None, low, high, null, n_tokens, n_documents
    )


def _sums(sample: Sample, predicted: np.ndarray) -> np.ndarray:
    """Return the sums per document (d, 6) of `statistics`, over tokens with a prediction."""
    known = ~np.isnan(predicted)
    return document_sums(predicted[known], sample.activations[known], sample.documents[known])

"""Kind `simulation`: a label's text predicts the feature's activations, token by token, on held-out text.

One seeded sample of windows of the test split for each feature, the same for every labeller: 10 top, 6 from each of five quantile
strata and 30 random ones, as many as exist. The score is Pearson's r over all their tokens, sign kept (Bills et al. 2023). Its null
is the label of another feature of like density on the same tokens. Rule labels, and any text written in their language, are
simulated by the rule; other labels by an LLM, which sees each window's tokens and the label, nothing else.

A feature that fires in fewer than 5 test documents is `too_rare`; a label that predicts the same everywhere has no correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.rules import language as rules
from autointerp.scores.context import Context, Scored
from autointerp.scores.mistakes import of_sample
from autointerp.scores.simulator import simulate
from autointerp.statistics import MIN_DOCUMENTS, correlation, document_sums, interval
from core.firings.postings import lookup
from core.parallel import in_workers
from core.progress import progress
from core.records import Failure, Score

KIND = "simulation"
CHUNK = 16  # features handed to a worker at a time

Predict = Callable[
    [str, int], np.ndarray | str
]  # (label text, feature whose sample it is) -> predictions, or the kind of failure


@dataclass(frozen=True)
class Sample:
    """The tokens on which one feature's labels are scored: ordinals ascending, activations and document of each."""

    feature: int
    ordinals: np.ndarray
    activations: np.ndarray
    documents: np.ndarray
    n_documents: int  # in which the feature fires, within the sample
    n_copied: int

    @property
    def rare(self) -> bool:
        return self.n_documents < RARE_DOCUMENTS


def score_simulation(context: Context, features: list[int]) -> Scored:
    samples = list(draw_samples(context, features))
    predict, told = make_predictor(context, samples)
    scores, failures = score_samples(samples, context, predict)
    said = {
        s.feature: predict(context.labels[s.feature], s.feature)
        for s in samples
        if not s.rare and context.parsed[context.labels[s.feature]] is None
    }
    wrong = [
        row
        for s in samples
        if isinstance(said.get(s.feature), np.ndarray)
        for row in of_sample(s.feature, s.ordinals, s.activations, said[s.feature])
    ]
    return Scored(
        scores,
        failures,
        summary={"copied_firings_left_out": sum(s.n_copied for s in samples)} | told,
        misses=wrong,
    )


def draw_samples(context: Context, features: list[int]) -> Iterator[Sample]:
    """One sample a feature, seeded by the feature alone, so that every labeller is scored on the same tokens."""
    yield from progress(
        in_workers(partial(draw_sample, context.prepared()), features, chunk=CHUNK),
        "sample",
        total=len(features),
        unit="feat",
    )


def draw_sample(context: Context, feature: int) -> Sample:
    examples, settings = context.examples, context.settings
    counts = {"top": settings.top, "strata": settings.strata, "random": settings.random}
    firings = context.postings.firings(feature)
    drawn = examples.draw(firings, "test", counts, np.random.default_rng([context.seed, feature]))
    ordinals = examples.covered(drawn.ordinals)
    ordinals = ordinals[~examples.copied[ordinals]]
    activations, documents = lookup(*firings, ordinals), context.tokens.document_of(ordinals)
    return Sample(
        feature,
        ordinals,
        activations,
        documents,
        len(np.unique(documents[activations > 0])),
        drawn.n_copied,
    )


def make_predictor(context: Context, samples: list[Sample]) -> tuple[Predict, dict]:
    """(what predicts, what the manifest should say of it). Rules predict by themselves; other texts go to the LLM, all in one batch."""
    corpus, ordinals = context.corpus, {s.feature: s.ordinals for s in samples}
    free = [
        (text, s)
        for s in samples
        if not s.rare
        for text in context.texts(s.feature)
        if context.parsed[text] is None
    ]
    simulated, told = simulate(context.asker, context.tokens, free) if free else ({}, {})

    def predict(text: str, feature: int):
        rule = context.parsed[text]
        return (
            simulated[text, feature]
            if rule is None
            else rules.predict(rule, corpus, ordinals[feature])
        )

    return predict, told


def score_samples(
    samples: list[Sample], context: Context, predict: Predict
) -> tuple[list[Score], list[Failure]]:
    scores, failures = [], []
    for sample in progress(samples, "score", unit="feat"):
        if sample.rare:
            reason = f"fires in {sample.n_documents} documents of the test sample; {RARE_DOCUMENTS} are needed"
            scores.append(_undefined(sample, context.set, "too_rare: " + reason))
            failures.append(Failure("score", sample.feature, "too_rare", reason))
            continue
        predicted = predict(context.labels[sample.feature], sample.feature)
        if isinstance(predicted, str):
            scores.append(_undefined(sample, context.set, predicted))
            failures.append(
                Failure("score", sample.feature, predicted, "no simulation could be read")
            )
            continue
        other = context.others[sample.feature]
        scored = score_one(
            sample, predicted, predict(other, sample.feature) if other else None, context.set
        )
        if scored.value is None:
            failures.append(
                Failure("score", sample.feature, scored.undefined.split(":")[0], scored.undefined)
            )
        scores.append(scored)
    return scores, failures


def score_one(
    sample: Sample, predicted: np.ndarray, by_other: np.ndarray | str | None, name: str
) -> Score:
    """The score of predictions (n,) on a sample; NaN predictions are tokens whose simulation failed, and are left out."""
    known = ~np.isnan(predicted)
    sums = document_sums(predicted[known], sample.activations[known], sample.documents[known])
    value = float(correlation(sums.sum(0)))
    null = None
    if isinstance(by_other, np.ndarray):
        known_null = ~np.isnan(by_other)
        found = float(
            correlation(
                document_sums(
                    by_other[known_null],
                    sample.activations[known_null],
                    sample.documents[known_null],
                ).sum(0)
            )
        )
        null = 0.0 if np.isnan(found) else found  # a constant prediction explains nothing
    if np.isnan(value):
        what = "label" if np.ptp(predicted[known]) == 0 else "activation"
        return _undefined(
            sample, name, f"constant: the {what} is the same on every token of the sample"
        )
    span = interval(sums) if sample.n_documents >= MIN_DOCUMENTS else None
    low, high = span or (None, None)
    return Score(
        sample.feature, name, KIND, value, "", low, high, null, int(known.sum()), sample.n_documents
    )


def _undefined(sample: Sample, name: str, reason: str) -> Score:
    return Score(
        sample.feature,
        name,
        KIND,
        None,
        reason,
        None,
        None,
        None,
        len(sample.ordinals),
        sample.n_documents,
    )

"""Scores: what a label predicts, its null, and every way of having no score."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from autointerp.scores.context import null_labels, rank_correlations, summarise
from autointerp.scores.simulation import Sample, score_one, score_samples
from autointerp.scores.simulator import LENGTH, WINDOWS, batches
from autointerp.scores.strata import Weighted, quantile_of


def sample(feature=0, documents=30, seed=0, firing_documents=30):
    """20 tokens a document; in the first `firing_documents` a random fifth fires."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(documents), 20)
    activations = np.where(
        (rng.random(len(which)) < 0.2) & (which < firing_documents), rng.random(len(which)) + 1, 0.0
    )
    return Sample(
        feature,
        np.arange(len(which)),
        activations,
        which,
        len(np.unique(which[activations > 0])),
        0,
        Weighted(
            activations,
            which,
            quantile_of(np.sort(activations[activations > 0]), activations),
            np.ones(len(which)),
        ),
    )


def test_a_perfect_prediction_scores_one_and_a_reversed_one_minus_one():
    s = sample()
    assert score_one(s, s.activations, None, "x").value == pytest.approx(1)
    assert score_one(s, -s.activations, None, "x").value == pytest.approx(-1)


def test_interval_only_where_enough_documents_fire():
    many, few = sample(documents=40, firing_documents=40), sample(firing_documents=8)

    def noisy(s):
        return s.activations + np.random.default_rng(1).normal(size=len(s.activations))

    scored = score_one(many, noisy(many), None, "x")
    assert scored.low < scored.value < scored.high
    scored = score_one(few, noisy(few), None, "x")
    assert (
        scored.value is not None
        and scored.low is None
        and scored.high is None
        and scored.n_documents == 8
    )


def test_a_constant_prediction_is_undefined_and_as_a_null_explains_nothing():
    s = sample()
    scored = score_one(s, np.zeros(len(s.ordinals)), None, "x")
    assert scored.value is None and scored.undefined.kind == "constant"
    assert score_one(s, s.activations, np.zeros(len(s.ordinals)), "x").null == 0.0


def test_failed_windows_are_left_out_and_never_read_as_zero():
    s = sample()
    broken = s.activations.copy()
    broken[:200] = np.nan
    scored = score_one(s, broken, None, "x")
    assert scored.value == pytest.approx(1) and scored.n_tokens == len(s.ordinals) - 200


def test_rare_features_and_failures_are_rows_with_reasons_and_are_counted():
    samples = [sample(0), sample(1, firing_documents=3), sample(2)]
    context = SimpleNamespace(
        label_set="x",
        labels={0: "good", 1: "good", 2: "garbled"},
        others={0: "other", 1: "other", 2: "other"},
        strong=lambda feature: "half",
    )

    def predict(text, feature):
        return {
            "good": samples[feature].activations,
            "half": samples[feature].activations * (np.arange(600) % 2),
            "other": np.random.default_rng(2).random(600),
            "garbled": "unparsable",
        }[text]

    scores, failures, columns = score_samples(samples, context, predict)
    assert columns["top"][0] == columns["all"][0] == pytest.approx(1)
    assert abs(columns["null_all"][0]) < 0.2 and 0 < columns["strong"][0] < 0.9
    assert np.isnan(columns["all"][1:]).all()
    assert [s.feature for s in scores] == [0, 1, 2] and [s.value is None for s in scores] == [
        False,
        True,
        True,
    ]
    assert [(f.feature, f.kind) for f in failures] == [(1, "too_rare"), (2, "unparsable")]
    table = pd.DataFrame([s.__dict__ for s in scores])
    found = summarise(table, failures, 4, 0, 0.0, pd.Series({0: "token", 1: "token", 2: "context"}))
    assert (
        found["n"] == 1
        and found["share_above_null"] == 0.25
        and found["failures"] == {"too_rare": 1, "unparsable": 1}
    )
    assert found["by_kind_of_label"] == {"token": {"n": 1, "median": 1.0}}
    always_no = summarise(table, failures, 4, 0, 1.0, pd.Series({0: "token"}))
    assert always_no["share_above_null"] == 0, (
        "a value must also be above what a label that says nothing reaches"
    )


def test_without_any_score_the_summary_has_no_number():
    nothing = pd.DataFrame({"feature": [0], "value": [np.nan], "null": [np.nan], "low": [np.nan]})
    found = summarise(nothing, [], 1, 0, 0.0, pd.Series({0: "token"}))
    assert (
        found["median"] is None and found["null_median"] is None and found["share_above_null"] == 0
    )


def test_a_null_label_is_another_features():
    labels = pd.Series({f: f"label {f}" for f in range(40)})
    others = null_labels(labels, np.linspace(0, 1, 40), seed=0)
    assert set(others) == set(range(40)) and all(others[f] != labels[f] for f in range(40))
    assert null_labels(labels[:1], np.linspace(0, 1, 40), seed=0) == {0: ""}


def test_rank_correlations_are_spearmans_over_common_features():
    rng = np.random.default_rng(0)
    a, noise = rng.random(50), rng.random(50)

    def frame(values, first):
        return pd.DataFrame({"feature": range(first, first + 50), "value": values})

    tables = {
        "a": frame(a, 0),
        "b": frame(np.where(np.arange(50) < 5, np.nan, a + noise), 0),
        "far": frame(a, 45),
    }
    found = rank_correlations(tables, "a")
    assert list(found) == ["b"] and found["b"]["n"] == 45, "five features in common are too few"
    assert found["b"]["rho"] == pytest.approx(spearmanr(a[5:], (a + noise)[5:])[0], abs=1e-4)


def test_simulated_windows_cover_every_ordinal_once():
    ordinals = np.r_[np.arange(5, 100), np.arange(200, 203), np.arange(300, 300 + 12 * LENGTH)]
    found = batches(ordinals)
    windows = [w for batch in found for w in batch]
    assert np.concatenate(windows).tolist() == ordinals.tolist()
    assert max(map(len, windows)) <= LENGTH and max(map(len, found)) <= WINDOWS
    assert all((np.diff(w) == 1).all() for w in windows)

"""Scores by stratum from a sample: what they estimate, checked against every held-out token."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from autointerp.rules import language as rules
from autointerp.scores.context import Context
from autointerp.scores.coverage import estimate_values, score_one
from autointerp.scores.detection import separate_strata, weigh_windows
from autointerp.scores.simulation import draw_sample
from autointerp.scores.simulation_corpus import HeldOut
from autointerp.scores.strata import SILENT, STRATA, Weighted, area, correlations, quantile_of
from autointerp.settings import ScoreSettings
from core.firings.postings import Postings
from core.run import Run
from core.text.tokens import Tokens
from tests.support.planted import planted_run

LABELS = {0: '"cat"', 3: '"bread" or "salt"', 4: '"king"', 7: '"bird", "fish" or "the"'}
SEEDS = range(12)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Labels that name all, half, one sense, and too much of what planted features do."""
    run = planted_run(tmp_path_factory.mktemp("planted") / "run")
    texts = pd.Series(LABELS)
    tokens, postings = (
        Tokens(run.folder("capture")),
        Postings(run.folder("index"), run.folder("capture")),
    )
    return Context(run, ScoreSettings(), texts, texts, postings, tokens)


@pytest.fixture(scope="module")
def measured(context):
    """{feature: (exact values, estimates from SEEDS samples)}"""
    held_out, out = HeldOut.build(context.prepare()), {}
    for feature, text in LABELS.items():
        score, exact = score_one(context, held_out, feature)
        exact = exact | {"recall_all": score.value}
        drawn = []
        for seed in SEEDS:
            run = Run(context.run.path, replace(context.run.settings, seed=seed))
            sample = draw_sample(replace(context, run=run), feature)
            told = rules.predict(rules.parse(text), context.annotations, sample.ordinals)
            drawn.append(estimate_values(sample.weighted, 9.0 * told, True))
        out[feature] = exact, drawn
    return out


NAMES = ("recall_all", "recall_half", "precision", "r_all", "r_half", "auroc_all")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_sample_estimates_what_all_held_out_tokens_say(measured, name):
    for exact, drawn in measured.values():
        values = np.array([values[name] for values in drawn])
        assert values.mean() == pytest.approx(exact[name], abs=0.05), name


@pytest.mark.slow
def test_the_intervals_of_estimates_hold_the_truth(measured):
    hits = [
        values[f"low_{name}"] <= exact[name] <= values[f"high_{name}"]
        for exact, drawn in measured.values()
        for values in drawn
        for name in ("recall_all", "recall_half", "r_all")
        if f"low_{name}" in values
    ]
    assert len(hits) > 80 and 0.85 <= np.mean(hits) <= 1.0


def test_weights_sum_to_the_held_out_tokens(context):
    sample = draw_sample(context.prepare(), 0)
    held_out = len(context.examples.pool("test"))
    assert sample.weighted.weights.sum() == pytest.approx(held_out, rel=0.02)
    firing = ~sample.weighted.silent
    n_firings = len(context.examples.firings_in(context.postings.firings(0), "test")[0])
    assert sample.weighted.weights[firing].sum() == pytest.approx(n_firings, rel=0.02)


def small(weights=None) -> tuple[Weighted, np.ndarray]:
    rng = np.random.default_rng(1)
    a = np.where(rng.random(200) < 0.4, rng.exponential(1.0, 200), 0.0)
    q = quantile_of(a[a > 0], a)
    p = np.clip(a + rng.normal(0, 1, 200), 0, None)
    return Weighted(
        a, np.repeat(np.arange(40), 5), q, np.ones(200) if weights is None else weights
    ), p


@pytest.mark.parametrize("name", STRATA)
def test_without_weights_values_are_the_plain_ones(name):
    sample, p = small()
    kept = sample.silent | sample.stratum(name)
    fires, a = sample.stratum(name)[kept], sample.activations[kept]
    assert correlations(sample, p, False)[name] == pytest.approx(np.corrcoef(p[kept], a)[0, 1])
    assert area(sample, p, name) == pytest.approx(roc_auc_score(fires, p[kept]))


def test_a_weight_of_two_is_the_token_twice():
    sample, p = small(np.tile([2.0, 1.0, 1.0, 1.0, 1.0], 40))
    twice = np.repeat(np.arange(200), sample.weights.astype(int))
    plain = Weighted(*(getattr(sample, n)[twice] for n in ("activations", "documents", "quantiles")), np.ones(len(twice)))  # fmt: skip
    assert correlations(sample, p, False) == pytest.approx(correlations(plain, p[twice], False))
    assert area(sample, p, "half") == pytest.approx(area(plain, p[twice], "half"))


def test_quantiles_of_firings():
    values = np.array([1.0, 2.0, 4.0, 3.0], np.float32)
    found = quantile_of(values, np.array([0.0, 1.0, 4.0]))
    assert found == pytest.approx([SILENT, 0.25, 1.0]) and found.max() < 1


@pytest.mark.parametrize("m", [1, 7, 10, 45, 46, 100])
@pytest.mark.parametrize("name", STRATA)
def test_a_stratum_begins_at_its_rank(m, name):
    values = np.arange(1, m + 1, dtype=np.float32)
    inside = quantile_of(values, values.astype(float)) >= STRATA[name]
    assert inside.tolist() == [rank >= int(STRATA[name] * m) for rank in range(m)]


def test_firing_windows_stand_for_their_fifth():
    quantiles = np.array([0.95, 0.92, 0.8, 0.5, 0.2, 0.05, SILENT])
    assert weigh_windows(quantiles) == pytest.approx([0.05, 0.05, 0.2, 0.3, 0.3, 0.1, 0.0])


def test_a_label_that_sees_strong_firings_alone_is_accurate_on_the_top_and_not_on_all():
    quantiles = np.array([*np.linspace(0.0, 0.99, 20), *[SILENT] * 20])
    ratings = np.where(quantiles >= 0.5, 1.0, 0.0)
    found = separate_strata(ratings, quantiles, np.arange(40))
    assert found["top"] == found["half"] == 1.0
    assert found["all"] == pytest.approx(0.75, abs=0.03)
    assert found["low_all"] < found["all"] < found["high_all"]
    ratings[20:] = np.nan
    assert separate_strata(ratings, quantiles, np.arange(40)) == {}

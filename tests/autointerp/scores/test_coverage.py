"""Coverage: the share of a feature's activity that a label names, by hand and by brute force."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores.coverage import Activity, Matched, coverage_figures
from autointerp.scores.simulation_corpus import HeldOut
from autointerp.scores.unit import COVERAGE_VALUES
from autointerp.statistics import ratio_interval

WORDS = ["will", "must", "cat", "dog", "the", ","]


def held_out(documents: int, length: int = 40, seed: int = 0, words=None) -> HeldOut:
    """Documents of random words in one text, all of them held out."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(WORDS, documents * length) if words is None else words
    annotations = Annotations.from_text([f" {word}" for word in chosen])
    n = len(annotations)
    counts = np.bincount(annotations.codes, minlength=len(annotations.lexemes))
    return HeldOut(
        annotations,
        np.ones(n, bool),
        np.repeat(np.arange(documents, dtype=np.int32), n // documents),
        np.full(documents, n // documents),
        np.argsort(annotations.codes, kind="stable"),
        np.r_[0, np.cumsum(counts)],
    )


def measure(corpus: HeldOut, text: str, dense: np.ndarray, bounded: bool = False) -> dict:
    where = np.flatnonzero(dense)
    activity = Activity.build(where, dense[where], corpus.documents[where])
    return Matched.build(corpus, activity, corpus.predict(rules.parse(text))).values(bounded)


def test_coverage_by_hand():
    """Ten tokens: the label names 6 of 10 units of activation and is right on 2 of 3 tokens."""
    words = ["will", "cat", "dog", "will", "the", "cat", "will", ",", ",", ","]
    dense = np.array([4.0, 0, 3, 2, 1, 0, 0, 0, 0, 0])
    found = measure(held_out(1, words=words), '"will"', dense)
    assert found["recall_all"] == pytest.approx(6 / 10)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall_top"] == 1.0  # of four firings the strongest: the first "will"
    assert found["recall_half"] == pytest.approx(4 / 7)
    assert found["auroc_all"] == pytest.approx((2 * 5.5 + 2 * 2.5) / (4 * 6))


def test_a_weak_part_names_what_it_matches_and_strong_leaves_it_out():
    words = ["will", "cat", "dog", "the"]
    found = measure(held_out(1, words=words), '"will"; "cat" (weak)', np.array([3.0, 2, 1, 0]))
    assert found["recall_all"] == pytest.approx(5 / 6) and found["strong"] == pytest.approx(3 / 6)
    assert found["precision"] == 1.0


def test_a_label_that_predicts_nothing_covers_nothing_and_has_no_precision():
    found = measure(held_out(2), "unclear", held_out(2).annotations.codes == 0)
    assert found["recall_all"] == 0 and np.isnan(found["precision"])
    assert found["r_all"] == 0 and found["auroc_all"] == 0.5


def test_a_label_that_predicts_everything_is_as_precise_as_the_feature_is_dense():
    corpus = held_out(10)
    dense = np.random.default_rng(1).random(len(corpus.annotations)) * (
        np.random.default_rng(2).random(len(corpus.annotations)) < 0.2
    )
    found = measure(corpus, "anything", dense)
    assert found["recall_all"] == 1 and found["precision"] == pytest.approx((dense > 0).mean())
    assert found["auroc_all"] == 0.5


@pytest.mark.parametrize("text", ['"will" or "must"', '"will"; "must" (weak)', '"dog" after "the"'])
def test_every_value_equals_brute_force(text):
    corpus, rng = held_out(12, seed=3), np.random.default_rng(4)
    n = len(corpus.annotations)
    p = rules.predict(rules.parse(text), corpus.annotations, np.arange(n)).astype(float)
    dense = np.where(rng.random(n) < 0.05 + 0.8 * (p > 0), rng.exponential(1.0, n), 0.0)
    dense = dense.astype(np.float32).astype(float)
    found = measure(corpus, text, dense)
    fires = dense > 0
    assert found["precision"] == pytest.approx(p[fires].sum() / p.sum())
    assert found["strong"] == pytest.approx(dense[p == p.max()].sum() / dense.sum())
    order = np.flatnonzero(fires)[np.argsort(dense[fires], kind="stable")]
    for name, quantile in (("top", 0.9), ("half", 0.5), ("all", 0.0)):
        stratum = order[int(quantile * len(order)) :]
        kept = np.sort(np.r_[stratum, np.flatnonzero(~fires)])
        assert found[f"recall_{name}"] == pytest.approx(
            dense[stratum][p[stratum] > 0].sum() / dense[stratum].sum()
        )
        assert found[f"r_{name}"] == pytest.approx(np.corrcoef(p[kept], dense[kept])[0, 1])
        area = roc_auc_score(dense[kept] > 0, p[kept])
        assert found[f"auroc_{name}"] == pytest.approx(area)


def test_strong_firings_are_named_before_weak_ones():
    """Planted: the feature fires strongly on "will" and weakly anywhere, as features do."""
    corpus, rng = held_out(40, seed=5), np.random.default_rng(6)
    n = len(corpus.annotations)
    will = rules.predict(rules.parse('"will"'), corpus.annotations, np.arange(n)) > 0
    dense = np.where(will, 5 + rng.random(n), np.where(rng.random(n) < 0.5, rng.random(n), 0))
    found = measure(corpus, '"will"', dense, bounded=True)
    assert found["recall_top"] == 1.0 and found["precision"] == 1.0
    assert found["recall_top"] > found["recall_half"] > found["recall_all"] > 0.7
    assert found["low_recall_all"] < found["recall_all"] < found["high_recall_all"]
    assert measure(corpus, '"cat"', dense)["recall_all"] < 0.1


@pytest.mark.numeric
def test_the_interval_of_a_share_holds_the_truth():
    """Documents of uneven size and rate; 95 % intervals hold the true share about so often."""
    rng, held = np.random.default_rng(7), 0
    draws, truth = 400, 0.6
    for _ in range(draws):
        wholes = rng.gamma(2.0, 10.0, 40)
        parts = wholes * rng.beta(6, 4, 40)
        low, high = ratio_interval(parts, wholes)
        held += low <= truth <= high
    assert 0.91 <= held / draws <= 0.99


def test_a_share_of_too_few_documents_has_no_interval():
    assert ratio_interval(np.array([1.0, 1.0, 0.0]), np.array([1.0, 2.0, 0.0])) is None
    assert ratio_interval(np.zeros(0), np.zeros(0)) is None


def test_figures_weigh_features_by_their_activation():
    table = pd.DataFrame(
        {"value": [1.0, 0.0, np.nan], "null": [0.5, 0.0, np.nan], "activation": [3.0, 1.0, np.nan]}
    ).assign(**dict.fromkeys(COVERAGE_VALUES, 0.5) | {"precision": [0.2, 0.4, np.nan]})
    table = table.assign(**{f"null_{name}": 0.1 for name in COVERAGE_VALUES})
    figures = coverage_figures(table)
    assert figures["named"] == 0.75 and figures["null_named"] == 0.375
    assert figures["medians"]["precision"] == pytest.approx(0.3)

"""Correlations from sums, nulls and intervals, against numpy and by hand."""

import numpy as np
import pytest

from autointerp.statistics import (
    auroc,
    balanced_interval,
    bootstrap_median,
    correlation,
    document_sums,
    interval,
    matched_null,
    wilson,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_correlation_of_summed_documents_is_pearsons(rng):
    p, a, documents = rng.normal(size=300), rng.normal(size=300), np.sort(rng.integers(0, 9, 300))
    a += 0.5 * p
    sums = document_sums(p, a, documents)
    assert sums.shape == (len(np.unique(documents)), 6)
    assert correlation(sums.sum(0)) == pytest.approx(np.corrcoef(p, a)[0, 1], abs=1e-12)
    keep = documents != documents[0]
    assert correlation(sums.sum(0) - sums[0]) == pytest.approx(
        np.corrcoef(p[keep], a[keep])[0, 1], abs=1e-12
    )


def test_the_sign_is_kept(rng):
    p = rng.normal(size=50)
    assert correlation(document_sums(p, -p, np.zeros(50, int)).sum(0)) == pytest.approx(-1)


@pytest.mark.parametrize("value", [0.0, 3.7, 1e6, 1e-9])
def test_a_constant_prediction_has_no_correlation(rng, value):
    assert np.isnan(
        correlation(
            document_sums(np.full(400, value), rng.normal(size=400), np.zeros(400, int)).sum(0)
        )
    )


def test_an_interval_is_the_jackknife_of_fishers_z(rng):
    """Recomputed from the raw values, one document left out at a time."""
    from scipy.stats import t

    documents = np.repeat(np.arange(6), 20)
    a = rng.normal(size=120)
    p = a + rng.normal(size=120)
    r = np.corrcoef(p, a)[0, 1]
    left = [np.arctanh(np.corrcoef(p[documents != d], a[documents != d])[0, 1]) for d in range(6)]
    pseudo = 6 * np.arctanh(r) - 5 * np.array(left)
    half = t.ppf(0.975, 5) * pseudo.std(ddof=1) / np.sqrt(6)
    assert interval(document_sums(p, a, documents)) == pytest.approx(
        (np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half))
    )


def test_no_interval_from_two_documents_or_when_one_carries_everything(rng):
    p, a = rng.normal(size=40), rng.normal(size=40)
    assert interval(document_sums(p, a, np.repeat([0, 1], 20))) is None
    p[10:] = 0.0
    assert interval(document_sums(p, a, np.repeat(np.arange(4), 10))) is None


def test_a_null_is_another_entry_of_like_density(rng):
    density = rng.random(500)
    partner = matched_null(density, rng)
    assert (partner != np.arange(500)).all()
    rank = np.argsort(np.argsort(density))
    assert np.abs(rank[partner] - rank).max() <= 16
    assert matched_null(np.array([0.5]), rng).tolist() == [-1]
    assert sorted(matched_null(np.array([0.1, 0.2]), rng).tolist()) == [0, 1]


def test_a_median_lies_in_its_interval(rng):
    median, low, high = bootstrap_median(rng.normal(1.0, 1.0, 400), rng)
    assert low < median < high and high - low < 0.5
    assert np.isnan(bootstrap_median(np.zeros(0), rng)).all()


def test_the_area_is_that_of_scikit_learn_with_ties(rng):
    from sklearn.metrics import roc_auc_score

    fires, silent = rng.integers(0, 6, 40), rng.integers(0, 5, 70)
    assert auroc(fires, silent) == pytest.approx(
        roc_auc_score(np.r_[np.ones(40), np.zeros(70)], np.r_[fires, silent])
    )
    assert (
        auroc(np.ones(3), np.zeros(2)) == 1
        and auroc(np.zeros(3), np.zeros(2)) == 0.5
        and np.isnan(auroc(np.ones(3), np.zeros(0)))
    )


def test_wilsons_interval_is_scipys():
    from scipy.stats import binomtest

    for hits, n in ((0, 5), (3, 8), (20, 20), (17, 30)):
        found = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits / n, n) == pytest.approx((found.low, found.high))
    low, high = balanced_interval(1.0, 20, 1.0, 20)
    assert 0.8 < low < 1 and high == pytest.approx(1.0)
    low, high = balanced_interval(0.8, 10, 0.6, 1000)
    assert low < 0.7 < high and 0.08 < high - low < 0.26, "half of the wider side's width, nearly"

"""Overlaps, p values and verdicts by hand."""

import numpy as np
import pytest

from autointerp.clusters.validation import (
    jaccards,
    judge,
    measure_stability,
    p_above_nulls,
    rand_indices,
)

GROUP = np.array([0, 0, 0, 0, 1, 1, -1, 2])
OTHER = np.array([5, 5, 5, -1, 7, 7, 7, -1])


def test_jaccards_by_hand():
    every = np.arange(8)
    assert jaccards(GROUP, OTHER, every).tolist() == [3 / 4, 2 / 3, 0.0]
    overlap = jaccards(GROUP, OTHER, np.array([0, 1, 4, 6]))
    assert overlap[:2].tolist() == [1.0, 1 / 2] and np.isnan(overlap[2])
    assert jaccards(np.full(4, -1), OTHER[:4], np.arange(4)).tolist() == []
    assert jaccards(GROUP, np.full(8, -1), every).tolist() == [0, 0, 0]


def test_rand_indices_count_noise_as_single_rows():
    assert rand_indices(GROUP, GROUP, np.arange(8)) == (1.0, 1.0)
    every, clustered = rand_indices(GROUP, np.full(8, -1), np.arange(8))
    assert every == pytest.approx(0)
    assert clustered is None


def test_stability_is_over_the_replicates_that_saw_the_cluster():
    rows = [np.arange(8), np.arange(4)]
    found = measure_stability(GROUP, [GROUP, OTHER], rows)
    assert found.jaccard.tolist() == [
        (1 + 3 / 4) / 2,
        1.0,
        1.0,
    ]  # the second replicate saw no member of clusters 1 and 2
    assert measure_stability(GROUP, [], []) is None


def test_a_value_among_its_nulls_is_not_above_them():
    assert p_above_nulls(1.0, [0.9, 1.1, 1.0, 1.05, 0.95]) == pytest.approx(0.5)
    assert p_above_nulls(3.0, [0.9, 1.1, 1.0, 1.05, 0.95]) < 1e-4
    assert p_above_nulls(1.0, [0.1, 0.2]) is None
    assert p_above_nulls(0.2, [0.0, 0.0, 0.0]) == 0.0 and p_above_nulls(0.0, [0.0, 0.0, 0.0]) == 1.0


def test_a_false_alarm_is_as_rare_as_the_level_says():
    rng = np.random.default_rng(0)
    alarms = [p_above_nulls(v[0], v[1:].tolist()) < 0.01 for v in rng.normal(size=(4000, 6))]
    assert np.mean(alarms) == pytest.approx(0.01, abs=0.005)


def test_verdicts():
    nulls = [0.10, 0.11, 0.09, 0.10, 0.10]
    assert judge(0, 0.0, nulls, None, None).kind == "none"
    assert (
        judge(9, 0.11, nulls, 1.0, 0.001).kind == "none"
        and "fire together more" in judge(9, 0.11, nulls, 1.0, 0.001).text
    )
    assert (
        judge(9, 0.3, nulls, 0.9, 0.5).kind == "structure"
        and "do not fire together" in judge(9, 0.3, nulls, 0.9, 0.5).text
    )
    assert judge(9, 0.3, nulls, 0.2, None).kind == "unstable"
    assert judge(9, 0.3, [0.1], 0.9, None).kind == "untested"

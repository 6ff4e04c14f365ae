"""Families of two dictionaries: planted ones are found again, others are not."""

import numpy as np
import pytest

from autointerp.clusters.geometry import unit_rows
from autointerp.clusters.match import compare_sets, mean_directions, summarise_matches
from figures.terminal import families_text

SETS = [np.arange(6 * i, 6 * i + 6) for i in range(20)]


def dictionary(centres, rng, others=300):
    """20 families of six around the centres (20, D), then random directions."""
    members = np.repeat(centres, 6, 0) + rng.normal(size=(120, centres.shape[1])) / 12
    return unit_rows(np.concatenate([members, rng.normal(size=(others, centres.shape[1]))]))


def test_shared_families_are_found_and_random_neighbourhoods_are_not():
    rng = np.random.default_rng(0)
    centres = unit_rows(rng.normal(size=(20, 64)))
    x, y = dictionary(centres, rng), dictionary(centres[::-1], rng)
    found = compare_sets(x, SETS, y, SETS, 0)
    assert found["close"] == 1 and found["mean"] > 0.85 and found["n"] == 20
    assert found["null"]["close"] < 0.6


def test_other_families_match_no_better_than_chance():
    rng = np.random.default_rng(1)
    x, y = (dictionary(unit_rows(rng.normal(size=(20, 64))), rng) for _ in range(2))
    found = compare_sets(x, SETS, y, SETS, 0)
    assert found["close"] == 0 and abs(found["mean"] - found["null"]["mean"]) < 0.1


def test_numbers_by_hand():
    x = np.eye(3, dtype=np.float32)
    expected = [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]]
    assert mean_directions(x, [np.array([0, 1]), np.array([2])]) == pytest.approx(
        np.array(expected)
    )
    summary = summarise_matches(np.array([0.7, 0.1]))
    assert summary == {"n": 2, "mean": 0.4, "median": 0.4, "close": 0.5}


def test_the_text_names_both_runs_and_the_null():
    one = {"n": 20, "mean": 0.9, "median": 0.9, "close": 0.75}
    match = one | {"null": one | {"close": 0.05}}
    text = " ".join(
        families_text("a", "b", {"close_at": 0.7, "there": match, "here": match}).split()
    )
    assert "75% of the 20 families of a are found in b" in text
    assert "75% of the 20 families of b are found in a" in text and "5% of" in text

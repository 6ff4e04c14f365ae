"""Neighbours, chance, UMAP's traps, twins and turning of maps."""

import numpy as np
import pytest

from autointerp.clusters.geometry import (
    align,
    chance_cosine,
    covariance_twin,
    decorrelate,
    find_nearest,
    moments,
    neighbour_recall,
    place_in_strip,
    principal_coordinates,
    shuffle_columns,
    subset_neighbours,
    turn_upright,
    umap_layout,
    umap_neighbours,
    unit_rows,
)
from tests.support.clouds import anisotropic, planted


def test_nearest_equals_brute_force_and_keeps_itself_in_front():
    x = unit_rows(np.random.default_rng(0).normal(size=(200, 8)))
    x[:30] = x[0]  # more equal rows than there are columns
    rows, cosines = find_nearest(x, 10)
    assert (rows[:, 0] == np.arange(200)).all() and (cosines[:, 0] == 1).all()
    full = x @ x.T
    np.fill_diagonal(full, -2)
    assert np.allclose(cosines[:, 1:], np.sort(full, 1)[:, ::-1][:, :10], atol=1e-5)
    assert all(i not in row[1:] for i, row in enumerate(rows))


def test_chance_cosine_is_that_of_random_directions():
    rng = np.random.default_rng(0)
    best = np.concatenate(
        [find_nearest(unit_rows(rng.normal(size=(500, 32))), 1)[1][:, 1] for _ in range(20)]
    )
    assert (best > chance_cosine(500, 32)).mean() == pytest.approx(0.01, abs=0.004)


def test_precomputed_neighbours_avoid_the_traps_of_umap():
    rows, cosines = find_nearest(planted(n_groups=20, size=50, n_noise=0)[0], 50)
    cosines[5, 1] = 1 + 1e-6  # a rounding error: the distance would be negative
    cosines[6, 2] = -1.0  # opposite: UMAP cuts edges at distance 2
    before = cosines.copy()
    indices, distances = umap_neighbours(rows, cosines, 15)
    assert (
        indices.shape == distances.shape == (1000, 15)
        and indices.dtype == np.int32
        and distances.dtype == np.float32
    )
    assert (indices[:, 0] == np.arange(1000)).all() and (distances[:, 0] == 0).all()
    assert distances.min() >= 0 and distances.max() < 2
    distances += 1
    assert np.array_equal(cosines, before)
    with pytest.raises(ValueError, match="60 needed"):
        umap_neighbours(rows, cosines, 60)
    with pytest.raises(ValueError, match="itself"):
        umap_neighbours(rows[::-1], cosines, 15)


@pytest.mark.slow
def test_umap_uses_the_given_neighbours():
    x, truth = planted(n_groups=5, size=40, n_noise=0)
    rows, cosines = find_nearest(x, 50)
    other = np.random.default_rng(0).permutation(
        200
    )  # the same graph under other names: the picture follows the graph, not x
    scrambled = np.empty_like(rows)
    scrambled[other] = other[rows]
    layout = umap_layout(
        principal_coordinates(x, 2),
        umap_neighbours(scrambled, cosines[np.argsort(other)], 15),
        0.1,
        0,
    )
    assert neighbour_recall(scrambled, layout) > 2 * neighbour_recall(rows, layout)


def test_decorrelation_evens_out_the_covariance_and_leaves_small_sets_alone():
    rng = np.random.default_rng(0)
    x = unit_rows(rng.normal(size=(4000, 8)) * np.array([4, 1, 1, 1, 1, 1, 1, 1]))
    ratio = lambda rows: np.ptp(np.log(np.linalg.eigvalsh(np.cov(rows.T))))
    assert ratio(decorrelate(x, 1.0)) < 0.7 * ratio(decorrelate(x, 0.5)) and ratio(
        decorrelate(x, 0.5)
    ) < 0.7 * ratio(x)
    few = x[:8]
    assert decorrelate(x, 0.0) is x and decorrelate(few, 1.0) is few


def test_covariance_twin_has_the_shape_but_not_the_groups():
    for x in (planted()[0], anisotropic(600, 32)):
        twin = covariance_twin(x, np.random.default_rng(0))
        (mean, covariance), (own_mean, own) = moments(x), moments(twin)
        assert (
            np.allclose(np.linalg.norm(twin, axis=1), 1, atol=1e-5)
            and np.abs(mean - own_mean).max() < 1e-3
        )
        assert np.linalg.norm(covariance - own) < 0.01 * np.linalg.norm(covariance)
    x = planted()[0]
    assert np.median(
        find_nearest(covariance_twin(x, np.random.default_rng(0)), 1)[1][:, 1]
    ) < 0.8 * np.median(find_nearest(x, 1)[1][:, 1])
    few = unit_rows(np.random.default_rng(0).normal(size=(20, 64)))
    assert np.isfinite(covariance_twin(few, np.random.default_rng(0))).all()


def test_moments_are_those_of_numpy():
    x = unit_rows(np.random.default_rng(0).normal(size=(9000, 5)) + 1)
    mean, covariance = moments(x)
    assert np.allclose(mean, x.mean(0, dtype=float)) and np.allclose(
        covariance, np.cov(x.T.astype(float))
    )


def test_shuffled_columns_keep_each_coordinate():
    x = anisotropic(400, 16)
    y = shuffle_columns(x, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(y, axis=1), 1, atol=1e-5) and not np.allclose(
        np.cov(x.T), np.cov(y.T), atol=0.01
    )
    assert np.allclose(np.sort(x, 0).std(0), np.sort(y, 0).std(0), rtol=0.25)


def test_neighbours_of_a_subset_are_those_that_a_search_would_find():
    x = planted(n_groups=6, size=40, n_noise=40)[0]
    keep = np.sort(np.random.default_rng(0).choice(len(x), round(0.8 * len(x)), replace=False))
    rows, cosines = subset_neighbours(*find_nearest(x, 50), keep, 15)
    searched, expected = find_nearest(x[keep], 14)
    assert np.allclose(cosines, expected, atol=1e-5) and (rows[:, 0] == np.arange(len(keep))).all()
    assert (rows == searched).mean() > 0.999  # equal cosines may change places
    with pytest.raises(ValueError, match="fewer than 51"):
        subset_neighbours(*find_nearest(x, 50), keep, 51)


def test_a_map_is_turned_onto_the_one_before():
    rng = np.random.default_rng(0)
    earlier = rng.normal(size=(80, 2)) * [3, 1]
    turn = np.array([[np.cos(2), -np.sin(2)], [np.sin(2), np.cos(2)]]) @ np.diag([1, -1])
    new = earlier @ turn + 7
    earlier[5] = np.nan  # a feature that was dead
    placed = align(new, earlier)
    known = np.arange(80) != 5
    assert np.allclose(placed[known], earlier[known], atol=1e-4) and np.isfinite(placed[5]).all()
    assert np.allclose(align(new, np.full((80, 2), np.nan)), turn_upright(new))
    once = turn_upright(new)
    assert (
        np.allclose(once, turn_upright(new @ turn), atol=1e-4)
        and once[:, 0].std() > once[:, 1].std()
    )


def test_principal_axes_have_a_sign():
    x = np.random.default_rng(0).normal(size=(50, 6))
    assert np.allclose(
        principal_coordinates(x, 2), principal_coordinates(x.copy(), 2)
    ) and principal_coordinates(x, 3).shape == (50, 3)


@pytest.mark.parametrize("n", [1, 8, 900])
def test_strip_lies_below_in_the_order_of_the_nearest_and_moves_nothing_else(n):
    rng = np.random.default_rng(0)
    layout = np.r_[rng.normal(size=(50, 2)), np.zeros((n, 2))].astype(np.float32)
    outside, near = np.arange(50, 50 + n), rng.integers(0, 50, (n, 3))
    placed = place_in_strip(layout, outside, near)
    inside, strip = placed[:50], placed[50:]
    assert np.array_equal(inside, layout[:50])
    assert strip[:, 1].max() < inside[:, 1].min()
    assert inside[:, 0].min() <= strip[:, 0].min() and strip[:, 0].max() <= inside[:, 0].max()
    assert np.ptp(strip[:, 1]) <= 0.1 * np.ptp(inside[:, 1])
    assert len(np.unique(strip.round(4), axis=0)) == n
    mean = layout[near, 0].mean(1)
    assert (np.diff(strip[np.argsort(mean, kind="stable"), 0]) >= -1e-6).all()


def test_without_isolated_rows_there_is_no_strip():
    layout = np.random.default_rng(0).normal(size=(20, 2))
    assert np.array_equal(place_in_strip(layout, np.arange(0), np.zeros((0, 3), int)), layout)

"""Families: equal to linkage on all pairs, found where they are planted, and none in clouds."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from autointerp.clusters.families import (
    COMES_BACK,
    MIN_SIZE,
    average_linkage,
    best_overlaps,
    find_families,
    large_clusters,
    members_of,
)
from autointerp.clusters.geometry import covariance_twin, decorrelate, shuffle_columns

pytestmark = pytest.mark.slow  # the file as a whole


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def planted(rng, families=20, size=6, others=600, width=48, spread=0.45):
    """Unit vectors: members around centres first, then a continuum; the family of each, -1 for none."""
    centres = unit(rng.standard_normal((families, width)))
    members = (
        np.repeat(centres, size, 0)
        + spread * rng.standard_normal((families * size, width)) / width**0.5
    )
    x = np.concatenate([unit(members), unit(rng.standard_normal((others, width)))])
    return x, np.r_[np.repeat(np.arange(families), size), np.full(others, -1)]


def same_partition(a, b):
    return np.array_equal(a[:, None] == a[None], b[:, None] == b[None])


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_linkage_on_all_pairs(seed, cut):
    x, _ = planted(np.random.default_rng(seed), others=150)
    ours = average_linkage(x, 0.8).cut(cut)
    theirs = fcluster(linkage(pdist(x.astype(float), "cosine"), "average"), cut, "distance")
    assert same_partition(ours, theirs)
    large = (np.bincount(theirs) >= MIN_SIZE).sum()
    assert average_linkage(x, 0.8).count([0.0, cut]) == {0.0: 0, cut: large}


def test_planted_families_are_found_and_come_back():
    rng = np.random.default_rng(0)
    x, truth = planted(rng)
    families = find_families(x, unit(rng.standard_normal(x.shape)), 4, 0)
    assert 20 <= families.n <= 22, "a chance family or two may slip under the cut"
    found = [set(families.family[members].tolist()) for members in members_of(truth)]
    assert all(len(names) == 1 and names != {-1} for names in found)
    assert len(set.union(*found)) == 20
    assert families.come_back[list(set.union(*found))].all()
    assert families.null_jaccard.mean() < 0.45
    assert families.jaccard.mean() > families.null_jaccard.mean() + 0.4


@pytest.mark.parametrize("seed", range(20))
def test_a_cloud_has_no_families(seed):
    """At most one of 20 clouds may show any."""
    rng = np.random.default_rng(seed)
    shape = (400, 32)
    families = find_families(
        unit(rng.standard_normal(shape)), unit(rng.standard_normal(shape)), 0, seed
    )
    SHOWN.append(families.n > 0)
    assert sum(SHOWN) <= 1


SHOWN: list[bool] = []


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_columns_have_no_families(seed):
    """Each coordinate keeps its distribution; at most one of 20 may show any."""
    rng = np.random.default_rng(seed)
    x = shuffle_columns(planted(rng, others=300, width=32)[0], rng)
    cloud = covariance_twin(x, rng)
    families = find_families(decorrelate(x, 0.5), decorrelate(cloud, 0.5), 0, seed)
    SHUFFLED.append(families.n > 0)
    assert sum(SHUFFLED) <= 1


SHUFFLED: list[bool] = []


def test_families_by_hand():
    x = unit(np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.05], [0, 1], [0.1, 1], [-1, 0]], float))
    family = large_clusters(average_linkage(x, 0.5).cut(0.5))
    assert family.tolist() == [0, 0, 0, 0, -1, -1, -1]


def test_a_family_of_four_comes_back_although_subsamples_hold_only_a_part_of_it():
    rng = np.random.default_rng(0)
    x, truth = planted(rng, size=4, others=400)
    families = find_families(x, unit(rng.standard_normal(x.shape)), 6, 0)
    found = families.family[truth >= 0]
    assert (found >= 0).all() and families.jaccard[np.unique(found)].mean() > 0.8


def test_overlaps_by_hand():
    again = [(np.arange(6), np.array([0, 0, 0, 1, 1, -1]))]
    sets = [np.array([0, 1, 2]), np.array([2, 3]), np.array([5]), np.array([7])]
    expected = [1.0, 1 / 3, 0.0, 0.0]
    assert best_overlaps(sets, again, 8) == pytest.approx(expected)
    assert COMES_BACK == 0.5


def test_few_or_equal_vectors():
    same = unit(np.ones((5, 3)))
    assert large_clusters(average_linkage(same, 0.5).cut(0.5)).tolist() == [0] * 5
    assert find_families(same[:2], same[:2], 1, 0).n == 0

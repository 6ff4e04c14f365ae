"""Counts against a dense table by brute force; planted companions are found; shuffles stay within
their density.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from autointerp.clusters import coactivation
from autointerp.clusters.coactivation import (
    cluster_partner_graph,
    compare_within,
    count_pairs,
    count_together,
    mean_within,
    mutual_information,
    phi_by_cluster,
)
from autointerp.statistics import density_strata, shuffle_within


class Firings(SimpleNamespace):
    """A dense (tokens, F) table of firings with the face of Postings, in two shards."""

    def __init__(self, fires, cut=37):
        super().__init__(
            fires=fires,
            bounds=[0, cut, len(fires)],
            n_tokens=len(fires),
            n_features=fires.shape[1],
            n_firings=fires.sum(0),
        )

    def firings(self, feature):
        return np.flatnonzero(self.fires[:, feature]), None

    def by_shard(self):
        for first, last in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            feature, position = np.nonzero(self.fires[first:last].T)
            yield (
                first,
                last,
                np.r_[0, np.bincount(feature, minlength=self.n_features).cumsum()],
                position,
            )


def table(n=300, groups=6, size=8, seed=0):
    """Features of a group fire on the tokens of the group, each on half of them, and at random now
    and then.
    """
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, groups, n)
    own = np.repeat(np.arange(groups), size)
    return (topic[:, None] == own) & (rng.random((n, groups * size)) < 0.5) | (
        rng.random((n, groups * size)) < 0.05
    ), own


def test_counts_and_phi_equal_brute_force(monkeypatch):
    monkeypatch.setattr(coactivation, "BLOCK", 7)
    fires, _ = table()
    fires[:, 5] = False  # a dead feature
    found = count_pairs(Firings(fires), 10_000, 0, np.arange(fires.shape[1]))
    shared = fires.T.astype(int) @ fires.astype(int)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.nan_to_num(np.corrcoef(fires.T.astype(float)))
    np.fill_diagonal(expected, 0)
    assert (
        found.n_tokens == 300
        and np.array_equal(found.counts, fires.sum(0))
        and np.allclose(found.pairs, expected, atol=1e-6)
    )
    for f in range(fires.shape[1]):
        allowed = np.where(shared[f] >= 5, np.maximum(expected[f], 0), 0)
        allowed[f] = 0
        best = np.sort(allowed)[::-1][:20]
        kept = found.partners[f] >= 0
        assert np.allclose(found.phi[f], best, atol=1e-6) and np.array_equal(kept, best > 1e-9)
        assert np.array_equal(found.shared[f][kept], shared[f][found.partners[f][kept]])
    assert (found.partners[5] == -1).all()


def test_a_pair_is_exact():
    fires, _ = table()
    pair = count_together(Firings(fires), 0, 1)
    assert pair["n_ab"] == (fires[:, 0] & fires[:, 1]).sum() and pair["phi"] == pytest.approx(
        np.corrcoef(fires[:, 0], fires[:, 1])[0, 1]
    )
    assert pair["of_a"] == pair["n_ab"] / fires[:, 0].sum()


def test_the_sample_is_even_and_has_the_size_asked_for():
    fires, _ = table(1000)
    found = count_pairs(Firings(fires), 250, 3, np.arange(10))
    assert found.n_tokens == 250 and np.allclose(found.counts / 250, fires.mean(0), atol=0.1)
    again = count_pairs(Firings(fires), 250, 3, np.arange(10))
    assert np.array_equal(found.partners, again.partners) and np.array_equal(
        found.pairs, again.pairs
    )


def test_planted_groups_fire_together_and_shuffled_ones_do_not():
    fires, own = table()
    found = count_pairs(Firings(fires), 10_000, 0, np.arange(len(own)))
    density = fires.mean(0)
    tested = compare_within(found.pairs, own, density, 0)
    pairs = found.pairs[np.triu_indices(len(own), 1)]
    same = (own[:, None] == own)[np.triu_indices(len(own), 1)]
    assert tested.within.value == pytest.approx(
        pairs[same].mean(), rel=1e-5
    ) and tested.between == pytest.approx(pairs[~same].mean(), rel=1e-4)
    assert (
        tested.within.z > 10
        and tested.within.p == pytest.approx(1 / 201)
        and tested.n_pairs == same.sum()
    )
    wrong = np.random.default_rng(1).permutation(own)
    assert compare_within(found.pairs, wrong, density, 0).within.p > 0.01
    assert compare_within(found.pairs, np.full(len(own), -1), density, 0) is None
    assert phi_by_cluster(found.pairs, own)[2] == pytest.approx(
        mean_within(found.pairs[16:24, 16:24], np.zeros(8, int))
    )


def test_density_alone_does_not_pass_for_a_group():
    """Dense features fire together by being dense; groups made of like densities only must not pass
    for more than that.
    """
    rng = np.random.default_rng(0)
    rate = np.repeat([0.02, 0.1, 0.2, 0.4, 0.6], 24)
    loud = rng.random(2000)  # some tokens make everything fire more
    fires = rng.random((2000, 120)) < rate * (0.5 + loud[:, None])
    found = count_pairs(Firings(fires), 10_000, 0, np.arange(120))
    half = (
        np.repeat(np.arange(5), 24) * 2
        + rng.permuted(np.tile(np.arange(24) % 2, (5, 1)), axis=1).ravel()
    )  # two groups of each density
    free = [mean_within(found.pairs, rng.permutation(half)) for _ in range(200)]
    assert (mean_within(found.pairs, half) - np.mean(free)) / np.std(
        free
    ) > 3  # shuffled freely, it would
    assert abs(compare_within(found.pairs, half, fires.mean(0), 0).within.z) < 3


def test_groups_of_the_graph_are_the_planted_ones():
    fires, own = table()
    found = count_pairs(Firings(fires), 10_000, 0, np.arange(len(own)))
    graph = cluster_partner_graph(found, 6, 0)
    agreed = mutual_information(own, graph, fires.mean(0), 0)
    assert agreed.value > 0.95 and agreed.z > 5 and agreed.p < 0.05
    assert (
        np.array_equal(graph, cluster_partner_graph(found, 6, 0))
        and np.bincount(graph).argmax() == 0
    )
    assert mutual_information(own, np.full(len(own), -1), fires.mean(0), 0) is None
    assert (cluster_partner_graph(found, 1, 0) == -1).all()


def test_shuffles_stay_within_their_stratum():
    rng = np.random.default_rng(0)
    density, values = rng.random(100), np.arange(100)
    stratum = density_strata(density)
    assert (
        np.bincount(stratum).tolist() == [10] * 10
        and density[stratum == 0].max() < density[stratum == 9].min()
    )
    mixed = shuffle_within(values, stratum, rng)
    assert np.array_equal(stratum[mixed], stratum) and not np.array_equal(mixed, values)

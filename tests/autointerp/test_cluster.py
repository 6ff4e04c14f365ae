"""Groups: planted ones are found, noise is set aside, UMAP gets the neighbours it needs, two processes agree."""

import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

from autointerp import cluster as stage
from autointerp.embedding import (
    chance_cosine,
    covariance_twin,
    decorrelated,
    nearest,
    neighbour_recall,
    principal,
    rim,
    umap_layout,
    umap_neighbours,
    unit_rows,
)
from autointerp.settings import ClusterSettings
from core.errors import UsageError


def planted(n_groups=12, size=42, n_noise=96, d=64, cosine=0.6, seed=0):
    """(unit rows, truth): groups whose members have this cosine with each other on average, then rows that have no group."""
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng.normal(size=(n_groups, d)))
    own = unit_rows(rng.normal(size=(n_groups * size, d)))
    x = np.repeat(centres, size, 0) * np.sqrt(cosine) + own * np.sqrt(1 - cosine)
    return unit_rows(np.r_[x, rng.normal(size=(n_noise, d))]), np.r_[np.repeat(np.arange(n_groups), size), np.full(n_noise, -1)]


@pytest.fixture(scope="module")
def found():
    x, truth = planted()
    return x, truth, stage.find_groups(x, ClusterSettings(), 0)


def test_planted_groups_are_recovered(found):
    x, truth, grouping = found
    signal = truth >= 0
    assert adjusted_rand_score(truth[signal], grouping.group[signal]) >= 0.95
    assert sorted(np.bincount(grouping.group[grouping.group >= 0]))[::-1] == list(np.bincount(grouping.group[grouping.group >= 0]))  # 0 is the largest


def test_planted_noise_is_isolated_before_umap(found):
    _, truth, grouping = found
    isolated = np.setdiff1d(np.arange(len(truth)), grouping.inside)
    assert np.isin(np.flatnonzero(truth < 0), isolated).mean() >= 0.95
    assert (truth[isolated] >= 0).sum() == 0
    assert np.isnan(grouping.space[isolated]).all() and (grouping.group[isolated] == -1).all()


def test_noise_is_suggested_a_group_but_not_given_one(found):
    x, truth, grouping = found
    lost = np.flatnonzero(truth == 3)[0]
    group = grouping.group.copy()
    group[lost] = -1
    suggested, strength = stage.vote(SimpleNamespace(group=group, rows=grouping.rows, cosines=grouping.cosines))
    assert suggested[lost] == grouping.group[lost] and strength[lost] > 0.9
    assert (suggested[group >= 0] == group[group >= 0]).all()


def test_vote_without_any_group():
    rows, cosines = nearest(planted()[0], 15)
    suggested, strength = stage.vote(SimpleNamespace(group=np.full(len(rows), -1), rows=rows, cosines=cosines))
    assert (suggested == -1).all() and (strength == 0).all()


def test_random_directions_have_no_groups():
    x = unit_rows(np.random.default_rng(1).normal(size=(600, 64)))
    grouping = stage.find_groups(x, ClusterSettings(), 0)
    assert grouping.near is None and (grouping.group == -1).all()
    layout, recall = stage.map_layout(x, grouping, ClusterSettings(), 0)
    assert recall is None and np.isfinite(layout).all()
    assert stage.describe_groups(x, grouping, np.arange(600)) == []
    assert stage.likeness(None, grouping.group, np.ones(600), 0) == {"likeness": None, "null_likeness": None}


def test_few_live_features_still_work():
    x, truth = planted(n_groups=2, size=10, n_noise=0, d=16, cosine=0.9)
    grouping = stage.find_groups(x, ClusterSettings(min_size=5), 0)
    assert adjusted_rand_score(truth, grouping.group) == 1.0
    layout, recall = stage.map_layout(x, grouping, ClusterSettings(), 0)
    assert np.isfinite(layout).all() and 0 <= recall <= 1


def test_what_cannot_be_grouped_is_said():
    with pytest.raises(UsageError, match="Only 7 of 2048 features ever fire"):
        stage.check(ClusterSettings(), 7, 2048)
    for wrong in ({"dimensions": 2}, {"neighbours": 2}, {"min_size": 1}, {"nulls": -1}, {"decorrelate": 2.0}):
        with pytest.raises(UsageError):
            stage.check(ClusterSettings(**wrong), 100, 100)


def test_one_giant_group_is_split_into_leaves():
    rng = np.random.default_rng(0)
    far, blob = rng.normal(size=(20, 2)) + 100, np.concatenate([rng.normal(size=(40, 2)) + c for c in ((0, 0), (9, 0), (0, 9))])
    group, strength = stage.dense_regions(np.r_[blob, far], 10)
    assert np.bincount(group[group >= 0]).max() <= 40 + 1 and group.max() >= 3
    assert strength.shape == (140,)


# ------------------------------------------------------------ tables


def test_table_lists_every_feature(found):
    x, truth, grouping = found
    live = np.arange(len(x)) * 2 + 1  # every second feature is dead
    density = np.zeros(2 * len(x))
    density[live] = 0.01
    density[live[0]] = 0.5
    layout = np.zeros((len(x), 2), np.float32)
    table = stage.feature_table(grouping, layout, live, density)
    assert list(table["feature"]) == list(range(2 * len(x)))
    assert table["status"].value_counts().to_dict() == {"dead": 600, "alive": len(grouping.inside) - 1, "isolated": 600 - len(grouping.inside), "dense": 1}
    dead = table[table["status"] == "dead"]
    assert (dead["group"] == -1).all() and (dead["nn_feature"] == -1).all() and dead["x"].isna().all()
    assert table.loc[live, "nn_feature"].isin(live).all()
    neighbours = stage.padded(live[grouping.rows[:, 1:4]], live, (2 * len(x), 10), -1)
    assert (neighbours[live, 3:] == -1).all() and (neighbours[0] == -1).all()


def test_duplicates_and_groups_are_described():
    x, _ = planted(n_groups=3, size=20, n_noise=0, cosine=0.8)
    x[7] = x[3]
    grouping = stage.find_groups(x, ClusterSettings(min_size=5), 0)
    assert stage.duplicates(grouping, np.arange(len(x)) + 100) == [[103, 107, 1.0]]
    first = stage.describe_groups(x, grouping, np.arange(len(x)))[0]
    members = x[grouping.group == 0]
    pairs = (members @ members.T)[np.triu_indices(len(members), 1)]
    assert first["cosine"] == pytest.approx(pairs.mean(), abs=1e-4) and first["medoid"] == first["exemplars"][0]


def test_families_are_at_most_nine():
    centres = np.repeat(np.eye(12), 2, 0) + 0.01 * np.random.default_rng(0).normal(size=(24, 12))
    family = stage.families(centres)
    assert family.max() == 8 and family[0] == 0
    assert (stage.families(centres[:5]) == np.arange(5)).all()


def test_likeness_is_above_its_null_only_where_groups_share_tokens():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 20)
    shared = csr_matrix(np.eye(10)[group])
    assert stage.likeness(shared, group, rng.random(200), 0)["likeness"] == 1.0
    other = csr_matrix(np.eye(10)[rng.permutation(group)])
    result = stage.likeness(other, group, rng.random(200), 0)
    assert result["likeness"] == pytest.approx(result["null_likeness"], abs=0.02)


def test_strongest_tokens_are_of_the_strongest_firings():
    firings = [(np.array([0, 1, 2]), np.array([3.0, 1.0, 2.0])), (np.array([], int), np.array([])), (np.array([3]), np.array([1.0]))]
    postings = SimpleNamespace(n_features=3, blocks=lambda: [(0, firings)])
    tokens = type("T", (), {"ids": np.array([5, 6, 7, 1]), "vocabulary": ["x"] * 8})()
    table = stage.strongest_tokens(postings, tokens, np.array([0, 2]), n=2).toarray()
    assert np.allclose(table[0, [5, 7]], np.sqrt(0.5)) and table[0, 6] == 0 and table[1, 1] == 1


# ------------------------------------------------------------ neighbours and layouts


def test_nearest_equals_brute_force_and_keeps_itself_in_front():
    x = unit_rows(np.random.default_rng(0).normal(size=(200, 8)))
    x[:30] = x[0]  # more equal rows than there are columns
    rows, cosines = nearest(x, 10)
    assert (rows[:, 0] == np.arange(200)).all() and (cosines[:, 0] == 1).all()
    full = x @ x.T
    np.fill_diagonal(full, -2)
    assert np.allclose(cosines[:, 1:], np.sort(full, 1)[:, ::-1][:, :10], atol=1e-5)
    assert all(i not in row[1:] for i, row in enumerate(rows))


def test_chance_cosine_is_that_of_random_directions():
    rng = np.random.default_rng(0)
    best = np.concatenate([nearest(unit_rows(rng.normal(size=(500, 32))), 1)[1][:, 1] for _ in range(20)])
    assert (best > chance_cosine(500, 32)).mean() == pytest.approx(0.01, abs=0.004)


def test_precomputed_neighbours_avoid_the_traps_of_umap():
    rows, cosines = nearest(planted(n_groups=20, size=50, n_noise=0)[0], 50)
    cosines[5, 1] = 1 + 1e-6  # a rounding error: the distance would be negative
    cosines[6, 2] = -1.0  # opposite: UMAP cuts edges at distance 2
    before = cosines.copy()
    indices, distances = umap_neighbours(rows, cosines, 15)
    assert indices.shape == distances.shape == (1000, 15) and indices.dtype == np.int32 and distances.dtype == np.float32
    assert (indices[:, 0] == np.arange(1000)).all() and (distances[:, 0] == 0).all()
    assert distances.min() >= 0 and distances.max() < 2
    distances += 1
    assert np.array_equal(cosines, before)
    with pytest.raises(ValueError, match="60 needed"):
        umap_neighbours(rows, cosines, 60)
    with pytest.raises(ValueError, match="itself"):
        umap_neighbours(rows[::-1], cosines, 15)


def test_umap_uses_the_given_neighbours():
    x, truth = planted(n_groups=5, size=40, n_noise=0)
    rows, cosines = nearest(x, 50)
    other = np.random.default_rng(0).permutation(200)  # the same graph under other names: the picture follows the graph, not x
    scrambled = np.empty_like(rows)
    scrambled[other] = other[rows]
    layout = umap_layout(x, umap_neighbours(scrambled, cosines[np.argsort(other)], 15), 2, 0.1, 0)
    assert neighbour_recall(scrambled, layout) > 2 * neighbour_recall(rows, layout)


def test_decorrelation_evens_out_the_covariance_and_leaves_small_sets_alone():
    rng = np.random.default_rng(0)
    x = unit_rows(rng.normal(size=(4000, 8)) * np.array([4, 1, 1, 1, 1, 1, 1, 1]))
    ratio = lambda rows: np.ptp(np.log(np.linalg.eigvalsh(np.cov(rows.T))))
    assert ratio(decorrelated(x, 1.0)) < 0.7 * ratio(decorrelated(x, 0.5)) and ratio(decorrelated(x, 0.5)) < 0.7 * ratio(x)
    few = x[:8]
    assert decorrelated(x, 0.0) is x and decorrelated(few, 1.0) is few


def test_covariance_twin_has_the_shape_but_not_the_groups(found):
    x, _, _ = found
    twin = covariance_twin(x, np.random.default_rng(0))
    assert np.allclose(np.linalg.eigvalsh(np.cov(twin.T))[-5:], np.linalg.eigvalsh(np.cov(x.T))[-5:], rtol=0.5)
    assert np.median(nearest(twin, 1)[1][:, 1]) < np.median(nearest(x, 1)[1][:, 1])


def test_principal_axes_have_a_sign():
    x = np.random.default_rng(0).normal(size=(50, 6))
    assert np.allclose(principal(x, 2), principal(x.copy(), 2)) and principal(x, 3).shape == (50, 3)


def test_rim_lies_outside_and_moves_nothing_else():
    rng = np.random.default_rng(0)
    layout = np.r_[rng.normal(size=(50, 2)), np.zeros((8, 2))].astype(np.float32)
    outside = np.arange(50, 58)
    placed = rim(layout, outside, rng.integers(0, 50, (8, 3)))
    assert np.array_equal(placed[:50], layout[:50])
    middle = (layout[:50].min(0) + layout[:50].max(0)) / 2
    scaled = (placed - middle) / np.ptp(layout[:50], axis=0)
    assert np.linalg.norm(scaled[50:], axis=1).min() > np.linalg.norm(scaled[:50], axis=1).max()
    assert len(np.unique(placed[50:].round(4), axis=0)) == 8


def test_two_processes_write_the_same_bytes():
    script = (
        "import sys, hashlib; sys.path.insert(0, 'tests/autointerp'); from test_cluster import *\n"
        "x, _ = planted(n_groups=4, size=20, n_noise=5); s = ClusterSettings()\n"
        "g = stage.find_groups(x, s, 0); print(hashlib.sha256(g.space.tobytes() + g.group.tobytes() + stage.map_layout(x, g, s, 0)[0].tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    x, _ = planted(n_groups=4, size=20, n_noise=5)
    grouping = stage.find_groups(x, ClusterSettings(), 0)
    layout, _ = stage.map_layout(x, grouping, ClusterSettings(), 0)
    assert hashlib.sha256(grouping.space.tobytes() + grouping.group.tobytes() + layout.tobytes()).hexdigest() == other


def test_the_stage_writes_what_it_promises(run_copy):
    manifest = stage.cluster(run_copy, ClusterSettings(neighbours=5))
    folder, n = run_copy.folder("cluster"), manifest.summary["features"]
    assert set(manifest.files) == {"features.parquet", "neighbours.npy", "cosines.npy", "embedding.npy", "groups.json", "duplicates.json"}
    assert np.load(folder / "neighbours.npy").shape == np.load(folder / "cosines.npy").shape == (n, 10)
    assert np.load(folder / "embedding.npy").shape == (n, 10) and len(pd.read_parquet(folder / "features.parquet")) == n
    assert manifest.summary["live"] + manifest.summary["dead"] == n
    assert len(json.loads((folder / "groups.json").read_text())) == manifest.summary["groups"]
    assert stage.cluster(run_copy, ClusterSettings(neighbours=5)).key == manifest.key

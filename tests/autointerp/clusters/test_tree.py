"""Leaves of one linkage: the same as HDBSCAN's own for every smallest size, nested, and cut where
they last.
"""

import numpy as np
import pytest
from hdbscan import HDBSCAN
from sklearn.metrics import adjusted_rand_score

from autointerp.clusters.tree import (
    Sweep,
    choose_levels,
    find_leaves,
    label_leaves,
    linkage,
    make_tree,
    persistence,
    strength,
    sweep,
)


def blobs(seed=0, sizes=(40, 30, 25, 12, 9), d=3):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), d)) * 8
    return np.concatenate(
        [rng.normal(size=(n, d)) + c for n, c in zip(sizes, centres, strict=True)]
        + [rng.uniform(-15, 15, (20, d))]
    )


@pytest.mark.parametrize("seed", range(4))
def test_leaves_are_those_of_hdbscan_for_every_smallest_size(seed):
    points = blobs(seed)
    tree = linkage(points, 3)
    for m in (2, 3, 5, 8, 13, 24, 40):
        model = HDBSCAN(
            min_cluster_size=m,
            min_samples=3,
            cluster_selection_method="leaf",
            approx_min_span_tree=False,
            core_dist_n_jobs=1,
        ).fit(points)
        ours = label_leaves(tree, find_leaves(tree, m))
        assert ((ours >= 0) == (model.labels_ >= 0)).all() and adjusted_rand_score(
            ours, model.labels_
        ) == 1.0
        for node in find_leaves(tree, m):
            members, value = strength(tree, node, m)
            assert np.allclose(value, model.probabilities_[members], atol=1e-9)


def test_layers_are_nested():
    tree = linkage(blobs(5), 3)
    for fine, coarse in ((3, 8), (5, 24), (8, 13)):
        a, b = (
            label_leaves(tree, find_leaves(tree, fine)),
            label_leaves(tree, find_leaves(tree, coarse)),
        )
        assert all(len(set(b[a == g])) == 1 for g in range(a.max() + 1))


def test_a_tree_by_hand():
    """0 1 | 2 3 4 join to pairs, then all: nodes 5 = {0, 1}, 6 = {2, 3}, 7 = {2, 3, 4}, 8 =
    everything.
    """
    tree = make_tree(np.array([0, 2, 4, 5]), np.array([1, 3, 6, 7]), np.array([1.0, 1.0, 2.0, 9.0]))
    assert set(tree.order[tree.start[7] : tree.end[7]]) == {2, 3, 4}
    assert find_leaves(tree, 2).tolist() == [7, 5] and find_leaves(tree, 3).tolist() == []
    assert tree.above[7] == 2 and tree.below[7] == 1 and tree.above[8] == 5
    assert persistence(tree, np.array([7]))[0] == 0.0  # too small to last
    points, value = strength(tree, 7, 2)
    assert dict(zip(points.tolist(), value.tolist(), strict=True)) == {4: 0.5, 2: 1.0, 3: 1.0}


def test_a_plateau_is_chosen_and_shaky_layers_are_left_out():
    found = Sweep(
        np.array([5, 10, 20, 40]),
        np.array([40, 12, 12, 2]),
        np.array([0.5, 1, 1, 0.9]),
        np.array([0.3, 1.8, 1.8, 0.4]),
    )
    assert choose_levels(found, 600) == [10]
    even = Sweep(np.array([5, 20, 90]), np.array([100, 20, 4]), np.ones(3), np.ones(3))
    assert choose_levels(even, 2000) == [90, 20, 5]
    none = Sweep(np.array([5]), np.array([1]), np.zeros(1), np.zeros(1))
    assert choose_levels(none, 50) == []


def test_one_blob_has_no_two_groups_at_large_sizes():
    tree = linkage(np.random.default_rng(0).normal(size=(60, 2)), 3)
    assert sweep(tree, 5).clusters[-1] == 0

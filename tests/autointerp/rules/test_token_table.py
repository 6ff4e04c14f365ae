"""Sums over the codes that occur are those over all codes, bit by bit."""

import numpy as np
import pytest

from autointerp.rules.annotations import RELATIONS
from autointerp.rules.token_table import N_GROUPS, WINDOWS, TokenTable
from autointerp.rules.word_groups import WordGroups
from tests.autointerp.rules.test_fit import CORPUS, TOKENS


@pytest.fixture(scope="module")
def table():
    return TokenTable.build(TOKENS, WordGroups.build(CORPUS), "train", 10_000, 0)


@pytest.mark.parametrize("n", [0, 1, 7, 3000])
@pytest.mark.parametrize("slot", RELATIONS)
def test_sums_by_group_and_shape_equal_those_over_every_code(table, slot, n):
    rng = np.random.default_rng(n)
    at = np.sort(rng.choice(len(table), n, replace=False))
    weights = rng.random(n)
    cells = table.groups[at] * table.n_codes + table.views[slot][at]
    dense = np.bincount(cells, weights, N_GROUPS * table.n_codes).reshape(N_GROUPS, -1)
    found = table.sum_by_group(slot, at, weights)
    every = np.arange(table.n_codes)
    assert found.of(every).tobytes() == dense.tobytes()
    assert found.total().tobytes() == dense.sum(0).tobytes()
    assert set(found.codes) == set(table.views[slot][at])
    by_shape, expected = table.sum_shapes(found), table.shapes.sums(dense)
    assert by_shape.tobytes() == expected.tobytes()
    assert by_shape.strides == expected.strides, "numpy adds in the order of memory"
    counts = table.counts(slot, at)
    assert table.count_shapes(slot, counts).tobytes() == table.shapes.sums(counts).tobytes()


def test_window_counts_are_the_distinct_words_before_each_token(table):
    at = np.array([0, 1, 5, 19, 20, 21, 300, len(table) - 1])
    (slot, width), weights = next(iter(WINDOWS.items())), np.arange(1.0, 9.0)
    expected = np.zeros((2, table.n_codes))
    for index, weight in zip(at, weights, strict=True):
        ordinal = int(table.ordinals[index])
        first = max(ordinal - width, ordinal - int(CORPUS.place[ordinal]))
        for code in set(CORPUS.codes[first:ordinal].tolist()):
            expected[:, code] += 1, weight
    assert table.counts(slot, at).tolist() == expected[0].tolist()
    np.testing.assert_allclose(table.counts(slot, at, weights), expected[1])

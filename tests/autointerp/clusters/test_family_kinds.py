"""Kinds of families: synonyms, alternatives and parts of a phrase are told apart where planted."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from autointerp.clusters import family_kinds
from autointerp.clusters.family_kinds import (
    ALTERNATIVES,
    PARTS,
    SYNONYMS,
    add_kinds,
    mean_by_family,
    split_families,
)

N = 20_000
OTHERS = 120


def planted_text(seed=0):
    """(token ids, ordinals on which each of 12 + OTHERS features fires).

    Family 0 fires on the same tokens, family 1 on its own ones, each before token 900, family 2 one after
    the other, family 3 and the others anywhere.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 800, N)
    places = rng.permutation(np.arange(10, N - 10, 10))

    def some(chosen):
        return np.sort(rng.choice(chosen, rng.integers(160, 200), replace=False))

    firings = [some(places[:210]) for _ in range(3)]
    for i in range(3):
        firings.append(some(places[300 + 200 * i : 500 + 200 * i]))
        ids[firings[-1] + 1], ids[firings[-1] - 1] = 900, 901
    firings += [some(places[1000:1210]) + i for i in range(3)]
    firings += [some(N) for _ in range(3 + OTHERS)]
    return ids, firings


def kinds_of(ids, firings, family):
    postings = SimpleNamespace(n_tokens=N, firings=lambda f: (firings[f], np.ones(len(firings[f]))))
    tokens = SimpleNamespace(ids=ids, row_offsets=np.arange(0, N + 1, 1000))
    known = pd.DataFrame({"family": range(family.max() + 1)})
    return add_kinds(known, family, postings, tokens, 0)


def test_planted_kinds_are_told_apart():
    ids, firings = planted_text()
    family = np.r_[np.repeat(np.arange(4), 3), 4 + np.arange(OTHERS) // 4]
    table = kinds_of(ids, firings, family)
    assert table["kind"].tolist()[:4] == [SYNONYMS, ALTERNATIVES, PARTS, ""]
    assert (table["kind"][4:] == "").all()
    assert table["together"][0] > 0.7 and table["beside"][2] > 0.5 and table["context"][1] > 0.9


def test_parts_of_other_rows_are_not_beside_each_other():
    """A pair that stands on both sides of every row's end is no phrase."""
    ends = np.arange(999, N - 1, 1000)
    pair = [ends, ends + 1]
    others = [np.sort(np.random.default_rng(i).choice(N, 20, replace=False)) for i in range(20)]
    family = np.r_[0, 0, np.repeat(np.arange(1, 11), 2)]
    table = kinds_of(np.random.default_rng(0).integers(0, 800, N), [*pair, *others], family)
    assert table["kind"][0] != PARTS and table["beside"][0] <= 0


def test_no_families_no_kinds():
    table = kinds_of(np.zeros(N, int), [np.arange(3)], np.array([-1]))
    assert len(table) == 0 and "kind" in table


def test_families_are_compared_whole(monkeypatch):
    family = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    monkeypatch.setattr(family_kinds, "MOST_MEMBERS", 5)
    assert [c.tolist() for c in split_families(family)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    monkeypatch.setattr(family_kinds, "MOST_MEMBERS", 2)
    assert [len(c) for c in split_families(family)] == [3, 2, 4]


def test_means_by_hand():
    pairs = np.array([[9, 1, 3], [1, 9, 5], [3, 5, 9]], np.float32)
    assert mean_by_family(pairs, np.array([0, 0, 0]))[0] == pytest.approx(3)
    assert mean_by_family(pairs, np.array([4, 2, 4])).to_dict() == {2: 0.0, 4: 3.0}

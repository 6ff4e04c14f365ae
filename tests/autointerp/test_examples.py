"""Windows by stratum and split, on a planted index that can be checked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from autointerp.examples import NAMES, SPACING, Examples, argsort_stable
from core.activations.layout import Layout, write_layout
from core.errors import UsageError
from core.files import write_array, write_json
from core.firings.postings import Postings, lookup, write_token_postings
from core.text.tokens import Tokens

N_DOCUMENTS, LENGTH, ROW = 60, 100, 50
N = N_DOCUMENTS * LENGTH


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Feature 0 fires on 300 random tokens, 1 nowhere, 2 on every token 7 but every third; tokens 0
    to 499 of score are copies.
    """
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, N).astype(np.uint16)
    split = np.repeat([0, 1, 2], [36, 6, 18]).astype(np.uint8)
    copied = np.zeros(N, bool)
    copied[42 * LENGTH : 47 * LENGTH] = True
    random = np.sort(rng.choice(N, 300, replace=False))
    sevens = np.flatnonzero(ids == 7)
    firing = np.delete(sevens, np.arange(0, len(sevens), 3))
    features = [
        (random, rng.random(300) + 0.1),
        (np.zeros(0, int), np.zeros(0)),
        (firing, np.full(len(firing), 2.0)),
    ]
    tables = {
        "ids": ids,
        "starts": np.zeros(N, np.uint32),
        "ends": np.zeros(N, np.uint32),
        "row_offsets": np.arange(0, N + 1, ROW),
        "row_document": np.repeat(np.arange(N_DOCUMENTS), LENGTH // ROW),
        "document_offsets": np.arange(0, N + 1, LENGTH),
        "split": split,
        "copied": copied,
        "counted": np.ones(N, bool),
        "text_offsets": np.zeros(N_DOCUMENTS + 1, np.int64),
    }
    for name, array in tables.items():
        write_array(folder / f"{name}.npy", array)
    write_json(folder / "documents.json", [f"d{i}" for i in range(N_DOCUMENTS)])
    write_json(folder / "vocabulary.json", [f" t{i}" for i in range(20)])
    bounds = [0, 2000, N]
    write_layout(folder, Layout(True, "float32", 1, [int(bound) for bound in bounds]))
    for shard, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        inside = [(o[(o >= start) & (o < end)], v[(o >= start) & (o < end)]) for o, v in features]
        write_array(
            folder / f"offsets-{shard:05d}.npy", np.r_[0, np.cumsum([len(o) for o, _ in inside])]
        )
        write_array(
            folder / f"positions-{shard:05d}.npy",
            (np.concatenate([o for o, _ in inside]) - start).astype(np.uint32),
        )
        write_array(
            folder / f"firings-{shard:05d}.npy",
            np.concatenate([v for _, v in inside]).astype(np.float32),
        )
    write_token_postings(folder, ids, 20)
    postings, tokens = Postings(folder, folder), Tokens(folder)
    return SimpleNamespace(
        postings=postings,
        tokens=tokens,
        examples=Examples(postings, tokens),
        features=features,
        ids=ids,
        copied=copied,
    )


def test_postings_give_back_what_was_planted(planted):
    for number, (where, values) in enumerate(planted.features):
        found = planted.postings.firings(number)
        assert (found[0] == where).all() and np.allclose(found[1], values)
    whole = [pair for _, block in planted.postings.blocks(size=2) for pair in block]
    assert (
        [len(o) for o, _ in whole]
        == planted.postings.n_firings.tolist()
        == [len(o) for o, _ in planted.features]
    )
    assert (planted.postings.token(7) == np.flatnonzero(planted.ids == 7)).all()
    everywhere = planted.postings.activations_at(0, np.arange(N))
    assert np.flatnonzero(everywhere).tolist() == planted.features[0][0].tolist()
    with pytest.raises(UsageError, match="no feature 3"):
        planted.postings.firings(3)


def test_lookup_of_nothing_is_zero():
    assert lookup(np.zeros(0, int), np.zeros(0, np.float32), np.arange(3)).tolist() == [0, 0, 0]


def draw(planted, feature, split, **counts):
    return planted.examples.draw(
        planted.postings.firings(feature), split, counts, np.random.default_rng(1)
    )


def test_peaks_stay_in_their_split_and_copies_are_counted(planted):
    where, _ = planted.features[0]
    for split, (start, end) in {"train": (0, 36), "val": (36, 42), "test": (42, 60)}.items():
        drawn = draw(planted, 0, split, top=10, strata=4, random=20, near_miss=3)
        assert ((drawn.ordinals >= start * LENGTH) & (drawn.ordinals < end * LENGTH)).all()
        assert not planted.copied[drawn.ordinals].any()
        inside = (where >= start * LENGTH) & (where < end * LENGTH)
        assert drawn.n_copied == int(
            (inside & planted.copied[where]).sum()
        ) and drawn.n_firings == int((inside & ~planted.copied[where]).sum())


def test_the_top_are_the_largest_and_not_side_by_side(planted):
    where, values = planted.features[0]
    drawn = draw(planted, 0, "train", top=8)
    chosen = lookup(where, values, drawn.ordinals)
    assert (np.diff(chosen) <= 0).all() and chosen[0] == values[where < 36 * LENGTH].max()
    assert np.diff(np.sort(drawn.ordinals)).min() >= SPACING


def test_strata_are_quantiles_and_their_weights_stand_for_all_firings(planted):
    where, values = planted.features[0]
    drawn = draw(planted, 0, "all", strata=1000)
    keep = ~planted.copied[where]
    assert len(np.unique(drawn.ordinals)) == len(drawn.ordinals) == keep.sum()
    assert drawn.weights.sum() == pytest.approx(1.0)
    activations = lookup(where, values, drawn.ordinals)
    of = lambda name: activations[drawn.strata == NAMES.index(name)]
    assert (
        of("q90").min() >= of("q70").max() >= of("q40").max() >= of("q10").max() >= of("q0").max()
    )
    few = draw(planted, 0, "all", strata=2)
    assert few.weights.sum() == pytest.approx(1.0) and len(few.weights) == 10


def test_near_misses_are_the_token_without_the_firing(planted):
    drawn = draw(planted, 2, "train", near_miss=15)
    assert len(drawn.ordinals) == 15 and (planted.ids[drawn.ordinals] == 7).all()
    assert (planted.postings.activations_at(2, drawn.ordinals) == 0).all()


def test_a_dead_feature_has_only_random_windows(planted):
    drawn = draw(planted, 1, "train", top=5, strata=2, near_miss=2, firing=2, random=4)
    assert [NAMES[s] for s in drawn.strata] == ["random"] * 4


def test_windows_end_with_their_row(planted):
    starts, ends = planted.examples.window(np.array([0, 10, 49, 50, 75, N - 1]))
    assert starts.tolist() == [0, 0, 29, 50, 55, N - 21] and ends.tolist() == [
        12,
        22,
        50,
        62,
        87,
        N,
    ]
    assert planted.examples.cover(np.array([10, 12])).tolist() == list(range(24))


def test_snippets_show_tokens_and_activations(planted):
    snippets = planted.examples.snippets(
        2, "test", {"top": 3, "random": 2}, np.random.default_rng(0)
    )
    assert [s.stratum for s in snippets] == ["top"] * 3 + ["random"] * 2
    for s in snippets:
        start = planted.tokens.ordinal(s.document, s.start)
        assert s.split == "test" and s.tokens == tuple(
            f" t{i}" for i in planted.ids[start : start + len(s.tokens)]
        )
        assert np.allclose(
            s.activations,
            planted.postings.activations_at(2, np.arange(start, start + len(s.tokens))),
        )
        assert s.stratum == "random" or s.activations[s.peak] == 2.0


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0),
        np.zeros(7),
        [3, 1, 2, 1, 3],
        [-1.5, 2, -0.0, 0.0, -3, 2],
        np.random.default_rng(0).gamma(2, 2, 5000),
    ],
)
def test_the_order_of_activations_is_the_stable_one(values):
    values = np.asarray(values, np.float32)
    assert np.array_equal(argsort_stable(values), np.argsort(values, kind="stable"))

"""Readers of the capture, index and effects units: their numbers, and that they load no torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.activations.layout import Layout, read_layout, read_vectors, write_layout
from core.activations.store import ActivationStore, write_shard
from core.effects.unit import (
    has_changes,
    has_changes_shard,
    join_changes,
    read_changes,
    read_effects,
    write_changes_shard,
)
from core.errors import UsageError
from core.firings.postings import Postings, maxima

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = (
    "core.text.documents",
    "core.text.splits",
    "core.text.tokens",
    "core.text.word_tree",
    "core.activations.layout",
    "core.firings.postings",
    "core.effects.unit",
    "core.files",
    "core.parallel",
    "core.progress",
    "core.hub",
)


def test_readers_of_units_load_no_torch():
    code = f"import sys, {', '.join(WITHOUT_TORCH)}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_maxima_are_those_of_the_postings(tiny_run):
    postings = Postings(tiny_run.folder("index"), tiny_run.folder("capture"))
    largest = maxima(tiny_run, postings.n_features)
    for feature in range(postings.n_features):
        values = postings.firings(feature)[1]
        assert largest[feature] == (values.max() if len(values) else 0)
        assert postings.n_firings[feature] == len(values)
    assert (largest > 0).any()


def test_firings_on_a_token_are_those_of_every_feature(tiny_run):
    """In every shard, of tokens in any order and asked twice; what is not there is told."""
    postings = Postings(tiny_run.folder("index"), tiny_run.folder("capture"))
    asked = np.r_[postings.bounds[:-1], postings.bounds[1:] - 1, 7, 7, 3]
    ordinals, features, values = postings.firings_at(asked)
    expected = {}
    for feature in range(postings.n_features):
        where, activations = postings.firings(feature)
        for ordinal, value in zip(where.tolist(), activations.tolist(), strict=True):
            if ordinal in asked:
                expected[ordinal, feature] = value
    pairs = zip(ordinals.tolist(), features.tolist(), strict=True)
    assert dict(zip(pairs, values.tolist(), strict=True)) == expected and len(expected) > 10
    assert ordinals.tolist() == sorted(ordinals)
    assert all(np.diff(values)[np.diff(ordinals) == 0] <= 0)
    assert len(postings.firings_at(np.zeros(0, int))[0]) == 0
    for ordinal in (-1, postings.n_tokens):
        with pytest.raises(UsageError, match="There is no token"):
            postings.firings_at(np.array([ordinal]))


def test_vectors_are_read_as_the_store_reads_them(tiny_run):
    folder = tiny_run.folder("capture")
    store = ActivationStore(folder)
    ordinals = np.random.default_rng(0).permutation(len(store))[:200]
    vectors = read_vectors(folder, ordinals)
    assert read_layout(folder).n_shards == store.n_shards > 2
    assert np.array_equal(vectors, store.read(ordinals).numpy())


def test_bfloat16_vectors_are_read_without_torch(run_copy):
    folder = run_copy.folder("capture")
    layout, x = read_layout(folder), ActivationStore(folder)
    for number in range(layout.n_shards):
        write_shard(folder, number, x.shard(number).to(torch.bfloat16))
    write_layout(folder, Layout(True, "bfloat16", layout.width, layout.bounds))
    ordinals = np.arange(0, len(x), 7)
    expected = ActivationStore(folder).read(ordinals)
    assert expected.dtype == torch.bfloat16
    assert np.array_equal(read_vectors(folder, ordinals), expected.float().numpy())


def test_a_run_without_effects_reads_as_none(tiny_run):
    assert read_effects(tiny_run) is None
    assert read_changes(tiny_run) is None
    assert not has_changes(tiny_run)


def test_changes_are_written_in_blocks_and_read_back(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    rows[2:4] = 0
    write_changes_shard(tmp_path, 0, rows[:2])
    write_changes_shard(tmp_path, 2, rows[4:])
    assert [has_changes_shard(tmp_path, number) for number in range(3)] == [True, False, True]
    join_changes(tmp_path, 5, 3, rows=2)
    assert np.array_equal(np.load(tmp_path / "clamped.npy"), rows)
    assert [path.name for path in tmp_path.iterdir()] == ["clamped.npy"]

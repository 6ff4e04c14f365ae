"""The stage `index`: postings against a dense encoding, interruptions, bytes of a firing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import core.activations.capture
import core.firings.index
import core.firings.postings
from core.activations.store import ActivationStore
from core.files import write_array
from core.firings import postings as postings_module
from core.firings.index import encode_firings, invert_shard
from core.saes import SAE, SAEConfig
from core.settings import IndexSettings
from core.text.tokens import Tokens
from tests.support.stages import capture, index, train
from tests.support.tiny import (
    INDEX_BATCH,
    SHARD_TOKENS,
    SMALL_CAPTURE,
    SMALL_TRAIN,
    Counted,
    Killed,
    sae_of,
)


@pytest.fixture(autouse=True)
def several_shards(monkeypatch):
    """Shards and batches of the sizes that the small run has."""
    monkeypatch.setattr(core.activations.capture, "SHARD_TOKENS", SHARD_TOKENS)
    monkeypatch.setattr(core.firings.index, "BATCH", INDEX_BATCH)


@pytest.fixture(params=["topk", "tied_l1"])
def indexed(request, run_copy):
    """A run of either architecture with its index."""
    if request.param == "tied_l1":
        train(run_copy, replace(SMALL_TRAIN, architecture="tied_l1", penalty=0.01), redo=True)
        index(run_copy, IndexSettings(), redo=True)
    return run_copy


def postings(run, number):
    return [
        np.load(run.folder("index") / f"{part}-{number:05d}.npy")
        for part in ("offsets", "positions", "firings")
    ]


@torch.inference_mode()
def dense(run, number):
    """Activations (n, F) of a shard, all vectors at once."""
    return (
        SAE.load(run.folder("train"))
        .encode(ActivationStore(run.folder("capture")).shard(number).float())
        .numpy()
    )


def test_the_index_is_the_dense_encoding_inverted(indexed):
    n_shards = ActivationStore(indexed.folder("capture")).n_shards
    assert n_shards > 2
    for number in range(n_shards):
        offsets, positions, firings = postings(indexed, number)
        f = dense(indexed, number)
        assert len(offsets) == f.shape[1] + 1
        assert offsets[0] == 0
        assert offsets[-1] == len(firings) == len(positions) == (f > 0).sum() > 0
        for feature in range(f.shape[1]):
            here = slice(offsets[feature], offsets[feature + 1])
            np.testing.assert_array_equal(
                positions[here], np.flatnonzero(f[:, feature])
            )  # ascending, each once
            np.testing.assert_allclose(
                firings[here], f[f[:, feature] > 0, feature], rtol=1e-5, atol=1e-6
            )


def test_a_firing_costs_eight_bytes(indexed):
    offsets, positions, firings = postings(indexed, 0)
    assert (offsets.dtype, positions.dtype, firings.dtype) == (np.int64, np.uint32, np.float32)
    assert positions.nbytes + firings.nbytes == 8 * offsets[-1]


def test_tokens_are_inverted_over_the_whole_corpus(tiny_run):
    tokens = Tokens(tiny_run.folder("capture"))
    offsets, ordinals = (
        np.load(tiny_run.folder("index") / f"token_{part}.npy") for part in ("offsets", "ordinals")
    )
    assert len(offsets) == len(tokens.vocabulary) + 1
    assert len(ordinals) == len(tokens)
    assert ordinals.dtype == np.uint32
    for token in range(len(tokens.vocabulary)):
        np.testing.assert_array_equal(
            ordinals[offsets[token] : offsets[token + 1]], np.flatnonzero(tokens.ids == token)
        )


@pytest.mark.parametrize("piece", [1, 2, 5, 100])
def test_inverting_tokens_by_hand(monkeypatch, tmp_path, piece):
    monkeypatch.setattr(postings_module, "PIECE", piece)
    postings_module.write_token_postings(tmp_path, np.array([2, 0, 2, 3, 0], np.uint16), 5)
    offsets, ordinals = (np.load(tmp_path / f"token_{of}.npy") for of in ("offsets", "ordinals"))
    assert offsets.tolist() == [0, 2, 2, 4, 5, 5]
    assert ordinals.tolist() == [1, 4, 0, 2, 3]


EVERY = np.ones(100, bool)


def sae_with_dead_features(form):
    sae = sae_of(form, 8, 12)
    sae.b_enc[:] = 0.1
    sae.b_enc[[0, 5, 11]] = -1e6
    sae.b_dec.zero_()
    return sae


@pytest.mark.parametrize(
    "form",
    [
        SAEConfig("topk", "topk", 3),
        SAEConfig("signed", "topk_signed", 3),
        SAEConfig("tied_l1", "relu"),
        SAEConfig("gated", "gated"),
    ],
    ids=lambda f: f.name,
)
def test_dead_features_have_empty_postings_and_batches_do_not_matter(form):
    sae = sae_with_dead_features(form)
    if form.activation == "topk_signed":
        sae.W_enc[:, [0, 5, 11]] = 0.0
        sae.b_enc[[0, 5, 11]] = 0.0
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(1))
    offsets, positions, firings = invert_shard(sae, x, 1000, EVERY)
    assert np.flatnonzero(np.diff(offsets) == 0).tolist() == [0, 5, 11]
    for batch in (1, 7, 100):
        for array, expected in zip(
            invert_shard(sae, x, batch, EVERY), (offsets, positions, firings), strict=True
        ):
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
    row, feature, value = encode_firings(sae, x)
    assert (np.diff(row) >= 0).all()
    assert (value > 0).all()
    assert not {0, 5, 11} & set(feature.tolist())


def test_vectors_on_which_nothing_fires_are_indexed_as_nothing():
    tied = sae_with_dead_features(SAEConfig("tied_l1", "relu"))
    tied.b_enc.fill_(-1e6)
    offsets, positions, firings = invert_shard(tied, torch.randn(10, 8), 4, EVERY[:10])
    assert offsets.tolist() == [0] * 13
    assert len(positions) == len(firings) == 0


@pytest.mark.slow
def test_several_processes_make_the_same_bytes(tiny_run, run_copy):
    """Capture and index, each by two processes of one thread, against this process's."""
    capture(run_copy, replace(SMALL_CAPTURE, workers=2), redo=True)
    assert run_copy.manifest("capture").files == tiny_run.manifest("capture").files
    index(run_copy, IndexSettings(workers=2), redo=True)
    assert run_copy.manifest("index").files == tiny_run.manifest("index").files


def test_tokens_that_do_not_count_have_no_firings(run_copy):
    folder = run_copy.folder("capture")
    counted = np.arange(len(Tokens(folder))) % 3 > 0
    dense_counts = [(dense(run_copy, n) > 0) for n in range(ActivationStore(folder).n_shards)]
    write_array(folder / "counted.npy", counted)
    summary = index(run_copy, IndexSettings(), redo=True).summary
    assert summary["firings"] == int(np.concatenate(dense_counts)[counted].sum())
    assert summary["tokens"] == counted.sum()
    for number in range(len(dense_counts)):
        start = int(ActivationStore(folder).bounds[number])
        assert counted[
            start + np.load(run_copy.folder("index") / f"positions-{number:05d}.npy")
        ].all()


def test_the_summary_counts_what_is_there(indexed):
    summary = indexed.manifest("index").summary
    counts = sum(
        (dense(indexed, n) > 0).sum(0)
        for n in range(ActivationStore(indexed.folder("capture")).n_shards)
    )
    n = len(Tokens(indexed.folder("capture")))
    assert (summary["features"], summary["tokens"], summary["firings"]) == (
        len(counts),
        n,
        counts.sum(),
    )
    assert (summary["dead"], summary["dense"]) == ((counts == 0).sum(), (counts / n > 0.1).sum())
    assert summary["firings_per_token"] == pytest.approx(counts.sum() / n, abs=1e-3)
    assert summary["median_density"] == pytest.approx(np.median(counts / n))


@pytest.mark.parametrize("nth", [1, 4, 6, 7])
def test_a_killed_index_goes_on_to_the_same_bytes(run_copy, tiny_run, monkeypatch, nth):
    """Killed at the first array, within the second shard, at its last file, and after it."""
    import shutil

    shutil.rmtree(run_copy.path / "index")
    original, written = core.firings.postings.write_array, []

    def dying(path, array):
        written.append(path.name)
        if len(written) == nth:
            raise Killed
        original(path, array)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(core.firings.postings, "write_array", dying)
        index(run_copy, IndexSettings())
    assert run_copy.state("index") == "partial"
    whole = {"firings-00000.npy", "firings-00001.npy"} & set(written[:-1])
    written.clear()
    nth = 0
    monkeypatch.setattr(core.firings.postings, "write_array", dying)
    assert index(run_copy, IndexSettings()).files == tiny_run.manifest("index").files
    assert not whole & set(written), "a whole shard is not made again"


def test_the_bar_of_an_index_moves_with_every_batch(run_copy, monkeypatch):
    monkeypatch.setattr(core.firings.index, "progress", Counted)
    monkeypatch.setattr(core.firings.index, "BATCH", 64)
    index(run_copy, IndexSettings(), redo=True)
    assert sum(Counted.last.counts) == Counted.last.total
    assert max(Counted.last.counts) <= 64

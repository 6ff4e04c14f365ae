"""Planted features are found, the best step is kept, an interrupted training ends in the same bits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.activations.store import ActivationStore
from core.errors import UsageError
from core.files import write_array, write_json
from core.run import Run
from core.saes import SAE, SAEConfig
from core.saes.architectures.protocol import describe_loss
from core.saes.architectures.topk import TopK
from core.saes.architectures.untied import Untied
from core.settings import CaptureSettings, RunSettings, TrainSettings
from core.text.tokens import Tokens
from core.training import trainer
from core.training.train import load_data
from core.training.trainer import ADAPT_UNTIL, Trainer, make_sae
from tests.support.stages import train
from tests.support.tiny import Killed, planted_run

pytestmark = pytest.mark.slow

QUICK = {
    name: TrainSettings(architecture=name, expansion=2.0, k=3, penalty=penalty, batch_size=256, epochs=epochs, lr=5e-3, warmup=20, check_every=50)
    for name, (penalty, epochs) in {
        "topk": (0.0, 40), "batch_topk": (0.0, 30), "matryoshka": (0.0, 50), "l1": (0.03, 60), "jumprelu": (0.02, 50), "gated": (0.1, 60), "tied_l1": (0.03, 70),
    }.items()
}  # fmt: skip
ARCHITECTURES = tuple(QUICK)


def mmcs(truth, directions):
    """Mean over true directions of the largest cosine with a learned one."""
    return float(
        (truth @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T).max(1).mean()
    )


def split_vectors(run, name):
    folder = run.folder("capture")
    return ActivationStore(folder).read(np.flatnonzero(Tokens(folder).in_split(name)))


def metrics(run):
    lines = [
        json.loads(line)
        for line in (run.folder("train") / "metrics.jsonl").read_text().splitlines()
    ]
    return [m for m in lines if "loss" in m], [m for m in lines if "val_fvu" in m]


def raw_fvu(sae, x):
    return float((x - sae.decode(sae.encode(x))).square().mean() / (x - x.mean(0)).square().mean())


# ---------------------------------------------------------------- what is learned


@pytest.mark.numeric
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_planted_features_are_found(tmp_path, tiny, architecture):
    planted = planted_run(tmp_path)
    summary = train(planted.run, QUICK[architecture]).summary
    sae = SAE.load(planted.run.folder("train"))
    start = make_sae(QUICK[architecture], 24)
    start.initialise(torch.zeros(24), torch.Generator().manual_seed(0))
    untrained, x = start.finish(1.0), split_vectors(planted.run, "test")
    assert mmcs(planted.truth, untrained.W_dec.numpy()) < 0.7 and raw_fvu(untrained, x) > 1, (
        "an untrained SAE must fail this"
    )
    enough, left = (
        (0.8, 0.3) if architecture == "matryoshka" else (0.9, 0.2)
    )  # the few features of its first prefixes hold mixtures
    assert mmcs(planted.truth, sae.W_dec.numpy()) > enough
    np.testing.assert_array_equal(
        np.load(planted.run.folder("train") / "directions.npy"), sae.W_dec.numpy()
    )
    held_out = raw_fvu(sae, x)
    assert held_out < left and held_out == pytest.approx(summary["val_fvu"], rel=0.3)
    assert (
        summary["steps"] <= summary["steps_at_most"]
        and summary["features"] == 48
        and summary["width"] == 24
    )


@pytest.mark.numeric
@pytest.mark.parametrize(("architecture", "target"), [("tied_l1", 5.0), ("jumprelu", 3.0)])
def test_the_penalty_finds_the_l0_that_was_asked_for(tmp_path, tiny, architecture, target):
    planted = planted_run(tmp_path)
    train(
        planted.run,
        replace(QUICK[architecture], penalty=1e-3, target_l0=target, epochs=90, warmup=50),
    )  # warm-up ends where a measurement could be
    f = SAE.load(planted.run.folder("train")).encode(split_vectors(planted.run, "val"))
    assert float((f > 0).sum(1).float().mean()) == pytest.approx(target, rel=0.2)
    steps, measured = metrics(planted.run)
    assert steps[0]["l0"] > 10, "it must have been far away"
    still = ADAPT_UNTIL * len(steps) + 1
    assert len({m["penalty"] for m in steps if m["step"] >= still}) == 1, (
        "at the end the penalty stands still"
    )
    assert measured[0]["step"] >= still - 1, "objectives at different penalties are not compared"


def dead_share(run):
    f = SAE.load(run.folder("train")).encode(split_vectors(run, "train"))
    return float((f > 0).any(0).logical_not().float().mean())


def test_tied_features_that_died_are_brought_back(tmp_path, tiny, monkeypatch):
    shares = {}
    for dead_after in (2_000, 10**9):
        monkeypatch.setattr(trainer, "DEAD_AFTER", dead_after)
        run = planted_run(tmp_path / str(dead_after)).run
        train(
            run,
            replace(
                QUICK["tied_l1"],
                expansion=6.0,
                penalty=0.1,
                epochs=25,
                check_every=20,
            ),
        )
        shares[dead_after] = dead_share(run)
    assert shares[10**9] > 0.1, "without treatment many die, or this test shows nothing"
    assert shares[2_000] < 0.5 * shares[10**9]


def test_topk_features_that_never_win_are_brought_back_where_they_are_needed(
    tmp_path, tiny, monkeypatch
):
    """32 features are planted, and at the start only 8 of 48 are ever among the k largest: no other
    gets a gradient but through AuxK."""
    original = TopK.initialise

    def most_are_dead(sae, mean, generator):
        original(sae, mean, generator)
        with torch.no_grad():
            sae.E[8:] *= 0.02
            sae.b_enc[:8] = 1.0

    monkeypatch.setattr(TopK, "initialise", most_are_dead)
    shares = {}
    for dead_after in (2_000, 10**9):
        monkeypatch.setattr(trainer, "DEAD_AFTER", dead_after)
        run = planted_run(tmp_path / str(dead_after)).run
        train(run, QUICK["topk"])
        shares[dead_after] = dead_share(run)
    assert shares[10**9] > 0.5, "without AuxK most stay dead, or this test shows nothing"
    assert shares[2_000] < 0.5 * shares[10**9]


# ---------------------------------------------------------------- when it stops


OVERFIT = TrainSettings(
    expansion=8.0,
    k=3,
    batch_size=64,
    epochs=300,
    lr=5e-3,
    warmup=5,
    check_every=10,
    patience=3,
)


def test_early_stopping_keeps_the_weights_of_the_best_measurement(tmp_path, tiny):
    planted = planted_run(tmp_path, n=600)
    summary = train(planted.run, OVERFIT).summary
    steps, measured = metrics(planted.run)
    best = min(measured, key=lambda m: m["val_objective"])
    assert summary["stopped_early"] and summary["steps"] == len(steps) < summary["steps_at_most"]
    assert summary["best_step"] == best["step"] == summary["steps"] - 30
    assert [m["step"] for m in measured] == list(range(10, summary["steps"] + 1, 10))
    held_out = raw_fvu(SAE.load(planted.run.folder("train")), split_vectors(planted.run, "val"))
    assert (
        held_out == pytest.approx(best["val_fvu"], rel=1e-3)
        and best["val_fvu"] == summary["val_fvu"]
    )
    assert measured[-1]["val_fvu"] > best["val_fvu"] * 1.001, (
        "the last weights are worse, or this test shows nothing"
    )


def test_the_learning_rate_rises_stands_and_falls(tmp_path, tiny):
    data = load_data(planted_run(tmp_path, n=600).run.folder("capture"), 64, 0)
    training = Trainer(
        TrainSettings(batch_size=64, epochs=20, warmup=10, decay=0.25, k=3), data, 0, tmp_path
    )
    assert training.steps == 20 * (len(data.train) // 64)
    training.steps = 100
    assert [training._schedule(s) for s in (0, 4, 9, 50, 75, 90, 99)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0, 1.0, 0.4, 0.04]
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_warmup_and_a_training_shorter_than_its_warmup_still_end_measured(
    tmp_path, tiny, architecture
):
    for warmup in (0, 1000):
        planted = planted_run(tmp_path / str(warmup), n=600)
        summary = train(
            planted.run, replace(QUICK[architecture], batch_size=64, epochs=2, warmup=warmup)
        ).summary
        assert summary["steps"] == summary["best_step"] == summary["steps_at_most"]
        assert 0 < summary["val_fvu"] < 2


# ---------------------------------------------------------------- interruptions


_SHORT = TrainSettings(
    expansion=4.0,
    k=3,
    penalty=1.0,
    batch_size=64,
    epochs=6,
    lr=5e-3,
    warmup=5,
    check_every=6,
)
INTERRUPTED = {name: replace(_SHORT, architecture=name) for name in ARCHITECTURES}
INTERRUPTED["tied_l1"] = replace(_SHORT, architecture="tied_l1", lr=0.05, warmup=2, check_every=3)


def killed(*_):
    raise Killed


def die_at_step(monkeypatch, nth):
    original, calls = Trainer.step, []

    def step(self, x, target=None):
        calls.append(self.cursor.step)
        if len(calls) == nth:
            raise Killed
        return original(self, x, target)

    monkeypatch.setattr(Trainer, "step", step)
    return calls


@pytest.fixture
def early_death(monkeypatch):
    monkeypatch.setattr(trainer, "DEAD_AFTER", 100)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_a_resumed_training_keeps_its_arithmetic(tmp_path, monkeypatch, kind):
    """On a machine that is faster in the other type."""
    other = torch.float32 if kind == torch.bfloat16 else torch.bfloat16
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 7)
    monkeypatch.setattr(trainer, "pick_dtype", lambda *_: kind)
    whole = train(planted_run(tmp_path / "whole", n=900).run, _SHORT)
    run = planted_run(tmp_path / "killed", n=900).run
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at_step(patch, 10)
        train(run, _SHORT)
    monkeypatch.setattr(trainer, "pick_dtype", lambda *_: other)
    resumed = train(run, _SHORT)
    assert resumed.summary["arithmetic"] == str(kind).removeprefix("torch.")
    assert resumed.files == whole.files


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.usefixtures("early_death")
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, tiny, architecture, monkeypatch):
    """Killed before the first checkpoint and twice after it; a kill at the commit finds no
    checkpoint and starts again."""
    settings = INTERRUPTED[architecture]
    whole = train(planted_run(tmp_path / "whole", n=900).run, settings)
    run = planted_run(tmp_path / "killed", n=900).run
    for nth, first in ((4, 0), (19, 0), (10, 14)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            calls = die_at_step(patch, nth)
            train(run, settings)
        assert calls[0] == first
    resumed = train(run, settings)
    assert resumed.files.keys() == {"sae.safetensors", "directions.npy", "metrics.jsonl"}
    assert resumed.files == whole.files
    assert resumed.summary == whole.summary


@pytest.mark.usefixtures("early_death")
def test_features_die_and_revive_in_the_interrupted_training(tmp_path, tiny):
    """The case above would show nothing about them if at its last checkpoint none were dead, or
    none revived behind it."""
    for architecture in ("topk", "tied_l1"):
        run = planted_run(tmp_path / architecture, n=900).run
        train(run, INTERRUPTED[architecture])
        dead = [m["dead"] for m in metrics(run)[0]]
        assert dead[20] > 0
        assert any(later < earlier for earlier, later in zip(dead[21:-1], dead[22:], strict=True))


def test_a_training_killed_after_it_stopped_early_does_not_start_again(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 10)
    whole = train(planted_run(tmp_path / "whole", n=600).run, OVERFIT)
    run = planted_run(tmp_path / "killed", n=600).run
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "finish", killed)
        train(run, OVERFIT)
    calls = die_at_step(monkeypatch, 0)
    resumed = train(run, OVERFIT)
    assert calls == [], "the checkpoint of the last step is there: no step is left"
    assert resumed.files == whole.files and resumed.summary == whole.summary


def test_a_line_of_metrics_that_was_cut_off_is_dropped(tmp_path, tiny, monkeypatch):
    settings = INTERRUPTED["topk"]
    whole = train(planted_run(tmp_path / "whole", n=900).run, settings)
    run = planted_run(tmp_path / "killed", n=900).run
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at_step(patch, 17)
        train(run, settings)
    with open(run.path / "train.partial" / "metrics.jsonl", "a") as file:
        file.write('{"step": 17, "lo')
    assert train(run, settings).files == whole.files


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_size": 5000}, "less than one batch of 5000"),
        ({"batch_size": 64, "k": 10**6}, "k is 1000000"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_errors(tmp_path, tiny, settings, told):
    with pytest.raises(UsageError, match=told):
        train(planted_run(tmp_path, n=600).run, TrainSettings(**settings))


def test_an_objective_that_is_not_finite_is_an_error(tmp_path, tiny):
    run = planted_run(tmp_path, n=600).run
    with pytest.raises(UsageError, match="lower --lr"):
        train(
            run,
            TrainSettings(
                architecture="tied_l1",
                batch_size=64,
                epochs=10,
                lr=1e38,
                warmup=1,
                check_every=5,
                patience=50,
            ),
        )
    assert run.find("train") is None


def store_of(folder, x, split):
    """A committed capture of vectors x (n, D), one token a document, in the splits given."""
    run = Run.create(str(folder / "run"), RunSettings(subject="none", corpus="none"))
    work, n = run.begin("capture", 1, CaptureSettings(), []), len(x)
    every = np.arange(n + 1)
    tables = dict.fromkeys(("starts", "ends", "row_document", "ids"), every[:-1]) | dict.fromkeys(
        ("row_offsets", "document_offsets", "text_offsets"), every
    )
    for name, array in (
        tables
        | {
            "split": split.astype(np.uint8),
            "copied": np.zeros(n, bool),
            "counted": np.ones(n, bool),
        }
    ).items():
        write_array(work.folder / f"{name}.npy", array)
    write_json(work.folder / "documents.json", [str(i) for i in range(n)])
    write_json(work.folder / "vocabulary.json", [])
    write_array(work.folder / "activations-00000.npy", x.astype(np.float32))
    write_json(
        work.folder / "shards.json",
        {"stored": True, "dtype": "float32", "width": x.shape[1], "bounds": [0, n]},
    )
    work.commit({})
    return run


def test_nothing_to_calibrate_on_and_nothing_to_learn_are_errors(tmp_path):
    x, rng = np.ones((50, 4)), np.random.default_rng(0)
    with pytest.raises(UsageError, match="val split"):
        load_data(
            store_of(tmp_path / "a", rng.normal(size=(50, 4)), np.arange(50) % 2 * 2).folder(
                "capture"
            ),
            8,
            0,
        )
    with pytest.raises(UsageError, match="the same vector"):
        load_data(store_of(tmp_path / "b", x, np.arange(50) % 3).folder("capture"), 8, 0)


def test_mean_and_scale_come_from_the_explain_split_alone(tmp_path):
    x = np.random.default_rng(0).normal(size=(3000, 4)) * [1, 2, 3, 4] + 5
    split = np.arange(3000) % 3
    x[split == 2] += 1000
    data = load_data(store_of(tmp_path, x, split).folder("capture"), 8, 0)
    train = x[split == 0]
    assert data.scale == pytest.approx(np.sqrt(((train - train.mean(0)) ** 2).mean()), rel=1e-5)
    np.testing.assert_allclose(data.mean.numpy() * data.scale, train.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(data.train, np.flatnonzero(split == 0))
    rows = lambda array: array[np.lexsort(array.T)]
    np.testing.assert_allclose(rows(data.val.numpy() * data.scale), rows(x[split == 1]), rtol=1e-4)


# ---------------------------------------------------------------- a new architecture


class ReLUWithLog(Untied):
    """An eighth architecture: a ReLU under a penalty on log(1 + f), and no fused pass."""

    architecture = "relu_log"
    default_penalty = 1e-2

    def plain_loss(self, x, penalty, dead, target=None):
        f = self.preactivate(x).relu()
        error, sparsity = x - self.reconstruct(f), (1 + f).log().sum(1).mean()
        total = error.square().mean() + penalty * sparsity
        return describe_loss(total, error, sparsity, f)

    def finish(self, scale):
        return SAE(SAEConfig(self.architecture, "relu"), self.raw_tensors(scale))


def test_a_new_architecture_needs_its_formula_and_no_gradients(tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(trainer.KINDS, "relu_log", ReLUWithLog)
    planted = planted_run(tmp_path)
    settings = replace(QUICK["gated"], architecture="relu_log", penalty=0.03, epochs=40)
    summary = train(planted.run, settings).summary
    sae = SAE.load(planted.run.folder("train"))
    assert summary["architecture"] == sae.architecture == "relu_log"
    assert mmcs(planted.truth, sae.W_dec.numpy()) > 0.85
    assert raw_fvu(sae, split_vectors(planted.run, "test")) < 0.3


def test_vectors_of_outlying_norm_are_left_out_of_scale_mean_and_batches(tmp_path, capsys):
    made = planted_run(tmp_path, n=600)
    folder = made.run.folder("capture")
    before = load_data(folder, 64, 0)
    assert before.outliers == 0
    tokens = Tokens(folder)
    train, val = (np.flatnonzero(tokens.in_split(name)) for name in ("train", "val"))
    far = np.r_[train[[3, 40]], val[:1]]
    x = made.x.copy()
    x[far] *= 100
    write_array(folder / "activations-00000.npy", x)
    data = load_data(folder, 64, 0)
    assert data.outliers == 3
    assert not set(data.train.tolist()) & set(far.tolist())
    assert len(data.train) == len(train) - 2 and len(data.val) == len(before.val) - 1
    assert data.scale == pytest.approx(before.scale, rel=0.02)
    assert "3 vectors of over 10 times the median norm" in capsys.readouterr().err

"""A sweep trains each SAE as it would be trained alone, survives kill -9 anywhere, and hands one
over to the run."""

import os
import signal
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from core.activations.store import ActivationStore
from core.errors import NotReady, UsageError
from core.run import Run
from core.saes import SAE
from core.settings import EvaluateSettings, SweepSettings, TrainSettings
from core.text.tokens import Tokens
from core.training.sweep import expand
from core.training.train import prefetch
from core.training.trainer import Trainer
from tests.core.training.test_train import INTERRUPTED
from tests.support.stages import evaluate, sweep, train
from tests.support.tiny import planted_run

pytestmark = pytest.mark.slow

SMALL = SweepSettings(
    name="s",
    architecture="topk,l1,batch_topk",
    expansion="2,4",
    k="3",
    penalty="0.05",
    batch_size=64,
    epochs=3.0,
    lr=5e-3,
    warmup=5,
    loss_tokens=0,
)


def killed_at(nth, work, where=Trainer, what="step"):
    """Run `work` in a child process that kills itself with SIGKILL at the nth call of `where.what`;
    returns how it ended."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(
            1
            # OpenMP's threads did not come along, and a parallel region, also one of MKL's, would wait
            # for them for ever
        )
        original, calls = getattr(where, what), []

        def counted(*arguments, **named):
            calls.append(None)
            if len(calls) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        setattr(where, what, counted)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


# ---------------------------------------------------------------- what is trained


def test_every_combination_that_applies_is_trained_once():
    members = expand(
        SweepSettings(
            architecture="topk,l1,jumprelu",
            expansion="2, 8",
            k="16,32",
            penalty="0.001",
            batch_size=64,
            lr=0.1,
        )
    )
    assert list(members) == [
        "topk-2x-k16", "topk-2x-k32", "topk-8x-k16", "topk-8x-k32", "l1-2x-penalty_0.001", "l1-8x-penalty_0.001", "jumprelu-2x-penalty_0.001", "jumprelu-8x-penalty_0.001",
    ]  # fmt: skip
    assert members["topk-8x-k16"] == TrainSettings("topk", 8.0, 16, batch_size=64, lr=0.1)
    assert members["l1-2x-penalty_0.001"] == TrainSettings(
        "l1", 2.0, penalty=0.001, batch_size=64, lr=0.1
    )
    adapted = expand(SweepSettings(architecture="gated,topk", target_l0="20,40"))
    assert (
        list(adapted) == ["gated-8x-l0_20", "gated-8x-l0_40", "topk-8x-k32"]
        and adapted["gated-8x-l0_40"].target_l0 == 40.0
    )
    assert list(expand(SweepSettings(architecture="tied_l1"))) == ["tied_l1-8x"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"k": "16,x"}, "--k '16,x'"),
        ({"expansion": ""}, "--expansion ''"),
        ({"architecture": "topk,magic"}, "'magic'"),
        ({"architecture": "l1", "penalty": "0.1", "target_l0": "30"}, "both"),
        ({"name": "a/b"}, "--name 'a/b'"),
    ],
)
def test_lists_that_cannot_be_read_are_errors(tmp_path, tiny, changes, told):
    with pytest.raises(UsageError, match=told):
        sweep(planted_run(tmp_path, n=600).run, replace(SMALL, **changes))


def test_settings_of_a_sweep_have_the_defaults_of_train():
    trained, own = TrainSettings(), SweepSettings()
    for f in fields(SweepSettings):
        if f.type != "str" and hasattr(trained, f.name):
            assert getattr(own, f.name) == getattr(trained, f.name)


def test_each_sae_of_a_sweep_is_the_one_that_train_makes(tmp_path, tiny):
    run = planted_run(tmp_path / "sweep", n=900).run
    manifest = sweep(run, SMALL)
    table = {row["sae"]: row for row in manifest.summary["table"]}
    assert list(table) == list(expand(SMALL)) and len(table) == 6
    for name, settings in expand(SMALL).items():
        alone = planted_run(tmp_path / name, n=900).run
        trained = train(alone, settings)
        for file in ("sae.safetensors", "metrics.jsonl"):
            assert manifest.files[f"{name}/{file}"] == trained.files[file]
        assert table[name]["training"] == trained.summary
        x = ActivationStore(run.folder("capture")).read(
            np.flatnonzero(Tokens(run.folder("capture")).in_split("test"))
        )
        sae = SAE.load(run.folder("sweep/s") / name)
        f = sae.encode(x)
        assert table[name]["fvu"] == pytest.approx(
            float((x - sae.decode(f)).square().sum() / (x - x.mean(0)).square().sum()), rel=1e-4
        )
        assert table[name]["l0"] == pytest.approx(float((f > 0).sum(1).float().mean()))
    assert not list(run.folder("sweep/s").rglob(".*")), "no checkpoint is left"


def test_an_sae_of_a_sweep_becomes_the_runs_own(run_copy):
    sweep(
        run_copy,
        replace(
            SMALL,
            architecture="topk",
            k="3,6",
            expansion="3",
            batch_size=128,
            warmup=2,
            tokens=0,
            loss_tokens=300,
        ),
    )
    table = run_copy.manifest("sweep/s").summary["table"]
    with pytest.raises(NotReady, match="take  -> sweep/s/topk-3x-k6"):
        train(run_copy, TrainSettings(take="sweep/s/topk-3x-k6"))
    manifest = train(run_copy, TrainSettings(take="sweep/s/topk-3x-k6"), redo=True)
    assert (
        manifest.summary == table[1]["training"]
        and SAE.load(run_copy.folder("train")).config.k == 6
    )
    assert run_copy.state("index") == "stale" and run_copy.state("train") == "done"
    found = evaluate(run_copy, EvaluateSettings(tokens=0, loss_tokens=300)).summary
    assert found["fvu"] == pytest.approx(table[1]["fvu"]) and found["l0"] == pytest.approx(
        table[1]["l0"]
    )
    assert (
        found["ce_zero"] == pytest.approx(table[1]["ce_zero"], rel=0.05)
        and table[0]["ce_spliced"] != table[1]["ce_spliced"]
    )
    with pytest.raises(UsageError, match="no SAE 'sweep/s/topk-9x'") as raised:
        train(run_copy, TrainSettings(take="sweep/s/topk-9x"), redo=True)
    assert "sweep/s/topk-3x-k6" in raised.value.next_step
    with pytest.raises(NotReady) as raised:
        train(run_copy, TrainSettings(take="sweep/other/x"), redo=True)
    assert "sweep" in raised.value.next_step and "--name other" in raised.value.next_step


# ---------------------------------------------------------------- kill -9


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "jumprelu"])
def test_a_training_killed_with_signal_9_anywhere_ends_in_the_same_bits(
    tmp_path, tiny, architecture
):
    settings = replace(INTERRUPTED[architecture], epochs=3.0)
    whole = train(planted_run(tmp_path / "whole", n=900).run, settings)
    run = planted_run(tmp_path / "killed", n=900).run
    places = [
        (1, Trainer, "step"),
        (9, Trainer, "step"),
        (2, Trainer, "_save"),
        (3, Trainer, "_flush"),
        (1, os, "replace"),
        (2, os, "fsync"),
        (1, Run, "manifest"),
    ]
    for nth, where, what in places:
        assert killed_at(nth, lambda: train(run, settings), where, what) == signal.SIGKILL
        assert run.find("train") is None
    resumed = train(run, settings)
    assert resumed.files == whole.files and resumed.summary == whole.summary


def test_a_sweep_killed_between_two_checkpoints_of_one_step_ends_in_the_same_bits(tmp_path, tiny):
    whole = sweep(planted_run(tmp_path / "whole", n=900).run, SMALL)
    run = planted_run(tmp_path / "killed", n=900).run
    for nth in (3, 8, 4):  # of six trainers, some have saved this step and some have not
        assert killed_at(nth, lambda: sweep(run, SMALL), Trainer, "_save") == signal.SIGKILL
        assert run.find("sweep/s") is None
    resumed = sweep(run, SMALL)
    assert resumed.files == whole.files and resumed.summary == whole.summary


# ---------------------------------------------------------------- reading ahead


def test_batches_read_ahead_are_the_same_in_the_same_order():
    assert [int(x) for x in prefetch(torch.arange(5))] == [0, 1, 2, 3, 4]
    assert list(prefetch([])) == []


def test_an_error_while_reading_ahead_is_not_lost():
    def broken():
        yield torch.zeros(1)
        raise OSError("unreadable")

    batches = prefetch(broken())
    next(batches)
    with pytest.raises(OSError, match="unreadable"):
        next(batches)

"""No path mixes devices: what each makes on a device that refuses tensors of the CPU, with the
subject there, is what it makes on the CPU. `test_pretended_device.py` runs this file.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.activations.store import ActivationStore
from core.attribution.attribute import Question, attribute
from core.clamps.clamp import Edits, Sampling, clamp_edit, generate_pairs, where_to_clamp
from core.clamps.next_tokens import compare_next_tokens, compare_written
from core.records import Clamp, Site
from core.run import Run
from core.saes import SAE, SAEConfig
from core.settings import EvaluateSettings
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.training import trainer
from tests.support import stages
from tests.support.pretend_device import DEVICE, PretendDevice, move, register
from tests.support.tiny import SMALL_CAPTURE, SMALL_TRAIN, WIDTH, sae_of

register()  # before the first gradient


@contextlib.contextmanager
def on_device():
    """Every subject that is loaded lies on the pretended device, and SAEs are trained there."""
    load = Subject.load

    def load_there(*args, **options):
        subject = load(*args, **options)
        move(subject.model)
        subject.device = DEVICE
        return subject

    with pytest.MonkeyPatch.context() as patch, PretendDevice():
        patch.setattr(Subject, "load", load_there)
        yield


def make_run(path, settings, sae=""):
    """A run with what its stages wrote: (arrays of capture, index and effects, figures)."""
    run = Run.create(str(path), replace(settings, sae=sae))
    stages.capture(run, SMALL_CAPTURE)
    arrays = {f"capture/{p.name}": np.load(p) for p in run.folder("capture").glob("*.npy")}
    if not sae:
        return arrays, {}
    stages.train(run)
    stages.index(run)
    figures = stages.evaluate(run, EvaluateSettings(tokens=600, loss_tokens=200)).summary
    stages.effects(run)
    for unit in ("index", "effects"):
        arrays |= {f"{unit}/{p.name}": np.load(p) for p in run.folder(unit).glob("*.npy")}
    figures.pop("intervals")
    return arrays, figures


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-4), name
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_device_refuses_what_a_device_refuses():
    with PretendDevice():
        here, there = torch.ones(3, 2), torch.ones(3, 2).to(DEVICE)
        for mix in (
            lambda: here + there,
            lambda: there @ here.T,
            lambda: torch.cat([there, here]),
            lambda: torch.where(here > 0, there, 0.0),
            lambda: here.index_add_(0, torch.arange(3), there),
            lambda: there.numpy(),
        ):
            with pytest.raises(RuntimeError):
                mix()
        assert (there + 1.0).device == there[torch.tensor([0])].device == DEVICE
        assert torch.zeros(2, device=DEVICE).device == torch.randn(2).to(DEVICE).device == DEVICE
        assert torch.equal(there.cpu(), here) and float(there.sum()) == 6


@pytest.mark.parametrize("own", [True, False], ids=["kept activations", "read as it goes"])
def test_capture_index_evaluate_and_effects(tiny_run, tmp_path, own):
    sae = "" if own else str(tiny_run.folder("train"))
    expected = make_run(tmp_path / "here", tiny_run.settings, sae)
    with on_device():
        found = make_run(tmp_path / "there", tiny_run.settings, sae)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)
    assert any(name.startswith("capture/activations") for name in found[0]) == own


def use_model(run, sae):
    """What clamps, tables of next tokens and an attribution come to."""
    subject, site = load_subject(run), Site.parse(run.settings.site)
    sae.to(subject.device)
    maximum = [Clamp(3, "set", 6.0), Clamp(5, "scale", 2.0), Clamp(7, "ablate", 0.0)]
    edits = Edits(clamp_edit(sae, maximum), where_to_clamp(subject, "all"))
    sampling = Sampling(["the cat", "a dog ran"], 5, 0.7, (0, 1))
    pairs = generate_pairs(subject, site, edits, sampling)
    tables = compare_next_tokens(subject, site, edits, ["the cat sat"], 4, 8)
    written = compare_written(subject, site, edits, sampling, 3)
    why = attribute(subject, site, sae, "the cat sat on the mat", Question(top=3))
    return (
        pairs,
        [[row["id"] for row in table["tokens"]] for table in tables],
        [[entry["id"] for entry in one] for one in written],
        np.array([f.attribution for f in why.firings]),
    )


@pytest.mark.parametrize(
    "form", [SAEConfig("topk", "topk", 6), SAEConfig("relu", "relu")], ids=lambda form: form.name
)
def test_clamps_next_tokens_and_why(tiny_run, form):
    expected = use_model(tiny_run, sae_of(form, WIDTH, 24))
    with on_device():
        found = use_model(tiny_run, sae_of(form, WIDTH, 24))
    assert found[:3] == expected[:3]
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "jumprelu", "gated"])
def test_training(tiny_run, tmp_path, monkeypatch, architecture):
    weights = {}
    for name, place in (("here", contextlib.nullcontext()), ("there", on_device())):
        run = Run.create(str(tmp_path / name), tiny_run.settings)
        stages.capture(run, SMALL_CAPTURE)
        with place:
            if name == "there":
                monkeypatch.setattr(trainer, "choose_device", lambda: DEVICE)
            stages.train(run, replace(SMALL_TRAIN, architecture=architecture, epochs=1.0))
        weights[name] = SAE.load(run.folder("train"))
    x = ActivationStore(run.folder("capture")).shard(0).float()
    torch.testing.assert_close(
        weights["there"].encode(x), weights["here"].encode(x), rtol=1e-2, atol=1e-2
    )

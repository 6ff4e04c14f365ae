"""The type of arithmetic is measured once for each machine and shape, and kept."""

import json

import pytest
import torch

from core import devices
from core.devices import bfloat16_gain, measure_products, pick_dtype

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """The shapes that were timed; bfloat16 is as many times as fast as its one entry `gain`."""
    calls = {"gain": 2.0, "shapes": []}

    def measure(device, shape):
        calls["shapes"].append(shape)
        return {"float32": calls["gain"] * 1e-3, "bfloat16": 1e-3}

    monkeypatch.setattr(devices, "measure_products", measure)
    monkeypatch.setattr(devices, "_times", {})
    monkeypatch.setenv("BRAIN_SURGERY_HOME", str(tmp_path))
    return calls


@pytest.mark.parametrize(("gain", "kind"), [(2.0, torch.bfloat16), (1.2, torch.float32)])
def test_auto_is_bfloat16_only_where_it_is_clearly_faster(timed, gain, kind):
    timed["gain"] = gain
    assert pick_dtype("auto", CPU, (64, 256)) == kind
    assert pick_dtype("float16", CPU, (64, 256)) == torch.float16


def test_a_machine_is_timed_once_for_each_shape(timed, monkeypatch, tmp_path):
    for shape in ((64, 256), (64, 256), (64, 512)):
        pick_dtype("auto", CPU, shape)
    assert timed["shapes"] == [(64, 256), (64, 512)]
    monkeypatch.setattr(devices, "_times", {})  # as in another process
    timed["gain"] = 0.5
    assert pick_dtype("auto", CPU, (64, 256)) == torch.bfloat16, "the kept times decide"
    kept = json.loads((tmp_path / "machine.json").read_text())
    assert len(kept) == 2 and all(torch.__version__ in name for name in kept)


def test_a_large_matrix_is_cut(timed):
    pick_dtype("auto", CPU, (2048, 2**17))
    assert timed["shapes"] == [(2048, 2048)]


@pytest.mark.parametrize("found", ["{", None])
def test_a_file_that_cannot_be_used_costs_one_more_timing(timed, monkeypatch, tmp_path, found):
    if found is None:
        monkeypatch.setenv("BRAIN_SURGERY_HOME", str(tmp_path / "missing"))
    else:
        (tmp_path / "machine.json").write_text(found)
    for _ in range(2):
        assert pick_dtype("auto", CPU, (64, 256)) == torch.bfloat16
    assert len(timed["shapes"]) == 1
    assert not (tmp_path / "missing").exists(), "no folder is made for it"


def test_the_process_that_wrote_first_is_heeded(timed, tmp_path, monkeypatch):
    """Two processes measure at once, with different results."""
    assert bfloat16_gain(CPU, (64, 256)) == 2.0
    reads = [{}, json.loads((tmp_path / "machine.json").read_text())]
    monkeypatch.setattr(devices, "_read_kept", lambda: reads.pop(0))
    monkeypatch.setattr(devices, "_times", {})
    timed["gain"] = 0.5
    assert bfloat16_gain(CPU, (64, 256)) == 2.0


def test_real_products_are_timed(monkeypatch):
    monkeypatch.setattr(devices, "SECONDS", 0.0)
    seconds = measure_products(CPU, (16, 32))
    assert seconds.keys() == {"float32", "bfloat16"}
    assert all(0 < value < 10 for value in seconds.values())


def test_other_devices_keep_float32(timed):
    assert pick_dtype("auto", torch.device("mps"), (64, 256)) == torch.float32
    assert not timed["shapes"]

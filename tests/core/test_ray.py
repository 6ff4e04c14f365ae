"""Shards on Ray: errors before the first shard, and one machine that is lost amid a stage.

`tests/jobs/test_cluster.py` has every stage, and machines that are killed at random.
"""

import importlib.util
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import core.activations.capture
import core.ray_cluster
from core.errors import NotReady, UsageError
from core.files import write_array
from core.parallel import make_shards, map_in_workers
from core.ray_cluster import Cluster
from core.ray_workers import locate, open_mapped
from core.workers import Engine
from tests.support.ray_cluster import ray_cluster
from tests.support.stages import capture
from tests.support.tiny import SHARD_TOKENS, SMALL_CAPTURE

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed: pip install -r requirements-cluster.txt",
)


def test_without_ray_two_lines_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(core.ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as raised:
        make_shards([0], int, max, Engine("ray", folder=tmp_path), int)
    assert raised.value.next_step == "pip install -r requirements-cluster.txt"


@with_ray
@pytest.mark.parametrize("address", ["nowhere", "ray://10.0.0.1:10001", "host:port", ":6379"])
def test_an_address_that_is_none_is_refused(address, tmp_path):
    with pytest.raises(UsageError, match="is not the address") as raised:
        make_shards([0], int, max, Engine("ray", 0, address, 0.0, tmp_path), int)
    assert "host:port" in raised.value.next_step


@with_ray
def test_an_address_that_does_not_answer_is_refused_at_once(tmp_path):
    begun = time.monotonic()
    with pytest.raises(UsageError, match="Nothing answers at 127.0.0.1:1") as raised:
        make_shards([0], int, max, Engine("ray", 0, "127.0.0.1:1", 0.0, tmp_path), int)
    assert "ray start --head" in raised.value.next_step
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize("cut", [np.s_[:], np.s_[5000:9000], np.s_[7:8]])
@pytest.mark.parametrize("shape", [(20_000,), (20_000, 3)])
def test_a_mapped_array_crosses_as_its_path(tmp_path, shape, cut):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(np.prod(shape), dtype=np.uint32).reshape(shape))
    array = np.load(path, mmap_mode="r")[cut]
    where = locate(array)
    again = open_mapped(*where)
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype and where[0] == str(path)


def test_an_array_that_is_no_stretch_of_a_file_is_not_sent_as_one(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20_000))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert locate(mapped[::2]) is None
    assert locate(mapped.copy()) is None


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(2) as made:
        yield made


def add_last(mapped, n):
    return n + int(mapped[-1])


def make_slowly(folder, number):
    """Write one shard in .4 s, and first which machine began it."""
    import ray

    machine = ray.get_runtime_context().get_node_id()
    (folder / f"begun-{number}-{time.time_ns()}-{machine}").touch()
    time.sleep(0.4)
    write_array(folder / f"{number}.npy", np.arange(number))
    return number


def remove_when_busy(cluster, node, folder):
    """Take a machine away, without notice, once it has begun a shard."""
    while not list(folder.glob(f"begun-*-{node.node_id}")):
        time.sleep(0.05)
    cluster.remove_node(node, False)


@with_ray
@pytest.mark.slow
def test_a_machine_lost_amid_a_stage_costs_no_shard(
    tiny_run, run_copy, cluster, monkeypatch, tmp_path
):
    """Two machines, of which one leaves without notice while both work; then a stage and a map on
    the other, and the errors of a cluster that is there.
    """
    engine, folder = Engine("ray", 0, cluster.address, 0.0, tmp_path), tmp_path / "shards"
    folder.mkdir()
    gone = list(cluster.worker_nodes)[1]
    killer = threading.Thread(target=remove_when_busy, args=(cluster, gone, folder))
    killer.start()
    made: list[int] = []
    make_shards(range(1, 25), partial(Path, folder), make_slowly, engine, made.append)
    killer.join()
    assert sorted(made) == list(range(1, 25)), "each shard counted once"
    assert sorted(int(path.stem) for path in folder.glob("*.npy")) == sorted(made)
    begun = Counter(path.name.split("-")[1] for path in folder.glob("begun-*"))
    assert begun.total() == len(made) + 1, "only the shard in flight was made again"

    monkeypatch.setattr(core.activations.capture, "SHARD_TOKENS", SHARD_TOKENS)
    capture(run_copy, replace(SMALL_CAPTURE, engine="ray", ray=cluster.address), redo=True)
    assert run_copy.manifest("capture").files == tiny_run.manifest("capture").files

    np.save(folder / "a.npy", np.arange(5000))
    mapped = np.load(folder / "a.npy", mmap_mode="r")
    added = map_in_workers(partial(add_last, mapped), range(7), engine, 2)
    assert list(added) == [n + 4999 for n in range(7)]
    check_refusals(engine, monkeypatch)


def check_refusals(engine, monkeypatch):
    """No GPU where one is asked for, a path that a machine cannot see, other versions."""
    with pytest.raises(UsageError, match="asks for 1 GPU, and no machine") as raised:
        make_shards([0], int, max, replace(engine, gpus=1.0), int)
    assert "--gpus-per-worker 0" in raised.value.next_step
    ask, compare = Cluster._ask, Cluster._compare
    before = set(engine.folder.iterdir())
    with monkeypatch.context() as patch:
        elsewhere = lambda self, node, ours, theirs, token: ask(
            self, node, ours + "x", theirs, token
        )
        patch.setattr(Cluster, "_ask", elsewhere)
        with pytest.raises(NotReady, match="do not share") as refused:
            make_shards([0], int, max, engine, int)
    assert str(engine.folder) in refused.value.message
    assert set(engine.folder.iterdir()) == before, "no file of a check is left"
    for what, named in (("torch", "torch"), ("code", "this program"), ("Python", "Python")):
        other = lambda self, name, said, what=what: compare(self, name, said | {what: "0.0"})
        monkeypatch.setattr(Cluster, "_compare", other)
        with pytest.raises(NotReady, match=f"another version of {named} .*: 0.0, here"):
            make_shards([0], int, max, engine, int)

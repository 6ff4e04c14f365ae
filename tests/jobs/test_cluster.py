"""A Ray cluster of a head and three machines of one core: every stage on it writes the bytes that
this process writes, machines and workers are killed at random moments, and so is the driver.

`make test-cluster`, or with other numbers: ROUNDS=3 CLUSTER=1 pytest -m cluster
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import core.activations.capture
import core.effects.effects
from core.files import write_array
from core.parallel import make_shards
from core.workers import Engine
from tests.support.engines import SETTINGS, forget_activations, make_on
from tests.support.ray_cluster import ray_cluster, worker_pids
from tests.support.tiny import SHARD_TOKENS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif("CLUSTER" not in os.environ, reason="starts a cluster: make test-cluster"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]
ROUNDS = int(os.environ.get("ROUNDS", "20"))
SHARDS, SECONDS = 30, 0.2  # of a round
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(3) as made:
        yield made


def test_every_stage_writes_what_this_process_writes(cluster, tiny, run_copy, monkeypatch):
    monkeypatch.setattr(core.activations.capture, "SHARD_TOKENS", SHARD_TOKENS)
    monkeypatch.setattr(core.effects.effects, "ROWS", 20)
    on_ray = partial(make_on, run_copy, engine="ray", ray=cluster.address, workers=2)
    for stage in SETTINGS:
        inline = make_on(run_copy, stage, engine="inline")
        assert all(inline.values()), stage
        assert on_ray(stage) == inline, stage
    forget_activations(run_copy)
    assert on_ray("index") == make_on(run_copy, "index", engine="inline")


def make_slowly(folder, number):
    """Write a shard of its own number in SECONDS, and note that it was begun."""
    (folder / f"begun-{number}-{os.getpid()}-{time.time_ns()}").touch()
    time.sleep(SECONDS)
    write_array(folder / f"{number}.npy", np.full(10, number))
    return number


def check_whole(folder, made):
    assert sorted(made) == list(range(SHARDS)), "each shard counted once"
    for number in range(SHARDS):
        assert (np.load(folder / f"{number}.npy") == number).all()


def test_machines_and_workers_killed_at_random_cost_no_shard(cluster, tmp_path):
    rng = random.Random(0)
    engine = Engine("ray", 0, cluster.address, 0.0, tmp_path)
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        made: list[int] = []
        disturber = threading.Thread(target=disturb, args=(cluster, folder, rng))
        disturber.start()
        make_shards(range(SHARDS), partial(Path, folder), make_slowly, engine, made.append)
        disturber.join()
        check_whole(folder, made)
        begun = len(list(folder.glob("begun-*")))
        assert begun - SHARDS <= 2, "only what was in flight was made again"


def disturb(cluster, folder, rng):
    """Kill a worker or a machine, once shards are made; a machine that is lost is replaced."""
    while not list(folder.glob("begun-*")):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 4 * SECONDS))
    if rng.random() < 0.5 and (pids := worker_pids()):
        os.kill(rng.choice(sorted(pids)), signal.SIGKILL)
    else:
        cluster.remove_node(
            rng.choice(sorted(cluster.worker_nodes, key=lambda n: n.node_id)), False
        )
        with mock.patch("ray._private.utils.set_sigterm_handler"):  # this is no main thread
            cluster.add_node(num_cpus=1)


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from core.parallel import make_shards
from core.workers import Engine
from tests.jobs.test_cluster import SHARDS, make_slowly

folder = Path(sys.argv[1])
missing = [n for n in range(SHARDS) if not (folder / f"{n}.npy").exists()]
engine = Engine("ray", 0, sys.argv[2], 0.0, folder)
make_shards(missing, partial(Path, folder), make_slowly, engine, print)
"""


def test_a_killed_driver_goes_on_with_what_is_missing(cluster, tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tmp_path), cluster.address]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    while len(list(tmp_path.glob("[0-9]*.npy"))) < 5:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    time.sleep(3)  # Ray ends the actors of a driver that is gone
    there = len(list(tmp_path.glob("[0-9]*.npy")))
    begun = len(list(tmp_path.glob("begun-*")))
    assert there < SHARDS and begun - there <= 3
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    check_whole(tmp_path, range(SHARDS))
    assert len(list(tmp_path.glob("begun-*"))) - SHARDS <= 3, "only shards in flight made again"

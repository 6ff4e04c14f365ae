"""Shards and maps in processes: order, dead workers, failing shards, errors for people."""

import os
import pickle
import signal
from functools import partial
from pathlib import Path

import pytest

from autointerp import pipeline, whole
from core.errors import NotReady, ProviderError, ShardFailed, Stop, ToolError, UsageError
from core.parallel import make_shards, map_in_workers
from core.run import Run
from core.settings import IndexSettings, RunSettings
from core.workers import Engine

TWO = Engine("processes", 2)


def square(n):
    return n * n


def die_once(folder, n):
    """Kill the own process when 3 is asked for the first time."""
    mark = folder / f"tried-{n}-{len(list(folder.iterdir()))}"
    mark.touch()
    if n == 3 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def die(n):
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def fail(folder, n):
    if n == 3:
        (folder / f"try-{len(list(folder.iterdir()))}").touch()
        raise OSError("no space left")
    return n


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.handle = open(os.devnull)  # noqa: SIM115


def raise_unpicklable(n):
    raise Unpicklable(1, 2)


def refuse(folder, n):
    (folder / f"try-{len(list(folder.iterdir()))}").touch()
    raise UsageError("It cannot be.", "Type another.")


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("engine", [Engine(), Engine("processes", 1), TWO])
def test_a_map_keeps_its_order_on_every_engine(engine, chunk):
    assert list(map_in_workers(square, range(20), engine, chunk)) == [n * n for n in range(20)]
    assert list(map_in_workers(square, [], engine, chunk)) == []


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_killed_process_costs_nothing_but_what_it_had_in_hand(tmp_path, chunk):
    made = list(map_in_workers(partial(die_once, tmp_path), range(12), TWO, chunk))
    assert made == [n * n for n in range(12)]
    tries = [path.name.split("-")[1] for path in tmp_path.glob("tried-*")]
    again = {n for n in tries if tries.count(n) > 1}
    assert "3" in again
    assert len(again) <= 2 * chunk * 2, "only what was in work or next in line is made again"


def test_a_part_that_kills_its_process_each_time_ends_the_map_in_two_lines():
    with pytest.raises(ShardFailed) as raised:
        list(map_in_workers(die, range(6), TWO))
    assert "failed 3 times" in raised.value.message and "killed" in raised.value.message
    assert "same command again" in raised.value.next_step
    assert "\n" not in raised.value.message


def test_a_part_that_fails_three_times_ends_the_map_with_its_error(tmp_path):
    with pytest.raises(ShardFailed, match="failed 3 times; the last time: OSError: no space left"):
        list(map_in_workers(partial(fail, tmp_path), range(6), TWO))
    assert len(list(tmp_path.iterdir())) == 3
    assert ShardFailed.code == NotReady.code


def test_an_error_that_cannot_be_pickled_is_reported_as_well():
    with pytest.raises(ShardFailed, match="Unpicklable: 1"):
        list(map_in_workers(raise_unpicklable, range(2), TWO))


def test_an_error_for_people_crosses_unchanged_and_is_not_tried_again(tmp_path):
    with pytest.raises(UsageError) as raised:
        list(map_in_workers(partial(refuse, tmp_path), [1], TWO))
    assert (raised.value.message, raised.value.next_step) == ("It cannot be.", "Type another.")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "kind", [ToolError, UsageError, NotReady, ShardFailed, ProviderError, Stop]
)
def test_every_error_for_people_can_be_pickled(kind):
    back = pickle.loads(pickle.dumps(kind("what", "next")))
    assert (type(back), back.message, back.next_step) == (kind, "what", "next")


def prepare(folder):
    return folder


def make(folder, number):
    """Write one shard, and die the first time that number 2 is asked for."""
    if number == 2 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with open(folder / f"{number}.npy", "x"):
        return number


@pytest.mark.slow
def test_a_killed_process_costs_no_shard(tmp_path):
    made = []
    make_shards(range(6), partial(prepare, tmp_path), make, Engine("processes", 1), made.append)
    assert sorted(made) == list(range(6)), "each shard once: writing one twice would raise"


# ---------------------------------------------------------------- which engine


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, ("inline", "processes")),
        ({"workers": 1}, ("inline", "inline")),
        ({"workers": 4}, ("processes", "processes")),
        ({"engine": "inline", "workers": 4}, ("inline", "inline")),
        ({"engine": "processes"}, ("processes", "processes")),
        ({"engine": "ray"}, ("ray", "ray")),
        ({"ray": "10.0.0.1:6379"}, ("ray", "ray")),
    ],
)
def test_the_engine_follows_from_the_settings(settings, kinds):
    asked, run = IndexSettings(**settings), Run(Path("run"), RunSettings())
    chosen = [Engine.choose(asked, run, auto) for auto in ("inline", "processes")]
    assert tuple(engine.kind for engine in chosen) == kinds


@pytest.mark.parametrize(
    ("device", "asked", "gpus"),
    [("auto", -1.0, -1.0), ("cuda", -1.0, 1.0), ("cpu", -1.0, 0.0), ("auto", 0.5, 0.5), ("cpu", 0.5, 0.5)],
)  # fmt: skip
def test_a_worker_asks_for_a_gpu_where_the_stage_uses_one(device, asked, gpus):
    run, settings = (
        Run(Path("run"), RunSettings(device=device)),
        IndexSettings(gpus_per_worker=asked),
    )
    assert Engine.choose(settings, run, uses_gpu=True).gpus == gpus
    assert Engine.choose(settings, run).gpus == 0


def test_run_gives_every_stage_that_makes_shards_its_engine(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        pipeline, "make", lambda run, name, settings, **_: asked.update({name: settings})
    )
    run = Run.create(str(tmp_path / "run"), RunSettings())
    whole.make_run(run, controls=False, engine="processes", workers=3)
    made_on = {name: settings and settings.workers for name, settings in asked.items()}
    several = {"capture", "index", "effects", "label", "score"}
    assert {name for name, workers in made_on.items() if workers == 3} == several
    assert {made_on[name] for name in made_on.keys() - several} == {None}
    with pytest.raises(UsageError, match="no setting 'cores'"):
        whole.make_run(run, controls=False, cores=2)

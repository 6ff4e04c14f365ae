"""Make shards on a Ray cluster: actors that each hold a subject and an SAE for many shards.

Nothing here schedules machines: Ray finds room for the actors, and `run_tasks` hands a shard to
an actor that is ready. A machine is checked before its first shard (`core/ray_cluster.py`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import NotReady
from core.progress import say
from core.ray_cluster import Cluster
from core.run import HOME
from core.workers import Engine, Failed, Failures, Setup

POLL = 0.5  # seconds between looks at the cluster
PATIENCE = 60.0  # seconds for which a cluster may have no room for a single worker
STARTS = 3  # actors in a row that may fail before their first shard


def run_tasks(
    prepare: Callable[[], Any],
    make: Callable[[Any, Any], Any],
    items: Sequence[Any],
    engine: Engine,
) -> Iterator[tuple[int, Any]]:
    """Yield (place, make(prepare(), items[place])), as they are finished, in any order.

    A shard whose worker or machine is lost is made again by another; machines that join are used.
    Raises ShardFailed for a shard that fails again and again, UsageError and NotReady for a
    cluster that cannot be used.
    """
    cluster = Cluster.join(engine)
    waiting, failures = deque(range(len(items))), Failures(items)
    crew = Crew(cluster, engine, Setup(prepare, make))
    try:
        while waiting or crew.busy:
            crew.recruit(len(waiting) + len(crew.busy))
            crew.hand_out(waiting, items)
            for place, outcome in crew.collect():
                if isinstance(outcome, Failed):
                    failures.add(place, outcome)
                    waiting.append(place)
                elif isinstance(outcome, Lost):
                    waiting.appendleft(place)
                    if not outcome.with_its_machine:
                        failures.add_death(place, outcome.why)
                else:
                    yield place, outcome
    finally:
        crew.dismiss()


# ---------------------------------------------------------------- the actors


class Worker:
    """The actor: it prepares its state with its first shard, and keeps it."""

    def __init__(self, setup: Setup, folder: str, home: str | None, threads: int):
        os.chdir(folder)  # paths of a run may be relative to where the driver was started
        if home is not None:
            os.environ[HOME] = home
        self.setup = setup
        self.setup.threads = threads

    def ready(self) -> str:
        """The id of the machine that the actor runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def attempt(self, item: Any) -> Any:
        """Make one item; a `Failed` where that raised."""
        return self.setup.attempt(item)


@dataclass(frozen=True)
class Lost:
    """What came of a shard whose worker is gone."""

    why: str
    with_its_machine: bool


@dataclass(eq=False)
class Hand:
    """One actor of a crew."""

    actor: Any
    node: str = ""  # the machine's id, once it is ready


@dataclass
class Crew:
    """The actors of one stage."""

    cluster: Cluster
    engine: Engine
    setup: Setup
    starting: dict[Any, Hand] = field(default_factory=dict)  # by the promise that it is ready
    busy: dict[Any, tuple[Hand, int]] = field(default_factory=dict)  # by the promise of a shard
    idle: list[Hand] = field(default_factory=list)
    failed_starts: int = 0
    since: float = field(default_factory=time.monotonic)  # when an actor was last ready or busy

    def __post_init__(self) -> None:
        send_mapped_arrays_by_path(self.cluster.ray)
        self.sent = self.cluster.ray.put(self.setup)

    @property
    def size(self) -> int:
        return len(self.starting) + len(self.busy) + len(self.idle)

    def recruit(self, most: int) -> None:
        """Start actors: as many as asked for, or as there is room for; at most `most`."""
        cpus = self._cpus()
        gpus = self.cluster.gpus
        room = self.cluster.resource("GPU") / gpus if gpus else self.cluster.resource("CPU") / cpus
        wanted = min(self.engine.workers or int(room), most)
        for _ in range(wanted - self.size):
            kind = self.cluster.ray.remote(Worker).options(
                num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
            )
            actor = kind.remote(self.sent, os.getcwd(), os.environ.get(HOME), cpus)
            self.starting[actor.ready.remote()] = Hand(actor)

    def _cpus(self) -> int:
        """The cores of an actor: its share of the cores of the smallest machine that has any."""
        cores = [int(n["Resources"].get("CPU", 0)) for n in self.cluster.nodes()]
        cores = [n for n in cores if n]
        if not self.engine.workers or not cores:
            return 1
        return max(1, min(cores) // -(-self.engine.workers // len(cores)))

    def hand_out(self, waiting: deque[int], items: Sequence[Any]) -> None:
        """Give a shard to each idle actor."""
        while self.idle and waiting:
            hand, place = self.idle.pop(), waiting.popleft()
            self.busy[hand.actor.attempt.remote(items[place])] = (hand, place)

    def collect(self) -> Iterator[tuple[int, Any]]:
        """Wait a moment, then yield (place, what was made, a Failed or a Lost) of what is done."""
        ray, promises = self.cluster.ray, [*self.starting, *self.busy]
        if not promises:
            time.sleep(POLL)
        else:
            ray.wait(promises, num_returns=1, timeout=POLL)
            promises, _ = ray.wait(promises, num_returns=len(promises), timeout=0)
        for promise in promises:
            if promise in self.starting:
                self._welcome(promise)
            else:
                hand, place = self.busy.pop(promise)
                yield place, self._outcome(promise, hand)
        self._lose_patience()

    def _welcome(self, promise: Any) -> None:
        ray, hand = self.cluster.ray, self.starting.pop(promise)
        try:
            hand.node = ray.get(promise)
        except ray.exceptions.RayError as error:
            self.failed_starts += 1
            if self.failed_starts >= STARTS:
                raise NotReady(
                    f"No worker starts on the cluster: {_one_line(error)}.",
                    "Mend what it names and type the same command again.",
                ) from None
            return
        self.failed_starts = 0
        self.cluster.check(hand.node)
        self.idle.append(hand)

    def _outcome(self, promise: Any, hand: Hand) -> Any:
        ray = self.cluster.ray
        try:
            made = ray.get(promise)
        except ray.exceptions.RayTaskError as error:  # in what is Ray's, not in what makes shards
            made = Failed(None, _one_line(error), str(error))
        except ray.exceptions.RayError as error:
            time.sleep(POLL)  # a lost machine is seen a moment after its workers
            alive = hand.node in {node["NodeID"] for node in self.cluster.nodes()}
            say("a worker was lost" if alive else "a machine was lost; its shards are made again")
            return Lost(f"its worker was lost: {_one_line(error)}", not alive)
        self.idle.append(hand)
        return made

    def _lose_patience(self) -> None:
        """Raise NotReady when the cluster has had no room for a worker for a long time."""
        if self.busy or self.idle:
            self.since = time.monotonic()
        elif time.monotonic() - self.since > PATIENCE:
            asked = f"{self._cpus()} CPU" + (
                f" and {self.cluster.gpus:g} GPU" if self.cluster.gpus else ""
            )
            raise NotReady(
                f"The cluster has had no room for a worker ({asked}) for {PATIENCE:.0f} s.",
                "Add a machine, or ask for less; then type the same command again.",
            )

    def dismiss(self) -> None:
        """End the actors."""
        for hand in [*self.starting.values(), *(h for h, _ in self.busy.values()), *self.idle]:
            with contextlib.suppress(Exception):
                self.cluster.ray.kill(hand.actor)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# ---------------------------------------------------------------- pickling


def send_mapped_arrays_by_path(ray: Any) -> None:
    """Let Ray send an array that is mapped from a file as the file's path."""

    def describe(array: np.memmap) -> Any:
        return locate(array) or np.array(array)

    def restore(said: Any) -> np.ndarray:
        return open_mapped(*said) if isinstance(said, tuple) else np.asarray(said)

    ray.util.register_serializer(np.memmap, serializer=describe, deserializer=restore)


def locate(array: np.memmap) -> tuple[str, str, int, tuple[int, ...]] | None:
    """(path, type, first byte, shape) of an array that is a whole stretch of its file, or None."""
    mapped = array._mmap  # type: ignore[attr-defined]
    if mapped is None or array.filename is None or not array.flags.c_contiguous:
        return None
    begins = int(np.frombuffer(mapped, np.uint8).__array_interface__["data"][0])
    inside = int(array.__array_interface__["data"][0]) - begins
    granularity = mmap.ALLOCATIONGRANULARITY
    first = array.offset - array.offset % granularity + inside
    return str(Path(array.filename).absolute()), array.dtype.str, first, array.shape


def open_mapped(path: str, kind: str, first: int, shape: tuple[int, ...]) -> np.ndarray:
    """The array that `locate` described, mapped again."""
    return np.memmap(path, np.dtype(kind), "r", first, shape)

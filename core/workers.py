"""What workers of every kind share: the engine, the state of a worker, and failures of shards."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ShardFailed, ToolError
from core.run import Run
from core.settings import ParallelSettings

LIMIT = 3  # failures of one shard that end a stage
ANY_GPU = -1.0  # one GPU for each worker where the cluster has any


@dataclass(frozen=True)
class Engine:
    """Where shards are made."""

    kind: str = "inline"  # inline, processes, ray
    workers: int = 0  # 0: one a core, or as many as the cluster has room for
    address: str = ""  # of the Ray cluster's head
    gpus: float = 0.0  # that each worker of a Ray cluster asks for
    folder: Path = Path()  # that every machine of a cluster must see

    @classmethod
    def choose(
        cls,
        settings: ParallelSettings,
        run: Run,
        auto: str = "inline",
        uses_gpu: bool = False,
    ) -> Engine:
        """The engine that the settings of a stage of `run` name.

        `auto` is the engine of a stage whose settings leave it open and name no number of workers.
        `uses_gpu` says whether the stage computes on the run's device.
        """
        kind, several = settings.engine, settings.workers > 1
        if kind == "auto":
            one = "inline" if settings.workers == 1 else auto
            kind = "ray" if settings.ray else "processes" if several else one
        gpus = settings.gpus_per_worker
        if not uses_gpu or gpus < 0 and run.settings.device == "cpu":
            gpus = 0.0
        elif gpus < 0:
            gpus = 1.0 if run.settings.device.startswith("cuda") else ANY_GPU
        return cls(kind, settings.workers, settings.ray, gpus, run.path)

    @property
    def n_processes(self) -> int:
        """The number of processes on this machine; 1 is this process alone."""
        return 1 if self.kind == "inline" else self.workers or os.cpu_count() or 1


INLINE, PROCESSES = Engine(), Engine("processes")


# ---------------------------------------------------------------- in a worker


@dataclass(frozen=True)
class Failed:
    """What came of a shard that raised: the error for people, where it was one, and its text."""

    error: ToolError | None
    text: str  # one line: the kind of the error and what it says
    trace: str  # its traceback

    @classmethod
    def caught(cls, error: Exception) -> Failed:
        """The record of an error that was just caught."""
        text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        known = error if isinstance(error, ToolError) else None
        return cls(known, text, "".join(traceback.format_exception(error)))


@dataclass
class Setup:
    """What a worker needs: how it prepares its state, and how it makes a shard from it."""

    prepare: Callable[[], Any]
    make: Callable[[Any, Any], Any]
    threads: int = 0  # of torch; 0 leaves them as they are
    state: list[Any] = field(default_factory=list)  # of this process, once it is prepared

    def attempt(self, item: Any) -> Any:
        """Make `item`; a Failed where that raised, for not every exception can be pickled."""
        try:
            if not self.state:
                if self.threads:
                    import torch

                    torch.set_num_threads(self.threads)
                self.state.append(self.prepare())
            return self.make(self.state[0], item)
        except Exception as error:
            return Failed.caught(error)


# ---------------------------------------------------------------- in the driver


class Failures:
    """Counts the failures of each item, and raises when one has failed too often."""

    def __init__(self, items: Sequence[Any]):
        self.items, self.counts = items, Counter[int]()

    def add(self, place: int, failed: Failed) -> None:
        """Raise the ToolError that it is, or ShardFailed where the item failed LIMIT times."""
        if failed.error is not None:
            raise failed.error
        self.counts[place] += 1
        if self.counts[place] >= LIMIT:
            item = self.items[place]
            what = f"Part {place}" if isinstance(item, list) else f"Shard {item}"
            error = ShardFailed(
                f"{what} failed {LIMIT} times; the last time: {failed.text}.",
                "Mend what it names and type the same command again; finished shards are kept.",
            )
            error.add_note(failed.trace)
            raise error

    def add_death(self, place: int, how: str) -> None:
        """Count the death of the worker that made an item."""
        self.add(place, Failed(None, how, ""))

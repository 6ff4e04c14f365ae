"""Make every shard of a stage: in this process, or in several.

A shard is made from its own input alone and written under its own name, so the order and the process do not matter. Several processes help
where a stage's work is not all matrix products, which use every core already.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

_state: Any = None  # of this worker process


def each_shard(numbers: Iterable[int], prepare: Callable[[], Any], make: Callable[[Any, int], int], workers: int, advance: Callable[[int], Any]) -> None:
    """Call `make(state, number)` for every number and `advance` with what it returns; `state` is `prepare()`, once a process.

    With several workers, `prepare` and `make` must be picklable, and each process has its share of the cores.
    """
    if workers <= 1:
        state = prepare()
        for number in numbers:
            advance(make(state, number))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (prepare, threads)) as pool:
        waiting = [pool.submit(_make, make, number) for number in numbers]
        try:
            for done in as_completed(waiting):
                advance(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(prepare: Callable[[], Any], threads: int) -> None:
    global _state
    import torch

    torch.set_num_threads(threads)
    _state = prepare()


def _make(make: Callable[[Any, int], int], number: int) -> int:
    return make(_state, number)

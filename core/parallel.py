"""Make every shard of a stage: in this process, or in several.

A shard is made from its own input alone and written under its own name, so the order and the process do not matter. Several processes help
where a stage's work is not all matrix products, which use every core already.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

_state: Any = None  # of this worker process


@contextlib.contextmanager
def own_cores(at_once: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of at most `at_once` threads that share the cores out, so that torch works in each on its own: no thread then waits for another at
    the end of every product, which costs a tenth on two free cores and most of the time on busy ones. What is not begun at the end is dropped."""
    import torch

    cores = torch.get_num_threads()
    at_once = min(at_once, cores)
    pool = ThreadPoolExecutor(
        at_once, initializer=torch.set_num_threads, initargs=(cores // at_once,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # a thread that sets its own share sets it for those to come


def each_shard(
    numbers: Iterable[int],
    prepare: Callable[[], Any],
    make: Callable[[Any, int], int],
    workers: int,
    advance: Callable[[int], Any],
) -> None:
    """Call `make(state, number)` for every number and `advance` with what it returns; `state` is `prepare()`, once a process.

    With several workers, `prepare` and `make` must be picklable, and each process has its share of the cores.
    """
    if workers <= 1:
        state = prepare()
        for number in numbers:
            advance(make(state, number))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin, (prepare, threads)
    ) as pool:
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


_inherited: list[Callable] = []  # of a forked worker


def _inherit(function: Callable) -> None:
    _inherited[:] = [function]


def _call(part):
    return _inherited[0](part)


def in_workers(function: Callable, parts: Iterable, workers: int = 0, chunk: int = 1) -> Iterator:
    """function(part) for each part, in order, `chunk` of them at a time; `workers` processes, 0 for one a core, 1 for none but this.

    The results are pickled on the way back.
    """
    count = workers or os.cpu_count() or 1
    if count <= 1:
        yield from map(function, parts)
        return
    with get_context("fork").Pool(count, _inherit, (function,)) as pool:
        yield from pool.imap(_call, parts, chunk)

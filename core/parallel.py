"""Run work in parallel: threads that share the cores, shards in processes, maps in forks.

A shard is made from its own input alone and written under its own name, so neither the order nor
the process matters. Several processes help a stage that does more than matrix products, because
a matrix product already uses every core.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_state: Any = None  # of this worker process


@contextlib.contextmanager
def share_cores(at_once: int) -> Iterator[ThreadPoolExecutor]:
    """Context manager: a pool of at most `at_once` threads, each with its own cores for torch.

    Threads then do not wait for each other at the end of every product, which costs a tenth of the
    time on two idle cores and most of it on busy ones. At the end of the block, work that has not
    started is cancelled.
    """
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
        torch.set_num_threads(cores)  # torch takes a thread's setting as the default of later ones


def make_shards(
    numbers: Iterable[int],
    prepare: Callable[[], Any],
    make: Callable[[Any, int], int],
    workers: int,
    advance: Callable[[int], Any],
) -> None:
    """Call `advance(make(state, number))` for every number, where `state` is `prepare()`.

    With one worker everything happens in this process. With several, each process calls `prepare`
    once and has its share of the cores; `prepare` and `make` must then be picklable.
    """
    if workers <= 1:
        state = prepare()
        for number in numbers:
            advance(make(state, number))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _prepare_process, (prepare, threads)
    ) as pool:
        futures = [pool.submit(_make_shard, make, number) for number in numbers]
        try:
            for future in as_completed(futures):
                advance(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_process(prepare: Callable[[], Any], threads: int) -> None:
    global _state
    import torch

    torch.set_num_threads(threads)
    _state = prepare()


def _make_shard(make: Callable[[Any, int], int], number: int) -> int:
    return make(_state, number)


_inherited: list[Callable[[Any], Any]] = []  # the function of a forked process


def _inherit(function: Callable[[Any], Any]) -> None:
    _inherited[:] = [function]


def _call(part: Any) -> Any:
    return _inherited[0](part)


def map_in_workers(
    function: Callable[[In], Out], parts: Iterable[In], workers: int = 0, chunk: int = 1
) -> Iterator[Out]:
    """Yield function(part) for each part, in order.

    The work runs in `workers` forked processes: 0 means one a core, 1 means this process alone.
    A process takes `chunk` parts at a time. The results must be picklable.
    """
    count = workers or os.cpu_count() or 1
    if count <= 1:
        yield from map(function, parts)
        return
    with get_context("fork").Pool(count, _inherit, (function,)) as pool:
        yield from pool.imap(_call, parts, chunk)

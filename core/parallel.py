"""Run work in parallel: threads that share the cores; shards and maps here, in processes, on Ray.

A shard is made from its own input alone and written under its own name, so neither the order nor
the process nor the machine matters. Several processes help a stage that does more than matrix
products, because a matrix product already uses every core. `core/ray_workers.py` holds what is
Ray's; the package ray is imported only where a Ray cluster is asked for.

A worker that dies costs the shards that were in flight, and they are made again. A shard that
fails LIMIT times ends the stage. Errors for people (`ToolError`) end it at once.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

from core.ray_workers import run_tasks
from core.workers import PROCESSES, Engine, Failed, Failures, Setup

In = TypeVar("In")
Out = TypeVar("Out")

AHEAD = 2  # shards in work or waiting at each process, so that none is idle between two


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
    engine: Engine,
    advance: Callable[[int], Any],
) -> None:
    """Call `advance(make(state, number))` for every number, where `state` is `prepare()`.

    Inline, everything happens in this process and errors are raised unchanged. Otherwise each
    worker calls `prepare` once and has its share of the threads of torch; `prepare` and `make` must
    then be picklable. The same number of threads gives the same bytes on every engine; with another
    number, products of a few rows may differ in their last bits. Raises ShardFailed for a shard
    that fails LIMIT times.
    """
    numbers = list(numbers)
    if engine.kind == "ray" and numbers:
        for _, made in run_tasks(prepare, make, numbers, engine):
            advance(made)
    elif engine.kind == "processes" and numbers:
        import torch

        workers = engine.n_processes
        setup = Setup(prepare, make, max(1, torch.get_num_threads() // workers))
        for _, made in _in_processes(setup, numbers, workers, "spawn"):
            advance(made)
    elif numbers:
        state = prepare()
        for number in numbers:
            advance(make(state, number))


def map_in_workers(
    function: Callable[[In], Out],
    parts: Iterable[In],
    engine: Engine = PROCESSES,
    chunk: int = 1,
) -> Iterator[Out]:
    """Yield function(part) for each part, in order.

    Processes are forked and inherit the function; a Ray worker gets it pickled, in which arrays
    that are mapped from a file stand as the file's path. A worker takes `chunk` parts at a time.
    The results must be picklable. Raises ShardFailed for parts that fail LIMIT times.
    """
    workers = engine.n_processes
    if engine.kind != "ray" and workers <= 1:
        yield from map(function, parts)
        return
    parts = list(parts)
    chunks = [parts[at : at + chunk] for at in range(0, len(parts), chunk)]
    if engine.kind == "ray":
        made = run_tasks(partial(_give, function), _map_chunk, chunks, engine) if chunks else []
    else:
        made = _in_processes(Setup(lambda: function, _map_chunk), chunks, workers, "fork")
    for outputs in _in_order(made):
        yield from outputs


def _give(function: Callable[[In], Out]) -> Callable[[In], Out]:
    return function


def _map_chunk(function: Callable[[In], Out], chunk: list[In]) -> list[Out]:
    return [function(part) for part in chunk]


def _in_order(made: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """The second entries by their places 0, 1, ..., each as soon as those before it are there."""
    early: dict[int, Any] = {}
    following = 0
    for place, value in made:
        early[place] = value
        while following in early:
            yield early.pop(following)
            following += 1


# ---------------------------------------------------------------- in processes


_here: list[Setup] = []  # of this worker process


def _start_process(setup: Setup) -> None:
    _here[:] = [setup]


def _attempt(item: Any) -> Any:
    return _here[0].attempt(item)


def _in_processes(
    setup: Setup, items: Sequence[Any], workers: int, method: str
) -> Iterator[tuple[int, Any]]:
    """Yield (place, setup.attempt(items[place])), as they are finished, in any order.

    A process that dies takes its pool with it; what the pool had not finished goes to another.
    """
    waiting, failures = deque(range(len(items))), Failures(items)
    while waiting:
        pool = ProcessPoolExecutor(
            min(workers, len(waiting)), get_context(method), _start_process, (setup,)
        )
        running: dict[Future[Any], int] = {}
        try:
            yield from _until_broken(pool, running, waiting, items, failures)
        except BrokenProcessPool:
            lost = [p for f, p in running.items() if isinstance(f.exception(), BrokenProcessPool)]
            for future, place in running.items():
                if place not in lost:
                    yield from _take(future.result(), place, waiting, failures)
            waiting.extendleft(reversed(lost))
            for place in lost[: pool_size(pool)]:  # those that came first were in work
                failures.add_death(place, "its process, or one beside it, was killed")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()


def pool_size(pool: ProcessPoolExecutor) -> int:
    """The number of processes that a pool was made with."""
    return int(pool._max_workers)  # type: ignore[attr-defined]


def _until_broken(
    pool: ProcessPoolExecutor,
    running: dict[Future[Any], int],
    waiting: deque[int],
    items: Sequence[Any],
    failures: Failures,
) -> Iterator[tuple[int, Any]]:
    """Make what is waiting; raises BrokenProcessPool, with the rest still in `running`."""
    while waiting or running:
        while waiting and len(running) < AHEAD * pool_size(pool):
            future = pool.submit(_attempt, items[waiting[0]])
            running[future] = waiting.popleft()
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            made = future.result()
            yield from _take(made, running.pop(future), waiting, failures)


def _take(
    made: Any, place: int, waiting: deque[int], failures: Failures
) -> Iterator[tuple[int, Any]]:
    """Yield (place, what was made); an item that failed waits again."""
    if isinstance(made, Failed):
        failures.add(place, made)
        waiting.append(place)
    else:
        yield place, made

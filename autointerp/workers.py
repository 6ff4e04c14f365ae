"""Map a function over parts in forked processes, which share this one's memory: no copies, no pickled arrays on the way in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context

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

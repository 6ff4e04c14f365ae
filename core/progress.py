"""Show progress on standard error: a bar with rate and time left, and single lines.

Standard output holds nothing but results.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

REDRAW = 1.0  # seconds between two pictures of a bar in a terminal
LINE = 30.0  # seconds between two lines where standard error is no terminal
QUIET = 2.0  # seconds without a bar, after which a terminal is told that work goes on
LEAST_SHARE = 0.05  # of a job's time, before an estimate of the rest is told


class Bar(tqdm):
    """A bar that a clock draws: in a terminal every REDRAW seconds, else a line every LINE.

    It moves even while one step takes many seconds, so a program at work does not look stuck.
    Several threads may call `update`.
    """

    def __init__(self, iterable: Iterable[Any] | None, terminal: bool, **settings: Any):
        self._terminal = terminal
        self._ended = threading.Event()
        _open.add(self)
        _wipe()
        super().__init__(iterable, **settings)
        every = REDRAW if terminal else LINE
        threading.Thread(
            target=_draw_on, args=(weakref.ref(self), self._ended, every), daemon=True
        ).start()

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self.iterable:
                yield item
                self.update(1)
        finally:
            self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more; in a terminal, draw the bar when it was drawn long enough ago."""
        with self.get_lock():
            if self._terminal:
                return super().update(n)
            self.n += n or 0
        return None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write it as a line of its own."""
        if self._terminal:
            super().display(msg, pos)
        elif msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def close(self) -> None:
        """End the bar and its clock."""
        self._ended.set()
        _open.discard(self)
        super().close()


def _draw_on(bar: weakref.ref[Bar], ended: threading.Event, every: float) -> None:
    """Draw the bar every so many seconds until it has ended, or nobody holds it any more."""
    while not ended.wait(every):
        drawn = bar()
        if drawn is None:
            return
        drawn.refresh()
        del drawn


def progress(
    iterable: Iterable[Any] | None = None,
    label: str = "",
    *,
    total: int | None = None,
    unit: str = "it",
) -> Bar:
    """A bar that ends as one line; one inside another disappears.

    When standard error is not a terminal, it is a line every 30 seconds.
    """
    terminal = sys.stderr.isatty()
    return Bar(
        iterable,
        terminal,
        desc=f"{label:9}",
        total=total,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        dynamic_ncols=terminal,
        mininterval=0.5,
        miniters=1,
        delay=0 if terminal else LINE,
        leave=None if terminal else False,
    )


# ---------------------------------------------------------------- where no bar is


_open: weakref.WeakSet[Bar] = weakref.WeakSet()  # the bars that are shown
_shown: list[int] = []  # the length of the line of `working` that stands in the terminal


@contextlib.contextmanager
def working(label: str) -> Iterator[None]:
    """Context manager: shows that work goes on, and how long it has taken, while no bar does.

    In a terminal it is a line that moves every REDRAW seconds, from QUIET seconds on, else a line
    every LINE seconds.
    """
    ended, terminal = threading.Event(), sys.stderr.isatty()
    clock = threading.Thread(target=_tell, args=(label, ended, terminal), daemon=True)
    clock.start()
    try:
        yield
    finally:
        ended.set()
        clock.join()
        _wipe()


def _tell(label: str, ended: threading.Event, terminal: bool) -> None:
    began = still = time.monotonic()
    while not ended.wait(REDRAW if terminal else LINE):
        now = time.monotonic()
        if len(_open):
            still = now
        elif now - still >= QUIET or not terminal:
            line = f"{label:9}: at work for {now - began:.0f} s"
            _wipe()
            with Bar.get_lock():
                print(line, file=sys.stderr, end="" if terminal else "\n", flush=True)
                _shown[:] = [len(line)] if terminal else []


def _wipe() -> None:
    """Take the line of `working` out of the terminal."""
    with Bar.get_lock():
        if _shown:
            print("\r" + " " * _shown.pop() + "\r", file=sys.stderr, end="", flush=True)


# ---------------------------------------------------------------- steps and lines


class Steps:
    """Say which step of a job begins, `[3/9] index`, and about how long the rest will take.

    `shares` maps each step, in order, to the share of the job's time that it is known to take; the
    clock of the steps that are done and their shares tell the rest.
    """

    def __init__(self, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic):
        self.shares, self.clock = dict(shares), clock
        self.began = clock()
        self.done: list[str] = []

    def begin(self, name: str) -> None:
        """Say that step `name` begins."""
        say(f"[{len(self.done) + 1}/{len(self.shares)}] {name}{self._rest()}")
        self.done.append(name)

    def _rest(self) -> str:
        share = sum(self.shares[name] for name in self.done)
        whole = sum(self.shares.values())
        if share < LEAST_SHARE * whole:
            return ""
        seconds = (self.clock() - self.began) * (whole - share) / share
        rest = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"
        return f" (about {rest} left)"


def say(line: str) -> None:
    """Print one line on standard error."""
    _wipe()
    print(line, file=sys.stderr, flush=True)

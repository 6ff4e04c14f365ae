"""Progress on standard error: a bar with rate and time left, and single lines. Standard output is left to results."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(iterable=None, label: str = "", *, total: int | None = None, unit: str = "it"):
    """A tqdm bar that disappears into one line; silent when standard error is not a terminal and the work takes under 5 seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable, desc=f"{label:9}", total=total, unit=unit, unit_scale=True, file=sys.stderr, dynamic_ncols=terminal,
        mininterval=0.5 if terminal else 15, delay=0 if terminal else 5, leave=terminal,
    )  # fmt: skip


def say(line: str) -> None:
    """One line of news on standard error."""
    print(line, file=sys.stderr, flush=True)

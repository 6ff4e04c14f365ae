"""Show progress on standard error: a bar with rate and time left, and single lines.

Standard output holds nothing but results.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(
    iterable: Iterable[Any] | None = None,
    label: str = "",
    *,
    total: int | None = None,
    unit: str = "it",
) -> tqdm[Any]:
    """A tqdm bar that ends as one line.

    When standard error is not a terminal, the bar stays silent for the first 5 seconds and then
    writes a line every 15.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=f"{label:9}",
        total=total,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        dynamic_ncols=terminal,
        mininterval=0.5 if terminal else 15,
        delay=0 if terminal else 5,
        leave=terminal,
    )


def say(line: str) -> None:
    """Print one line on standard error."""
    print(line, file=sys.stderr, flush=True)

"""Return freed memory to the system between stages, which the malloc settings of `main` keep it from doing by itself."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back_memory() -> None:
    """glibc only; elsewhere it collects garbage and nothing more."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

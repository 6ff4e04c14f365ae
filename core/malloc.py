"""glibc's memory: keep large freed blocks while a stage works, and return them between stages."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


def give_back_memory() -> None:
    """glibc only; elsewhere it collects garbage and nothing more."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def environment_for_large_blocks() -> dict[str, str] | None:
    """The environment to start again in, or None where it is already set or glibc is not used.

    Large freed blocks then stay with the process. Otherwise every big activation is mapped and
    page-faulted again, and reading the subject takes up to twice as long. glibc reads these at
    start.
    """
    if sys.platform != "linux" or "MALLOC_TOP_PAD_" in os.environ:
        return None
    return os.environ | MALLOC

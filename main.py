"""The entry: `python main.py VERB ...`, or `brain-surgery VERB ...` once it is installed."""

from __future__ import annotations

import os
import sys

try:
    from figures.cli.app import cli, main
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] in ("core", "autointerp", "figures"):
        raise
    sys.exit(
        "error: This Python has not got the packages that the program needs.\n"
        "Type: make setup && . .venv/bin/activate"
    )

from core.malloc import environment_for_large_blocks

__all__ = ["cli", "main", "start"]


def start() -> None:
    """Run the command line and exit with its code; on Linux start again with glibc's settings
    first.
    """
    asks_for_help = {"-h", "--help", "--version"} & set(sys.argv)
    if (environment := environment_for_large_blocks()) and not asks_for_help:
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    sys.exit(main())


if __name__ == "__main__":
    start()

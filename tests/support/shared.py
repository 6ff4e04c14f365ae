"""Things that tests share are made once, also when several processes run the tests (pytest-xdist)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def build_once(factory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder `name` that `build` fills; the first process makes it, the others wait for it."""
    base = factory.getbasetemp()
    root = base.parent if base.name.startswith("popen-") else base
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            build(folder)
            done.touch()
    return folder

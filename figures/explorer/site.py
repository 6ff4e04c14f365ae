"""Export a run as a static site: the page, and every shard as a file. Works from a web server and by double-click."""

from __future__ import annotations

import shutil
from pathlib import Path

from autointerp.features import Features
from core.errors import UsageError
from core.parallel import in_workers
from core.progress import progress
from figures.explorer.shards import PAGE, Shards

MARK = "data/start.js"  # a folder that holds this one was written by an export, and may be replaced


def export_site(features: Features, folder: Path) -> dict:
    """Write the site to `folder`, whole or not at all; returns its number of files and bytes, and the bytes of the first paint.

    Raises UsageError when the folder holds anything but an earlier export.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise UsageError(
            f"{folder} holds something that is no export.", "Give a new folder, or an empty one."
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(PAGE, partial)
    (partial / "data").mkdir()
    shards = Shards(features)
    names = shards.prepared().names()
    for name, script in zip(
        names,
        progress(in_workers(shards.script, names), "site", total=len(names), unit="shard"),
        strict=True,
    ):
        (partial / "data" / f"{name}.js").write_bytes(script)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "first_paint_bytes": sum(n for name, n in sizes.items() if "/" not in name or name == MARK),
    }

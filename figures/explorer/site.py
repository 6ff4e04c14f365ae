"""Export a run as a static site: works from a web server and by double-click on index.html."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from autointerp.features import Features
from core.errors import UsageError
from core.parallel import map_in_workers
from core.progress import progress
from figures.explorer.runs import Runs
from figures.explorer.shards import PAGE

MARK = "data/start.js"  # a folder with this file was written by an export, and may be replaced


def export_site(
    features: Features, folder: Path, also: Sequence[Features] = (), small: bool = False
) -> dict:
    """Write the site to `folder`, whole or not at all; `also` are other runs in the same page.

    A `small` site has fewer snippets, and is about half as large.

    Returns files and bytes (of all), and first_paint_bytes (what the page loads before it shows
    anything). Raises UsageError when the folder holds anything but an earlier export.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise UsageError(
            f"{folder} holds something that no export wrote.", "Give a new folder, or an empty one."
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(PAGE, partial)
    (partial / "data").mkdir()
    shards = Runs([features, *also], small=small)
    shards.prepare()
    names = shards.names()
    made = map_in_workers(shards.script, names)
    scripts = progress(made, "site", total=len(names), unit="shard")
    for name, script in zip(names, scripts, strict=True):
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

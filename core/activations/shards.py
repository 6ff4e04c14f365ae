"""Make the activation shards of a capture: read rows through the subject and write them to disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.activations.layout import shard_path
from core.activations.passes import Reader, TextRows, read_activations
from core.activations.store import write_shard
from core.files import read_json, write_json
from core.parallel import make_shards
from core.progress import progress, say
from core.records import Site
from core.run import Run
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.workers import Engine

BATCH_SIZE = ".batch.json"  # keeps the measured batch size while the capture is partial
DTYPE = ".dtype.json"  # keeps the type of the subject's weights, likewise


def shard_rows(offsets: np.ndarray, shard_tokens: int) -> list[tuple[int, int]]:
    """(first row, row past the last) of each shard; `offsets` (R + 1,) are those of the rows.

    A shard ends with the row that brings it to `shard_tokens`.
    """
    shards, start = [], 0
    while start < len(offsets) - 1:
        end = int(np.searchsorted(offsets, offsets[start] + shard_tokens, side="left"))
        end = min(max(end, start + 1), len(offsets) - 1)
        shards.append((start, end))
        start = end
    return shards


def measure_batch_size(folder: Path, subject: Subject, sites: list[Site], rows: TextRows) -> int:
    """Measure the fastest batch size (in tokens) once and remember it in the partial folder.

    A resumed capture then uses the same one: in bfloat16 the batch size shows in the last bits.
    """
    kept = folder / BATCH_SIZE
    if kept.exists():
        return int(read_json(kept)["batch_tokens"])
    sizes = (8192, 32_768, 131_072) if subject.device.type == "cuda" else (1024, 2048, 4096, 8192)
    sample = np.arange(max(1, int(np.searchsorted(rows.offsets, sizes[-1])) - 1))
    seconds: dict[int, float] = {}
    for size in (sizes[0], *sizes):  # the first one twice: it also warms up
        start = time.perf_counter()
        read_activations(subject, sites, rows, sample, size)
        seconds[size] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)
    write_json(kept, {"batch_tokens": best, "seconds": seconds})
    n = rows.offsets[sample[-1] + 1]
    speeds = ", ".join(f"{size}: {n / s:,.0f} tok/s" for size, s in seconds.items())
    say(f"{best} tokens a pass: {speeds}")
    return best


class ShardMaker:
    """Reads shards at every site and writes the files that are missing. A context manager."""

    def __init__(
        self,
        run: Path,
        folders: list[Path],
        sites: list[Site],
        shards: list[tuple[int, int]],
        batch_tokens: int,
        subject: Subject | None = None,
    ):
        subject = subject or load_subject(Run.open(str(run)), read_dtype(folders))
        rows = TextRows.open(folders[0], subject.bos)
        self.reader = Reader(subject, sites, rows, batch_tokens)
        self.folders, self.sites, self.shards, self.offsets = folders, sites, shards, rows.offsets
        self.advance: Callable[[int], Any] = int  # called with the number of tokens of each pass

    def __enter__(self) -> ShardMaker:
        self.reader.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.reader.__exit__(*raised)

    def start(self, number: int) -> Callable[[], list[Callable[[], None]]]:
        """Start reading shard `number`.

        Returns a function that waits for the read and returns one write job per missing file.
        """
        missing = [
            (folder, site)
            for folder, site in zip(self.folders, self.sites, strict=True)
            if not shard_path(folder, number).exists()
        ]
        if not missing:
            self.advance(self.n_tokens(number))
            return list
        rows = np.arange(*self.shards[number])
        wait = self.reader.start(rows, [site for _, site in missing], self.advance)

        def list_jobs() -> list[Callable[[], None]]:
            return [
                partial(write_shard, folder, number, activations)
                for (folder, _), activations in zip(missing, wait(), strict=True)
            ]

        return list_jobs

    def n_tokens(self, number: int) -> int:
        """The number of tokens in shard `number`."""
        start, end = self.shards[number]
        return int(self.offsets[end] - self.offsets[start])

    def make(self, number: int) -> int:
        """Make shard `number`; returns the number of its tokens."""
        with self:
            for write in self.start(number)():
                write()
        return self.n_tokens(number)


def read_dtype(folders: list[Path]) -> str:
    """The type that `keep_dtype` kept when the captures in `folders` were begun, or ""."""
    kept = [folder / DTYPE for folder in folders if (folder / DTYPE).exists()]
    return str(read_json(kept[0])["dtype"]) if kept else ""


def keep_dtype(folders: list[Path], dtype: str) -> None:
    """Keep the type of the subject's weights while the captures in `folders` are partial.

    A resumed capture and its other processes then use the same one.
    """
    for folder in folders:
        write_json(folder / DTYPE, {"dtype": dtype})


def forget_choices(folder: Path) -> None:
    """Remove what `measure_batch_size` and `keep_dtype` kept in `folder`."""
    for name in (BATCH_SIZE, DTYPE):
        (folder / name).unlink(missing_ok=True)


def capture_shards(
    maker: Callable[..., ShardMaker], subject: Subject, n_shards: int, n_tokens: int, engine: Engine
) -> None:
    """Make every shard where `engine` says.

    In this process three things happen at once: one shard is written, one is read, and the passes
    of the next are submitted.
    """
    with progress(total=n_tokens, label="capture", unit="tok") as bar:
        if engine.kind != "inline":
            make_shards(range(n_shards), maker, ShardMaker.make, engine, bar.update)
            return
        with maker(subject=subject) as one, ThreadPoolExecutor(1) as writer:
            one.advance = bar.update
            writing: list[Future[None]] = []
            reading = one.start(0)
            for number in range(n_shards):
                following = one.start(number + 1) if number + 1 < n_shards else list
                jobs, reading = reading(), following
                for write in writing:  # no more than one shard waits to be written
                    write.result()
                writing = [writer.submit(job) for job in jobs]
            for write in writing:
                write.result()

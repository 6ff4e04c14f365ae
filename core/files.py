"""Whole-file writes: flushed, then renamed, so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def replacing(path: Path):
    """A temporary path beside `path` that takes its name when the block ends well, and is removed when it raises."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSONL file; a last line that was cut off is passed over."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def write_array(path: Path, array: np.ndarray) -> None:
    """An .npy file; never holds Python objects, so it can be read without unpickling."""
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_array(path: Path, mapped: bool = True) -> np.ndarray:
    """The array in an .npy file, memory-mapped read-only unless `mapped` is False or it is under 4 kB (an empty file cannot be mapped)."""
    return np.load(
        path, mmap_mode="r" if mapped and path.stat().st_size > 4096 else None, allow_pickle=False
    )


def write_tensors(path: Path, tensors: dict, header: dict[str, str]) -> None:
    """A .safetensors file; a full disk is the OSError that it is everywhere else."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata=header,
            )
        except SafetensorError as error:
            if "os error 28" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def write_table(path: Path, frame) -> None:
    """A Parquet file of a pandas frame, without its index."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_hash(value) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    ).hexdigest()

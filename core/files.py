"""Read and write whole files: a file is flushed and then renamed, so no reader sees half of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MAPPED_BYTES = 4096  # smaller arrays are read into memory; an empty file cannot be mapped


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Context manager: yields a temporary path beside `path`, which replaces `path` at the end.

    When the block raises, the temporary file is removed and `path` stays as it was.
    """
    # Two machines may give one shard to two processes of the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; raises ValueError for NaN and infinity."""
    with replace_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; an incomplete last line is ignored."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file. It never holds Python objects, so it can be read without unpickling."""
    with replace_file(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


@contextlib.contextmanager
def create_array(path: Path, length: int, dtype: type) -> Iterator[np.ndarray]:
    """Context manager: yields zeros (length,) to fill, memory-mapped; then the file is there."""
    with replace_file(path) as temporary:
        if not length:
            with open(temporary, "wb") as handle:
                np.save(handle, np.zeros(0, dtype), allow_pickle=False)
            yield np.zeros(0, dtype)
            return
        array = np.lib.format.open_memmap(temporary, "w+", dtype, (length,))
        yield array
        array.flush()


class ArrayWriter:
    """Writes an .npy file (n,) piece by piece. A context manager: the file is there at its end.

    When the block raises there is none.
    """

    def __init__(self, path: Path, dtype: type[np.generic]):
        self.path, self.dtype, self.length = path, np.dtype(dtype), 0

    def __enter__(self) -> ArrayWriter:
        self._replacing = replace_file(self.path)
        self._file: IO[bytes] = open(self._replacing.__enter__(), "wb")  # noqa: SIM115
        self._write_header()
        return self

    def append(self, values: npt.ArrayLike) -> None:
        """Write values (m,) at the end."""
        array = np.ascontiguousarray(values, self.dtype)
        self._file.write(array.data)
        self.length += len(array)

    def __exit__(self, *raised: Any) -> None:
        self._file.seek(0)
        self._write_header()  # as long as the first: numpy leaves room for any length
        self._file.close()
        self._replacing.__exit__(*raised)

    def _write_header(self) -> None:
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, about)


def read_array(path: Path, mapped: bool = True) -> np.ndarray:
    """The array in an .npy file.

    It is memory-mapped and read-only, unless `mapped` is False or the file is under 4 kB.
    """
    mapped = mapped and path.stat().st_size > MAPPED_BYTES
    array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return array


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write a .safetensors file. A full disk raises OSError, as every other writer here does."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replace_file(path) as temporary:
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


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a pandas frame as a Parquet file, without its index."""
    with replace_file(path) as temporary:
        frame.to_parquet(temporary, index=False)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_hash(value: Any) -> str:
    """The SHA-256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    ).hexdigest()

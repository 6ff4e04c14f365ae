"""Keep documents, and hashes with numbers, in temporary files: their number is not bound by memory.

The files have no name, so a process that is killed leaves none behind.
"""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from core.text.forms import Document, text_hash

HELD = 32_000_000  # bytes of documents that stay in memory
CHUNK = 500_000  # hashes that are sorted before they are written
PART = 1_000_000  # hashes of a part that is read back at once, about
RECORD = np.dtype([("hash", "<u8"), ("number", "<u4")])  # 12 bytes


class DocumentSpool:
    """Documents in a temporary file of `folder`, read in the order of their reversed text hashes.

    Documents of one hash come in the order of their names. It takes 40 bytes of memory a document.
    """

    def __init__(self, folder: Path | None = None):
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            HELD, dir=str(folder) if folder else None
        )
        weakref.finalize(self, self._file.close)
        self._keys = bytearray()
        self._offsets = array("q", [0])
        self._order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, document: Document) -> None:
        """Append one document, which has no spans yet."""
        record = [document.name, document.text, document.turns, document.unread]
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
        self._file.seek(self._offsets[-1])
        self._file.write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        self._keys += bytes.fromhex(text_hash(document.text)[::-1])
        self._order = None

    def __iter__(self) -> Iterator[Document]:
        if self._order is None:
            self._order = self._sort()
        for place in self._order.tolist():
            name, text, turns, unread = self._read(place)
            yield Document(name, text, tuple((role, said) for role, said in turns), unread=unread)

    def _read(self, place: int) -> Any:
        self._file.seek(self._offsets[place])
        line = self._file.read(self._offsets[place + 1] - self._offsets[place])
        return json.loads(line.decode("utf-8", errors="surrogatepass"))

    def _sort(self) -> np.ndarray:
        keys = np.frombuffer(bytes(self._keys), ">u8").reshape(-1, 4)
        order = np.lexsort(keys.T[::-1])
        ordered = keys[order]
        same = (ordered[1:] == ordered[:-1]).all(1)
        for start in np.flatnonzero(same & ~np.r_[False, same[:-1]]).tolist():
            end = start + 1
            while end <= len(same) and same[end - 1]:
                end += 1
            order[start:end] = sorted(order[start:end].tolist(), key=lambda i: self._read(i)[0])
        return order


class HashSpool:
    """Hashes uint64, each with a number uint32, in a temporary file of `folder`: 12 bytes each.

    They are read back in parts. A part holds all hashes in one range of values, so whatever is
    asked of equal hashes is asked of one part, and about PART of the `total`.
    """

    def __init__(self, total: int, folder: Path | None = None):
        self.n_parts = max(1, -(-total // PART))
        self._edges = np.array(
            [2**64 * part // self.n_parts for part in range(1, self.n_parts)], np.uint64
        )
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._held: list[np.ndarray] = []
        self._n_held = 0
        self._bounds: list[np.ndarray] = []  # (n_parts + 1,) of each chunk, in records of the file
        self._written = 0

    def add(self, hashes: np.ndarray, numbers: np.ndarray | int) -> None:
        """Append hashes with a number each, or one for all of them."""
        if not len(hashes):
            return
        records = np.empty(len(hashes), RECORD)
        records["hash"], records["number"] = hashes, numbers
        self._held.append(records)
        self._n_held += len(records)
        if self._n_held >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        records = np.concatenate(self._held)
        self._held, self._n_held = [], 0
        records = records[np.argsort(records["hash"], kind="stable")]
        inner = np.searchsorted(records["hash"], self._edges)
        self._bounds.append(self._written + np.r_[0, inner, len(records)])
        self._file.seek(self._written * RECORD.itemsize)
        self._file.write(records.data)
        self._written += len(records)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (hashes ascending, numbers) of each part; equal hashes in the order of `add`."""
        self._flush()
        for part in range(self.n_parts):
            slices = [np.zeros(0, RECORD)]
            for bounds in self._bounds:
                self._file.seek(int(bounds[part]) * RECORD.itemsize)
                size = int(bounds[part + 1] - bounds[part]) * RECORD.itemsize
                slices.append(np.frombuffer(self._file.read(size), RECORD))
            records = np.concatenate(slices)
            hashes = np.ascontiguousarray(records["hash"])
            order = np.argsort(hashes, kind="stable")
            yield hashes[order], records["number"][order]


class Ragged(Sequence[np.ndarray]):
    """Arrays that lie one behind another in `values`, the i-th from offsets[i] to offsets[i + 1].

    With memory-mapped values only the one that is looked at is in memory.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray):
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, place: slice) -> list[np.ndarray]: ...
    def __getitem__(self, place: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return np.asarray(self.values[int(self.offsets[place]) : int(self.offsets[place + 1])])

"""Write the tables of a capture document by document: its tokens, its rows and its text.

What is held in memory is one document, and a name and a hash of each, so the text may be larger
than memory.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from core.activations.tokenize import Encoded
from core.files import ArrayWriter, read_array, replace_file
from core.text.documents import text_hash
from core.text.spools import Ragged
from core.text.tokens import TEXT

ARRAYS: dict[str, type[np.generic]] = {
    "starts": np.uint32,
    "ends": np.uint32,
    "counted": np.bool_,
    "row_offsets": np.int64,
    "row_document": np.int64,
    "document_offsets": np.int64,
    "first": np.int64,
    "text_offsets": np.int64,
}  # as `core.text.tokens` describes them, and `ids`
FIRST_LEFT_OUT = "first tokens of rows (no BOS)"
DIGITS = 12  # of a text hash, which decide a document's split


class Tables:
    """The tables of a capture in `folder`: what was written, and arrays of it, memory-mapped."""

    def __init__(self, folder: Path, n_vocabulary: int):
        self.folder = folder
        self.ids_type = np.uint16 if n_vocabulary <= 2**16 else np.uint32
        self.names: list[str] = []
        self.hashes: list[str] = []  # the first DIGITS of each text's
        self.tokens = self.read = self.counted = self.characters = 0  # `read` with those left out
        self._compared: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._compared.close)
        self._compared_offsets: list[int] = [0]

    def __getitem__(self, name: str) -> np.ndarray:
        return read_array(self.folder / f"{name}.npy")

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> number of tokens that no row keeps."""
        return {FIRST_LEFT_OUT: self.read - self.tokens} if self.read > self.tokens else {}

    def compared(self) -> Ragged:
        """Of each document the tokens by which near duplicates are found."""
        n = self._compared_offsets[-1]
        self._compared.flush()
        ids = np.zeros(0, np.uint32)
        if n:
            ids = np.memmap(self._compared, np.uint32, "r", shape=(n,))
        return Ragged(ids, np.array(self._compared_offsets))

    def note(self, document: Encoded, kept: np.ndarray) -> None:
        """Keep what the arrays do not say of a document whose tokens `kept` (n,) are in rows."""
        compared = document.ids[document.compared].astype(np.uint32)
        self._compared.write(compared.data)
        self._compared_offsets.append(self._compared_offsets[-1] + len(compared))
        self.names.append(document.name)
        self.hashes.append(text_hash(document.text)[:DIGITS])
        self.read += len(document.ids)
        self.tokens += int(kept.sum())
        self.counted += int(document.counted[kept].sum())
        self.characters += len(document.text)


def write_tables(
    folder: Path, documents: Iterable[Encoded], context: int, has_bos: bool, n_vocabulary: int
) -> Tables:
    """Cut documents into rows of `context` tokens and write their arrays and text into `folder`.

    The array `first` (R,) holds the id of the token in front of each row, -1 where that is BOS.
    Without a BOS the first token of every row is left out.
    """
    size = context - 1 if has_bos else context
    tables = Tables(folder, n_vocabulary)
    with contextlib.ExitStack() as stack:
        to = {
            name: stack.enter_context(ArrayWriter(folder / f"{name}.npy", kind))
            for name, kind in {"ids": tables.ids_type, **ARRAYS}.items()
        }
        text = stack.enter_context(open(stack.enter_context(replace_file(folder / TEXT)), "wb"))
        for name in ("row_offsets", "document_offsets", "text_offsets"):
            to[name].append([0])
        for number, document in enumerate(documents):
            begins = np.arange(0, len(document.ids), size)
            kept = np.ones(len(document.ids), bool)
            kept[begins] = has_bos
            lengths = np.add.reduceat(kept, begins, dtype=np.int64)
            begins, lengths = begins[lengths > 0], lengths[lengths > 0]
            to["row_offsets"].append(tables.tokens + np.cumsum(lengths))
            to["row_document"].append(np.full(len(lengths), number))
            to["first"].append(np.full(len(begins), -1) if has_bos else document.ids[begins])
            for name in ("ids", "starts", "ends", "counted"):
                to[name].append(getattr(document, name)[kept])
            tables.note(document, kept)
            to["document_offsets"].append([tables.tokens])
            text.write(document.text.encode("utf-8", errors="surrogatepass"))
            to["text_offsets"].append([text.tell()])
    return tables


def copy_files(folder: Path, names: Iterable[str], others: Iterable[Path]) -> None:
    """Copy files of `folder` to other folders."""
    for other in others:
        for name in names:
            with replace_file(other / name) as temporary:
                shutil.copyfile(folder / name, temporary)

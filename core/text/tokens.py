"""The tokens that a capture keeps: their ids, text, rows, documents and splits, memory-mapped."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from core.errors import UsageError
from core.records import SPLITS
from core.text.word_tree import read_fields


def sample_tokens(tokens: Tokens, split: str, max_tokens: int, seed: int) -> np.ndarray:
    """Ordinals int64, ascending, of whole documents of a split, drawn until `max_tokens` are reached; the last one is cut there."""
    documents = np.flatnonzero(tokens.split == SPLITS.index(split))
    order = np.random.default_rng(seed).permutation(documents)
    begins, ends = (
        tokens.document_offsets[order].astype(np.int64),
        tokens.document_offsets[order + 1].astype(np.int64),
    )
    room = np.maximum(max_tokens - (np.cumsum(ends - begins) - (ends - begins)), 0)
    parts = [np.arange(a, min(b, a + r)) for a, b, r in zip(begins, ends, room, strict=True)]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


class Tokens:
    """What a capture keeps of its text, memory-mapped: tokens, offsets, rows, documents.

    `ids` (n,) token ids; `starts`, `ends` (n,) character offsets in the document; `row_offsets` (R + 1,) ordinals at which rows
    begin; `row_document` (R,); `document_offsets` (documents + 1,) ordinals; `split` (documents,) index into SPLITS; `counted` (n,)
    bool: whether its firings are looked at; `copied` (n,) bool: left out of scores; `vocabulary` (V,) text of each token.
    """

    ARRAYS = (
        "ids",
        "starts",
        "ends",
        "row_offsets",
        "row_document",
        "document_offsets",
        "split",
        "counted",
        "copied",
        "text_offsets",
    )

    def __init__(self, folder: Path):
        from core.files import read_array, read_json

        self.folder = folder
        for name in self.ARRAYS:
            setattr(self, name, read_array(folder / f"{name}.npy"))
        self.names: list[str] = read_json(folder / "documents.json")
        self.vocabulary: list[str] = read_json(folder / "vocabulary.json")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fields(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(token ids (m,), spans (m - 1, 2)) of the tree over words, see `core.fields`; None in a capture without one."""
        return read_fields(self.folder)

    def document_of(self, ordinals: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.document_offsets, ordinals, side="right") - 1

    def locate(self, ordinal: int) -> tuple[int, int]:
        """(document, position) of an ordinal."""
        document = int(self.document_of(np.asarray([ordinal]))[0])
        return document, int(ordinal - self.document_offsets[document])

    def ordinal(self, document: int, position: int) -> int:
        """The ordinal of a position; raises UsageError when the document has no such token."""
        if not 0 <= document < len(self.names):
            raise UsageError(
                f"There is no document {document}.",
                f"There are documents 0 to {len(self.names) - 1}.",
            )
        length = int(self.document_offsets[document + 1] - self.document_offsets[document])
        if not 0 <= position < length:
            raise UsageError(
                f"Document {document} has no position {position}.",
                f"It has positions 0 to {length - 1}.",
            )
        return int(self.document_offsets[document]) + position

    def text(self, document: int) -> str:
        """The source text of a document, exactly as it was read."""
        start, end = int(self.text_offsets[document]), int(self.text_offsets[document + 1])
        with open(self.folder / "text.txt", "rb") as handle:
            handle.seek(start)
            return handle.read(end - start).decode("utf-8", errors="surrogatepass")

    def in_split(self, name: str) -> np.ndarray:
        """bool (n,): the token belongs to a document of split `name`, and counts."""
        return (
            np.repeat(self.split == SPLITS.index(name), np.diff(self.document_offsets))
            & self.counted
        )

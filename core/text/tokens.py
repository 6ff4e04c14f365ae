"""Name, write and read the files that a capture keeps of its text: tokens, rows, documents, splits.

    NAME.npy          the arrays of `Tokens`, and two that it does not read: `first` (see
                      `read_rows`) and `group`, the near-duplicate group of each document
    documents.json    the name of each document
    vocabulary.json   the text of each token of the subject's vocabulary
    respelled.npy     ordinals of the tokens whose text in their document is another: parts of a
                      character, and what the tokenizer's normaliser changed; absent for none
    text.txt          the text of all documents in order, cut at `text_offsets` (bytes)

`core/text/word_tree.py` names the files of the tree over words, `core/activations/layout.py` the
files of the activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from core.errors import UsageError
from core.files import read_array, read_json
from core.records import SPLITS
from core.text.word_tree import read_word_tree

DOCUMENTS, VOCABULARY, TEXT = "documents.json", "vocabulary.json", "text.txt"
RESPELLED = "respelled.npy"
PIECE = 1_000_000  # tokens of a mapped array that are looked at at once


class Tokens:
    """What a capture keeps of its text, memory-mapped."""

    ids: np.ndarray  # (n,) token ids
    starts: np.ndarray  # (n,) character offset in the document at which the token starts
    ends: np.ndarray  # (n,) character offset at which it ends
    row_offsets: np.ndarray  # (R + 1,) ordinals at which rows begin
    row_document: np.ndarray  # (R,) the document of each row
    document_offsets: np.ndarray  # (documents + 1,) ordinals at which documents begin
    split: np.ndarray  # (documents,) index into SPLITS
    counted: np.ndarray  # (n,) bool: firings on the token are analysed
    copied: np.ndarray  # (n,) bool: scores leave the token out
    text_offsets: np.ndarray  # (documents + 1,) bytes of text.txt at which documents begin
    names: list[str]  # of the documents
    vocabulary: list[str]  # (V,) the text of each token
    respelled: np.ndarray  # (m,) ordinals, ascending

    def __init__(self, folder: Path):
        self.folder = folder
        self.ids = read_array(folder / "ids.npy")
        self.starts = read_array(folder / "starts.npy")
        self.ends = read_array(folder / "ends.npy")
        self.row_offsets = read_array(folder / "row_offsets.npy")
        self.row_document = read_array(folder / "row_document.npy")
        self.document_offsets = read_array(folder / "document_offsets.npy")
        self.split = read_array(folder / "split.npy")
        self.counted = read_array(folder / "counted.npy")
        self.copied = read_array(folder / "copied.npy")
        self.text_offsets = read_array(folder / "text_offsets.npy")
        self.names = read_json(folder / DOCUMENTS)
        self.vocabulary = read_json(folder / VOCABULARY)
        known = (folder / RESPELLED).exists()
        self.respelled = read_array(folder / RESPELLED) if known else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def word_tree(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(token ids (m,), spans (m - 1, 2)) of the tree over words, see `core.text.word_tree`.

        None for a capture without one.
        """
        return read_word_tree(self.folder)

    def document_of(self, ordinals: np.ndarray) -> np.ndarray:
        """The document (len(ordinals),) of each ordinal."""
        return np.asarray(np.searchsorted(self.document_offsets, ordinals, side="right") - 1)

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
        return read_text(self.folder, self.text_offsets, document)

    def spell(self, start: int, end: int) -> tuple[str, ...]:
        """The text in its document of each token from ordinal `start` to `end`.

        Joined, they are that stretch of the document (or documents). Where several tokens make up
        one character, the first of them has it and the others are empty.
        """
        first, past = np.searchsorted(self.respelled, (start, end))
        if first == past:
            return tuple([self.vocabulary[i] for i in self.ids[start:end]])
        one, last = self.document_of(np.array([start, end - 1])).tolist()
        out: list[str] = []
        for document in range(one, last + 1):
            begin = max(start, int(self.document_offsets[document]))
            stop = min(end, int(self.document_offsets[document + 1]))
            out += cut(self.text(document), self.starts[begin:stop], self.ends[begin:stop])
        return tuple(out)

    def spell_each(self, start: int, end: int) -> tuple[str, ...]:
        """As `spell`, for lists of single tokens: none is empty.

        A later part of a character is told by its bytes, such as `<0x9B>`.
        """
        texts = self.spell(start, end)
        if "" not in texts:
            return texts
        ids = self.ids[start:end]
        return tuple(text or self.vocabulary[i] for text, i in zip(texts, ids, strict=True))

    def in_split(self, name: str) -> np.ndarray:
        """bool (n,): the token belongs to a document of split `name` and is counted."""
        inside = np.repeat(self.split == SPLITS.index(name), np.diff(self.document_offsets))
        return np.asarray(inside & self.counted)


def find_shown(texts: Sequence[str], place: int) -> int:
    """The place of the token that shows the character of which token `place` is a part."""
    while place and not texts[place]:
        place -= 1
    return place


def cut(text: str, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """The characters of each token (n,), none of them twice."""
    out: list[str] = []
    said = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        out.append(text[max(start, said) : end])
        said = max(said, end)
    return out


def find_respelled(
    text: str, starts: np.ndarray, ends: np.ndarray, ids: np.ndarray, vocabulary: list[str]
) -> np.ndarray:
    """The places of the tokens (n,) of a document whose text in it is not that of the vocabulary.

    `starts`, `ends` and `ids` (n,) are those of its tokens.
    """
    shown = cut(text, starts, ends)
    found = [
        place
        for place, (own, i) in enumerate(zip(shown, ids.tolist(), strict=True))
        if own != vocabulary[i]
    ]
    return np.array(found, np.int64)


def sample_tokens(tokens: Tokens, split: str, max_tokens: int, seed: int) -> np.ndarray:
    """Draw whole documents of a split at random until they have `max_tokens` tokens.

    Returns their ordinals int64, ascending. The last document drawn is cut at the limit.
    """
    documents = np.flatnonzero(tokens.split == SPLITS.index(split))
    order = np.random.default_rng(seed).permutation(documents)
    begins = tokens.document_offsets[order].astype(np.int64)
    ends = tokens.document_offsets[order + 1].astype(np.int64)
    room = np.maximum(max_tokens - (np.cumsum(ends - begins) - (ends - begins)), 0)
    parts = [np.arange(a, min(b, a + r)) for a, b, r in zip(begins, ends, room, strict=True)]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def read_rows(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a capture, committed or not: (ids (n,), row_offsets (R + 1,), first (R,)).

    `first` is the id of the token in front of each row, or -1 where that is BOS.
    """
    ids, offsets, first = (
        np.asarray(read_array(folder / f"{name}.npy")) for name in ("ids", "row_offsets", "first")
    )
    return ids, offsets, first


def read_text(folder: Path, offsets: np.ndarray, document: int) -> str:
    """The text of a document; `offsets` are the `text_offsets` of the capture in `folder`."""
    start, end = int(offsets[document]), int(offsets[document + 1])
    with open(folder / TEXT, "rb") as handle:
        handle.seek(start)
        return handle.read(end - start).decode("utf-8", errors="surrogatepass")


def count_tokens(ids: np.ndarray, n_vocabulary: int) -> np.ndarray:
    """How often each token of the vocabulary (V,) stands in ids (n,), which may be mapped."""
    counts = np.zeros(n_vocabulary, np.int64)
    for start in range(0, len(ids), PIECE):
        counts += np.bincount(ids[start : start + PIECE], minlength=n_vocabulary)
    return counts

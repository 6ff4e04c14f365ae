"""Cluster words by the subject's input embeddings: a tree over words, written once by `capture`.

A node of the tree is a word family: the words below it. A label names a family by some of its
words and means the smallest node that holds them all. The tree is made by Ward's method (1963) on
unit vectors, centred on their mean. It covers the most frequent words only, in at most DIMENSIONS
principal directions, because it needs every pair. A word is the text of a token without leading
spaces, so `self` with and without a space are one word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.files import read_array, write_array

MAX_WORDS, DIMENSIONS = 8192, 256
LEAVES, SPANS = "field_leaves.npy", "field_spans.npy"


def lexeme(text: str) -> str:
    """`text` without leading spaces; a token of white space is its own lexeme."""
    return text if text.isspace() else text.lstrip(" ")


def word_tree(
    texts: list[str], counts: np.ndarray, embeddings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tree over the words of some tokens: (leaves (m,), spans (m - 1, 2)).

    The arguments are the tokens' texts, how often each stands in the corpus (V,) and their
    embeddings (V, D). `leaves` holds the most frequent token of each word, in the order of the
    tree. `spans` holds, for each inner node, the first leaf below it and the one past the last.
    """
    names: dict[str, int] = {}
    words = np.array([names.setdefault(lexeme(text), len(names)) for text in texts], np.int64)
    commonest = (
        np.lexsort((-counts, words))[np.r_[0, np.cumsum(np.bincount(words))[:-1]].astype(np.int64)]
        if len(words)
        else words
    )
    frequent = np.argsort(-np.bincount(words, counts), kind="stable")[:MAX_WORDS]
    if len(frequent) < 2:
        return commonest, np.zeros((0, 2), np.int64)
    leaves, spans = tree(_word_vectors(embeddings, words, counts, len(names))[frequent])
    return commonest[frequent][leaves], spans


def _word_vectors(
    rows: np.ndarray, words: np.ndarray, counts: np.ndarray, n_words: int
) -> np.ndarray:
    """Unit vectors (n_words, d): sums of the tokens' centred unit rows, weighted by root counts."""
    rows = _unit(rows - rows.mean(0))
    summed = np.zeros((n_words, rows.shape[1]), np.float32)
    np.add.at(summed, words, rows * np.sqrt(counts)[:, None].astype(np.float32))
    summed = _unit(summed)
    if summed.shape[1] > DIMENSIONS:
        summed = _unit(summed @ np.linalg.eigh(summed.T @ summed)[1][:, -DIMENSIONS:])
    return summed


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def tree(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ward's tree over the rows of `vectors` (m, d): (leaves (m,), spans (m - 1, 2)).

    `leaves` holds the rows in the order of the tree; `spans` is as in `word_tree`.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    joined = linkage(distances(vectors), "ward")
    m = len(vectors)
    leaves = leaves_list(joined)
    begins, ends = np.zeros(2 * m - 1, np.int64), np.zeros(2 * m - 1, np.int64)
    begins[leaves] = np.arange(m)
    ends[:m] = begins[:m] + 1
    for node, (a, b) in enumerate(joined[:, :2].astype(np.int64), m):
        begins[node], ends[node] = min(begins[a], begins[b]), max(ends[a], ends[b])
    return leaves, np.stack([begins[m:], ends[m:]], axis=1)


def distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances (m (m - 1) / 2,) of all pairs of rows, in the order of scipy's `pdist`.

    It makes one matrix product and then works row by row, each of which stays in the cache; that
    is several times as fast as `pdist`.
    """
    x, at = vectors.astype(np.float64), 0
    squares, products = np.einsum("ij,ij->i", x, x), x @ x.T
    out = np.empty(len(x) * (len(x) - 1) // 2)
    for row in range(len(x) - 1):
        part = out[at : at + len(x) - 1 - row]
        np.multiply(products[row, row + 1 :], -2, out=part)
        part += squares[row + 1 :]
        part += squares[row]
        np.maximum(part, 0, out=part)
        np.sqrt(part, out=part)
        at += len(part)
    return out


# ---------------------------------------------------------------- files


def write_word_tree(
    folder: Path, ids: np.ndarray, leaves_and_spans: tuple[np.ndarray, np.ndarray]
) -> None:
    """Write a tree whose leaves index `ids`, the token ids that it was made from."""
    leaves, spans = leaves_and_spans
    write_array(folder / LEAVES, ids[leaves].astype(np.int32))
    write_array(folder / SPANS, spans.astype(np.int32))


def read_word_tree(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(token ids of the leaves, spans) of a capture; None for a capture without a tree."""
    if not (folder / LEAVES).exists():
        return None
    return read_array(folder / LEAVES, mapped=False), read_array(folder / SPANS, mapped=False)

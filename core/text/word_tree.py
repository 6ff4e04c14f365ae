"""Which words the subject's own input embeddings put together: a tree over words, written once in `capture`.

Any node of the tree is a field: the words below it. A label names a field by words in it, and means the smallest one that holds them all.
Ward's method (1963) on unit vectors, centred on their mean; the most frequent words only, in at most DIMENSIONS principal directions, because
the tree needs every pair. A word is the text of a token without leading spaces, so `self` with and without a space are one word.
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
    """(leaves (m,), spans (m - 1, 2)) from the texts of tokens, how often each stands in the corpus (V,), and their embeddings (V, D).

    `leaves` are the commonest token of each word in the order of the tree, `spans` the leaves from, and up to but not including, below each node.
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
    leaves, spans = tree(_vectors(embeddings, words, counts, len(names))[frequent])
    return commonest[frequent][leaves], spans


def write_fields(folder: Path, ids: np.ndarray, fields: tuple[np.ndarray, np.ndarray]) -> None:
    """Write a tree over tokens that are numbered as in `ids`."""
    write_array(folder / LEAVES, ids[fields[0]].astype(np.int32))
    write_array(folder / SPANS, fields[1].astype(np.int32))


def _vectors(rows: np.ndarray, words: np.ndarray, counts: np.ndarray, n_words: int) -> np.ndarray:
    """Unit vectors (n_words, d): the tokens' centred, normalised rows, summed over those of one word by the root of their counts."""
    rows = _unit(rows - rows.mean(0))
    summed = np.zeros((n_words, rows.shape[1]), np.float32)
    np.add.at(summed, words, rows * np.sqrt(counts)[:, None].astype(np.float32))
    summed = _unit(summed)
    if summed.shape[1] > DIMENSIONS:
        summed = _unit(summed @ np.linalg.eigh(summed.T @ summed)[1][:, -DIMENSIONS:])
    return summed


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def tree(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(leaves (m,): the rows in the order of the tree; spans (m - 1, 2): the leaves from, and up to but not including, below each node)."""
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
    """Euclidean distances (m (m - 1) / 2,) of every two rows, in scipy's order, by one product, and from it row by row, each of which
    stays in the cache: several times as fast as scipy's `pdist`."""
    x, at = vectors.astype(np.float64), 0
    squares, products = np.einsum("ij,ij->i", x, x), x @ x.T
    found = np.empty(len(x) * (len(x) - 1) // 2)
    for row in range(len(x) - 1):
        part = found[at : at + len(x) - 1 - row]
        np.multiply(products[row, row + 1 :], -2, out=part)
        part += squares[row + 1 :]
        part += squares[row]
        np.maximum(part, 0, out=part)
        np.sqrt(part, out=part)
        at += len(part)
    return found


def read_fields(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(leaves: token ids, spans) as they were written; None for a capture that has none."""
    if not (folder / LEAVES).exists():
        return None
    return read_array(folder / LEAVES, mapped=False), read_array(folder / SPANS, mapped=False)

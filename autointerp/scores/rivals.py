"""Rivals of a feature: features that it could be mistaken for, the source of hard negatives.

The rivals of a feature are the features with the nearest decoder directions, and the features that
fire most often on the same tokens (cosine of the two firing indicators over a sample of held-out
tokens). A label that describes a whole family of features scores well against random text; where a
rival fires and the feature does not, it falls to chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from autointerp.examples import Examples
from core.firings.postings import Postings
from core.progress import progress

NEAREST = 6  # rivals of each sort
SAMPLED = 20_000  # held-out tokens on which common firings are counted
PEAKS = 24  # held-out firings that are kept of each feature
BLOCK = 512  # features in one matrix product
POSTINGS_BLOCK = 256  # features that `Postings.blocks` reads at a time
LEFT_OUT = -3.0  # below every cosine: marks the feature itself and features that never fire


@dataclass(frozen=True)
class Rivals:
    """The rivals of F features and some held-out firings of each; -1 marks an empty entry."""

    nearest: np.ndarray  # (F, 2 NEAREST) int64 features
    peaks: np.ndarray  # (F, PEAKS) int64 ordinals in the test split, in random order
    firing: np.ndarray  # ordinals at which a feature fires in the window of a peak, peak by peak
    offsets: np.ndarray  # (F PEAKS + 1,) where the ordinals of each peak begin in `firing`

    @classmethod
    def build(
        cls, postings: Postings, examples: Examples, directions: np.ndarray, seed: int
    ) -> Rivals:
        """Find the rivals of all features; `directions` (F, D) are the decoder's rows.

        Takes two seconds and one pass over the postings for 2,048 features with 80 million firings.
        """
        rng = np.random.default_rng([seed, 2])
        pool = examples.pool("test")
        sampled = pool
        if len(pool):
            sampled = np.sort(rng.choice(pool, min(SAMPLED, len(pool)), replace=False))
        peaks, around, indicator = _scan_firings(postings, examples, sampled, rng)
        alive = postings.n_firings > 0
        nearest = [nearest_directions(directions, alive), nearest_by_firing(indicator, alive)]
        offsets = np.r_[0, np.cumsum([len(a) for a in around])]
        return cls(np.concatenate(nearest, axis=1), peaks, np.concatenate(around), offsets)

    def draw_peaks(self, feature: int, rng: np.random.Generator) -> np.ndarray:
        """Return the numbers of all peaks of the feature's rivals in random order.

        A number is an index into the flattened `peaks`.
        """
        rivals = np.unique(self.nearest[feature][self.nearest[feature] >= 0])
        numbers = (rivals[:, None] * PEAKS + np.arange(PEAKS)).ravel()
        return rng.permutation(numbers[self.peaks.ravel()[numbers] >= 0])

    def firings_around(self, number: int) -> np.ndarray:
        """Return the ordinals at which a rival fires in the window around one of its peaks."""
        return self.firing[self.offsets[number] : self.offsets[number + 1]]


def _scan_firings(
    postings: Postings, examples: Examples, sampled: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], csr_matrix]:
    """Return (peaks (F, PEAKS), firings around each peak, firing indicator (F, sampled tokens))."""
    place = np.full(postings.n_tokens, -1, np.int32)
    place[sampled] = np.arange(len(sampled))
    held_out = np.zeros(postings.n_tokens, bool)
    held_out[examples.pool("test")] = True
    peaks = np.full((postings.n_features, PEAKS), -1, np.int64)
    columns: list[np.ndarray] = []
    around: list[np.ndarray] = []
    n_blocks = -(-postings.n_features // POSTINGS_BLOCK)
    for first, block in progress(postings.blocks(), "rivals", total=n_blocks, unit="block"):
        for feature, (where, _) in enumerate(block, first):
            at = place[where]
            columns.append(at[at >= 0])
            tried = where[rng.integers(0, len(where), 4 * PEAKS)] if len(where) else where
            tried = drop_repeats(tried[held_out[tried]])[:PEAKS]
            peaks[feature, : len(tried)] = tried
            starts, ends = (np.searchsorted(where, side) for side in examples.window(tried))
            around += [where[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
            around += [where[:0]] * (PEAKS - len(tried))
    return peaks, around, _indicator(columns, max(1, len(sampled)))


def _indicator(columns: list[np.ndarray], width: int) -> csr_matrix:
    """Return a matrix (F, width) with ones in the given columns of each row."""
    ends = np.r_[0, np.cumsum([len(c) for c in columns])]
    every = np.concatenate(columns) if columns else np.zeros(0, np.int32)
    return csr_matrix((np.ones(len(every), np.float32), every, ends), shape=(len(columns), width))


def drop_repeats(values: np.ndarray) -> np.ndarray:
    """Return each value once, in the order of first occurrence."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


def nearest_directions(directions: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Return for each of `directions` (F, D) the NEAREST alive ones by cosine: (F, NEAREST).

    A feature is not its own neighbour; -1 fills rows that have fewer neighbours.
    """
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    rows = (unit[start : start + BLOCK] @ unit.T for start in range(0, len(unit), BLOCK))
    return _largest(rows, alive)


def nearest_by_firing(firing: csr_matrix, alive: np.ndarray) -> np.ndarray:
    """Return the NEAREST alive features by the cosine of firing indicators (F, n): (F, NEAREST).

    -1 fills the rows of features that fire together with fewer others.
    """
    size = np.sqrt(np.asarray(firing.sum(1)).ravel())
    unit = firing.multiply(1 / np.maximum(size, 1)[:, None]).tocsr()
    starts = range(0, firing.shape[0], BLOCK)
    rows = ((unit[start : start + BLOCK] @ unit.T).toarray() for start in starts)
    return _largest(rows, alive, above=0.0)


def _largest(blocks: Iterable[np.ndarray], alive: np.ndarray, above: float = -2.0) -> np.ndarray:
    """Return the columns of the NEAREST largest entries above `above` in each row.

    `blocks` are consecutive rows of a square matrix. The diagonal and dead features never count.
    """
    out, row = [], 0
    for block in blocks:
        block = np.where(alive, block, LEFT_OUT)
        block[np.arange(len(block)), np.arange(row, row + len(block))] = LEFT_OUT
        width = min(NEAREST, block.shape[1] - 1)
        best = np.argpartition(-block, width, axis=1)[:, :width]
        best = np.where(np.take_along_axis(block, best, 1) > above, best, -1)
        out.append(np.pad(best, ((0, 0), (0, NEAREST - width)), constant_values=-1))
        row += len(block)
    return np.concatenate(out)

"""Which features could be taken for one another, and windows on which each fires: where hard negatives come from.

Rivals of a feature are its nearest decoder directions and the features that fire on the same tokens most often (cosine of the two firing
indicators over a sample of held-out tokens). A label that only says what a whole family of features does scores well against random
text and falls to chance where its rivals fire and it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from autointerp.examples import Examples
from core.firings.postings import Postings
from core.progress import progress

NEAREST = 6  # of each sort
SAMPLED = 20_000  # held-out tokens on which firing together is counted
PEAKS = 24  # firings of each feature that are kept to draw from
BLOCK = 512  # features whose products are held at once


@dataclass(frozen=True)
class Rivals:
    """For each of F features its rivals and some held-out firings; entries of -1 stand for none."""

    nearest: np.ndarray  # (F, 2 NEAREST) int64
    peaks: np.ndarray  # (F, PEAKS) int64 ordinals in the test split, in random order
    firing: (
        np.ndarray
    )  # ordinals at which a feature fires in the windows around its peaks, peak by peak
    offsets: np.ndarray  # (F PEAKS + 1,) into `firing`

    @classmethod
    def build(
        cls, postings: Postings, examples: Examples, directions: np.ndarray, seed: int
    ) -> Rivals:
        """Two seconds and two passes over the postings for 2,048 features and 80 million firings."""
        rng = np.random.default_rng([seed, 2])
        pool = examples.pool("test")
        sampled = (
            np.sort(rng.choice(pool, min(SAMPLED, len(pool)), replace=False)) if len(pool) else pool
        )
        peaks, around, together = _passed(postings, examples, sampled, rng)
        live = postings.n_firings > 0
        nearest = np.concatenate(
            [near_directions(directions, live), fire_together(together, live)], axis=1
        )
        return cls(
            nearest, peaks, np.concatenate(around), np.r_[0, np.cumsum([len(a) for a in around])]
        )

    def drawn(self, feature: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers of all kept peaks of the feature's rivals, in random order: entries of `peaks`, flattened."""
        rivals = np.unique(self.nearest[feature][self.nearest[feature] >= 0])
        numbers = (rivals[:, None] * PEAKS + np.arange(PEAKS)).ravel()
        return rng.permutation(numbers[self.peaks.ravel()[numbers] >= 0])

    def marks(self, number: int) -> np.ndarray:
        """Ordinals at which the rival fires in the window around one of its peaks."""
        return self.firing[self.offsets[number] : self.offsets[number + 1]]


def _passed(
    postings: Postings, examples: Examples, sampled: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], csr_matrix]:
    """(peaks (F, PEAKS), firings around each, firing indicator (F, sampled tokens)) from one pass over all firings."""
    place = np.full(postings.n_tokens, -1, np.int32)
    place[sampled] = np.arange(len(sampled))
    held_out = np.zeros(postings.n_tokens, bool)
    held_out[examples.pool("test")] = True
    peaks = np.full((postings.n_features, PEAKS), -1, np.int64)
    columns, around = [], []
    for first, block in progress(
        postings.blocks(), "rivals", total=-(-postings.n_features // 256), unit="block"
    ):
        for feature, (where, _) in enumerate(block, first):
            at = place[where]
            columns.append(at[at >= 0])
            tried = where[rng.integers(0, len(where), 4 * PEAKS)] if len(where) else where
            tried = distinct_in_order(tried[held_out[tried]])[:PEAKS]
            peaks[feature, : len(tried)] = tried
            starts, ends = (np.searchsorted(where, side) for side in examples.window(tried))
            around += [where[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
            around += [where[:0]] * (PEAKS - len(tried))
    ends = np.r_[0, np.cumsum([len(c) for c in columns])]
    every = np.concatenate(columns) if columns else np.zeros(0, np.int32)
    return (
        peaks,
        around,
        csr_matrix(
            (np.ones(len(every), np.float32), every, ends),
            shape=(postings.n_features, max(1, len(sampled))),
        ),
    )


def distinct_in_order(values: np.ndarray) -> np.ndarray:
    """Each value once, where it first stands."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


def near_directions(directions: np.ndarray, live: np.ndarray) -> np.ndarray:
    """The NEAREST live directions (F, NEAREST) by cosine, the feature itself left out; -1 where there are fewer."""
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    rows = (unit[start : start + BLOCK] @ unit.T for start in range(0, len(unit), BLOCK))
    return _largest(rows, live)


def fire_together(firing: csr_matrix, live: np.ndarray) -> np.ndarray:
    """The NEAREST live features (F, NEAREST) by cosine of firing indicators; -1 where fewer ever fire on the same token."""
    size = np.sqrt(np.asarray(firing.sum(1)).ravel())
    unit = firing.multiply(1 / np.maximum(size, 1)[:, None]).tocsr()
    rows = (
        (unit[start : start + BLOCK] @ unit.T).toarray()
        for start in range(0, firing.shape[0], BLOCK)
    )
    return _largest(rows, live, above=0.0)


def _largest(blocks, live: np.ndarray, above: float = -2.0) -> np.ndarray:
    """Columns of the NEAREST largest entries above `above` of each row, given blocks of rows of a square matrix; itself and dead features never."""
    out, row = [], 0
    for block in blocks:
        block = np.where(live, block, -3.0)
        block[np.arange(len(block)), np.arange(row, row + len(block))] = -3.0
        width = min(NEAREST, block.shape[1] - 1)
        best = np.argpartition(-block, width, axis=1)[:, :width]
        best = np.where(np.take_along_axis(block, best, 1) > above, best, -1)
        out.append(np.pad(best, ((0, 0), (0, NEAREST - width)), constant_values=-1))
        row += len(block)
    return np.concatenate(out)

"""Read the feature index and the token postings: numpy only, memory-mapped, nothing held.

An *ordinal* counts the kept tokens of the capture. Shards are contiguous in ordinals, so the firings of a feature come in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.errors import UsageError
from core.files import read_array, read_json


class Postings:
    """Every firing of every feature, and every place of every token."""

    def __init__(self, index_folder: Path, capture_folder: Path):
        self.bounds = np.array(read_json(capture_folder / "shards.json")["bounds"], dtype=np.int64)
        shards = range(len(self.bounds) - 1)
        self._offsets = [
            read_array(index_folder / f"offsets-{i:05d}.npy", mapped=False) for i in shards
        ]
        self._positions = [read_array(index_folder / f"positions-{i:05d}.npy") for i in shards]
        self._firings = [read_array(index_folder / f"firings-{i:05d}.npy") for i in shards]
        self._token_offsets = read_array(index_folder / "token_offsets.npy", mapped=False)
        self._token_ordinals = read_array(index_folder / "token_ordinals.npy")
        self.n_tokens = int(self.bounds[-1])
        self.n_features = len(self._offsets[0]) - 1
        self.n_firings: np.ndarray = sum(np.diff(o) for o in self._offsets)  # (F,)

    def firings(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """(ordinals int64 (m,) ascending, activations float32 (m,)) of one feature; raises UsageError when it does not exist."""
        if not 0 <= feature < self.n_features:
            raise UsageError(
                f"There is no feature {feature}.", f"There are features 0 to {self.n_features - 1}."
            )
        return next(self.blocks(feature, feature + 1, 1))[1][0]

    def blocks(
        self, start: int = 0, end: int | None = None, size: int = 256
    ) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
        """(first feature, [(ordinals, activations) of each feature]) for contiguous blocks: one slice a shard, read in order."""
        end = self.n_features if end is None else end
        for first in range(start, end, size):
            last = min(first + size, end)
            found: list[list] = [[] for _ in range(first, last)]
            for shard, offsets in enumerate(self._offsets):
                a, b = offsets[first], offsets[last]
                ordinals = self._positions[shard][a:b].astype(np.int64) + self.bounds[shard]
                values = np.asarray(self._firings[shard][a:b])
                cuts = offsets[first + 1 : last] - a
                for parts, o, v in zip(
                    found, np.split(ordinals, cuts), np.split(values, cuts), strict=True
                ):
                    parts.append((o, v))
            yield (
                first,
                [
                    (np.concatenate([o for o, _ in p]), np.concatenate([v for _, v in p]))
                    for p in found
                ],
            )

    def by_shard(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """(first ordinal, end, offsets (F + 1,), positions) of each shard: the positions of feature f, counted from the first, lie between its offsets."""
        for shard, offsets in enumerate(self._offsets):
            yield (
                int(self.bounds[shard]),
                int(self.bounds[shard + 1]),
                offsets,
                self._positions[shard],
            )

    def token(self, token_id: int) -> np.ndarray:
        """Ordinals int64, ascending, at which a token stands."""
        return self._token_ordinals[
            self._token_offsets[token_id] : self._token_offsets[token_id + 1]
        ].astype(np.int64)

    @property
    def token_counts(self) -> np.ndarray:
        """How often each token of the vocabulary stands in the corpus (V,)."""
        return np.diff(self._token_offsets)

    def activations_at(self, feature: int, ordinals: np.ndarray) -> np.ndarray:
        """The feature's activation (len(ordinals),) at any ordinals; 0 where it does not fire."""
        where, values = self.firings(feature)
        return lookup(where, values, ordinals)


def lookup(where: np.ndarray, values: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """values at those ordinals that stand in ascending `where`, 0 elsewhere."""
    if not len(where):
        return np.zeros(np.shape(ordinals), np.float32)
    place = np.minimum(np.searchsorted(where, ordinals), len(where) - 1)
    return np.where(where[place] == ordinals, values[place], np.float32(0))

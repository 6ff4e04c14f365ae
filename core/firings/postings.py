"""Name, write and read the files of the index, with numpy only; what is read is memory-mapped.

    offsets-00000.npy     (F + 1,) int64: where the firings of each feature begin in a shard
    positions-00000.npy   (m,) uint32: the token of each firing, counted from the shard's first
    firings-00000.npy     (m,) float32: its activation in SAE units
    token_offsets.npy     (V + 1,) int64: where the ordinals of each token of the vocabulary begin
    token_ordinals.npy    (n,) uint32

Firings are sorted by feature and then by position: 8 bytes a firing. There is one shard for each
shard of the capture. An *ordinal* counts the kept tokens of the whole capture. Shards are
contiguous in ordinals, so the firings of a feature come in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.activations.layout import read_layout
from core.errors import UsageError
from core.files import create_array, read_array, write_array
from core.run import Run
from core.text.tokens import PIECE, count_tokens

TOKEN_OFFSETS, TOKEN_ORDINALS = "token_offsets.npy", "token_ordinals.npy"


def _offsets_path(folder: Path, shard: int) -> Path:
    return folder / f"offsets-{shard:05d}.npy"


def _positions_path(folder: Path, shard: int) -> Path:
    return folder / f"positions-{shard:05d}.npy"


def _firings_path(folder: Path, shard: int) -> Path:
    return folder / f"firings-{shard:05d}.npy"


class Postings:
    """Every firing of every feature, and every place of every token."""

    def __init__(self, index_folder: Path, capture_folder: Path):
        layout = read_layout(capture_folder)
        self.bounds = np.array(layout.bounds, dtype=np.int64)
        shards = range(layout.n_shards)
        self._offsets = [read_array(_offsets_path(index_folder, i), mapped=False) for i in shards]
        self._positions = [read_array(_positions_path(index_folder, i)) for i in shards]
        self._firings = [read_array(_firings_path(index_folder, i)) for i in shards]
        self._token_offsets = read_array(index_folder / TOKEN_OFFSETS, mapped=False)
        self._token_ordinals = read_array(index_folder / TOKEN_ORDINALS)
        self.n_tokens = int(self.bounds[-1])
        self.n_features = len(self._offsets[0]) - 1
        self.n_firings: np.ndarray = np.sum([np.diff(o) for o in self._offsets], axis=0)  # (F,)

    def firings(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """(ordinals int64 (m,) ascending, activations float32 (m,)) of one feature.

        Raises UsageError when the feature does not exist.
        """
        if not 0 <= feature < self.n_features:
            raise UsageError(
                f"There is no feature {feature}.", f"There are features 0 to {self.n_features - 1}."
            )
        return next(self.blocks(feature, feature + 1, 1))[1][0]

    def firings_at(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every firing on some tokens: (ordinal, feature, activation), each (m,), by ordinal.

        `ordinals` (k,) are tokens of the capture. The index is by feature, so each shard that holds
        one of them is read once from end to end. Raises UsageError for a token that is not there.
        """
        wanted = np.unique(np.asarray(ordinals, np.int64))
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.n_tokens:
            raise UsageError(
                f"There is no token {int(wanted[0] if wanted[0] < 0 else wanted[-1])}.",
                f"There are tokens 0 to {self.n_tokens - 1}.",
            )
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        for shard, (low, high) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            inside = wanted[(wanted >= low) & (wanted < high)] - low
            if not len(inside):
                continue
            marked = np.zeros(int(high - low), bool)
            marked[inside] = True
            where = np.flatnonzero(marked[self._positions[shard]])
            features = np.searchsorted(self._offsets[shard], where, side="right") - 1
            found = self._positions[shard][where].astype(np.int64) + low
            parts.append((found, features, np.asarray(self._firings[shard][where])))
        found, features, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((-values, found))
        return found[order], features[order], values[order]

    def blocks(
        self, start: int = 0, end: int | None = None, size: int = 256
    ) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
        """Yield (first feature, [(ordinals, activations) of each feature]) for blocks of features.

        A block is one slice of each shard, read in order.
        """
        end = self.n_features if end is None else end
        for first in range(start, end, size):
            last = min(first + size, end)
            pieces: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(first, last)]
            for shard, offsets in enumerate(self._offsets):
                a, b = offsets[first], offsets[last]
                ordinals = self._positions[shard][a:b].astype(np.int64) + self.bounds[shard]
                values = np.asarray(self._firings[shard][a:b])
                cuts = offsets[first + 1 : last] - a
                for of_feature, o, v in zip(
                    pieces, np.split(ordinals, cuts), np.split(values, cuts), strict=True
                ):
                    of_feature.append((o, v))
            yield (
                first,
                [
                    (np.concatenate([o for o, _ in p]), np.concatenate([v for _, v in p]))
                    for p in pieces
                ],
            )

    def by_shard(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield (first ordinal, end, offsets (F + 1,), positions) of each shard.

        The positions of feature f, counted from the first ordinal, are
        positions[offsets[f] : offsets[f + 1]].
        """
        for shard, offsets in enumerate(self._offsets):
            yield (
                int(self.bounds[shard]),
                int(self.bounds[shard + 1]),
                offsets,
                self._positions[shard],
            )

    def token(self, token_id: int) -> np.ndarray:
        """Ordinals int64, ascending, at which a token stands."""
        start, end = self._token_offsets[token_id], self._token_offsets[token_id + 1]
        return self._token_ordinals[start:end].astype(np.int64)

    @property
    def token_counts(self) -> np.ndarray:
        """How often each token of the vocabulary stands in the corpus (V,)."""
        return np.diff(self._token_offsets)

    def activations_at(self, feature: int, ordinals: np.ndarray) -> np.ndarray:
        """The feature's activation (len(ordinals),) at any ordinals; 0 where it does not fire."""
        where, values = self.firings(feature)
        return lookup(where, values, ordinals)


def lookup(where: np.ndarray, values: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """The entry of `values` at each ordinal that stands in ascending `where`; 0 at the others."""
    if not len(where):
        return np.zeros(np.shape(ordinals), np.float32)
    place = np.minimum(np.searchsorted(where, ordinals), len(where) - 1)
    return np.where(where[place] == ordinals, values[place], np.float32(0))


def maxima(run: Run, n_features: int) -> np.ndarray:
    """The largest activation (F,) of each feature over the corpus, 0 where it never fires."""
    out = np.zeros(n_features, np.float32)
    folder = run.folder("index")
    for shard in range(read_layout(run.folder("capture")).n_shards):
        offsets = read_array(_offsets_path(folder, shard))
        firings = read_array(_firings_path(folder, shard))
        fires = np.flatnonzero(np.diff(offsets))
        if len(fires):
            out[fires] = np.maximum(out[fires], np.maximum.reduceat(firings, offsets[fires]))
    return out


def count_firings(folder: Path, n_shards: int) -> np.ndarray:
    """The number of firings (F,) of each feature in the shards of `folder`."""
    offsets = (read_array(_offsets_path(folder, shard), mapped=False) for shard in range(n_shards))
    return np.asarray(np.sum([np.diff(o) for o in offsets], axis=0))


# ---------------------------------------------------------------- writing


def write_shard(
    folder: Path, number: int, offsets: np.ndarray, positions: np.ndarray, firings: np.ndarray
) -> None:
    """Write one shard. Its firings are written last, so a shard that has them is whole."""
    write_array(_offsets_path(folder, number), offsets)
    write_array(_positions_path(folder, number), positions)
    write_array(_firings_path(folder, number), firings)


def has_shard(folder: Path, number: int) -> bool:
    """Whether shard `number` was written whole."""
    return _firings_path(folder, number).exists()


def write_token_postings(folder: Path, ids: np.ndarray, n_vocabulary: int) -> None:
    """Write where each token of the vocabulary stands among ids (n,): offsets (V + 1,) and
    ordinals (n,).
    """
    offsets = np.r_[0, np.cumsum(count_tokens(ids, n_vocabulary))].astype(np.int64)
    write_array(folder / TOKEN_OFFSETS, offsets)
    with create_array(folder / TOKEN_ORDINALS, len(ids), np.uint32) as ordinals:
        invert_tokens(ids, offsets, ordinals)


def invert_tokens(ids: np.ndarray, offsets: np.ndarray, ordinals: np.ndarray) -> None:
    """Fill `ordinals` (n,): token v of ids (n,) is at ordinals[offsets[v] : offsets[v + 1]].

    Both may be memory-mapped, since a piece of the ids is looked at at once.
    """
    filled = offsets[:-1].copy()  # where the next place of each token goes
    for start in range(0, len(ids), PIECE):
        piece = np.asarray(ids[start : start + PIECE])
        order = np.argsort(piece, kind="stable")
        counts = np.bincount(piece, minlength=len(filled))
        begins = np.cumsum(counts) - counts  # of each token in the sorted piece
        ordered = piece[order]
        ordinals[filled[ordered] + np.arange(len(piece)) - begins[ordered]] = order + start
        filled += counts

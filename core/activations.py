"""The activation store: (n, D) in shards aligned with the tokens of a capture, read back in any order.

A shard is activations-00000.npy with the rows of some consecutive rows of text. bfloat16, which numpy does not have, is stored as
its bits in uint16; `dtype` in shards.json says which it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import UsageError
from core.files import read_array, read_json, write_array


def to_numpy(activations: Tensor) -> np.ndarray:
    activations = activations.contiguous()
    return (activations.view(torch.uint16) if activations.dtype == torch.bfloat16 else activations).cpu().numpy()


def from_numpy(array: np.ndarray, dtype: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def shard_name(index: int) -> str:
    return f"activations-{index:05d}.npy"


def write_shard(folder: Path, index: int, activations: Tensor) -> None:
    """Write shard `index`; raises UsageError when an activation is not finite."""
    if not bool(torch.isfinite(activations).all()):
        bad = int((~torch.isfinite(activations)).any(1).sum())
        raise UsageError(f"The subject gave NaN or infinite activations on {bad} of {len(activations)} tokens.", "Make the run anew with --dtype float32.")
    write_array(folder / shard_name(index), to_numpy(activations))


class ActivationStore:
    """Activations (n, D) of a committed capture."""

    def __init__(self, folder: Path):
        layout = read_json(folder / "shards.json")
        self.dtype: str = layout["dtype"]
        self.width: int = layout["width"]
        self.bounds = np.array(layout["bounds"], dtype=np.int64)  # (shards + 1,) ordinals
        self._shards = [read_array(folder / shard_name(i)) for i in range(len(self.bounds) - 1)]

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def n_shards(self) -> int:
        return len(self._shards)

    def shard(self, index: int) -> Tensor:
        """Activations (n of the shard, D) in their stored type."""
        return from_numpy(np.array(self._shards[index]), self.dtype)

    def read(self, ordinals: np.ndarray) -> Tensor:
        """Activations (len(ordinals), D) in their stored type, in the order asked for."""
        out = np.empty((len(ordinals), self.width), dtype=self._shards[0].dtype)
        home = np.searchsorted(self.bounds, ordinals, side="right") - 1
        for index in np.unique(home):
            here = home == index
            out[here] = self._shards[index][ordinals[here] - self.bounds[index]]
        return from_numpy(out, self.dtype)

    def shuffled(self, ordinals: np.ndarray, batch: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Tensor]:
        """Batches (batch, D) of one epoch in a random order over the whole store, from batch `skip` on; a short last one is left out."""
        order = np.random.default_rng([seed, epoch]).permutation(len(ordinals))
        for start in range(skip * batch, len(order) - batch + 1, batch):
            yield self.read(ordinals[np.sort(order[start : start + batch])])

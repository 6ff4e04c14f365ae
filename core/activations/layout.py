"""Name and read the activation files of a capture with numpy alone: the shards and their layout.

    shards.json             how the tokens are cut into shards, and in which type activations are
    activations-00000.npy   (tokens of the shard, D), where the capture stored them
    out/                    the same two of the site that a transcoder predicts

numpy has no bfloat16, so a shard holds its bits as uint16; `dtype` says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from core.files import read_array, read_json, write_json

LAYOUT = "shards.json"
OUT = "out"


@dataclass(frozen=True)
class Layout:
    """What shards.json says."""

    stored: bool  # whether the capture stored activations
    dtype: str  # of the activations: float32, bfloat16 or float16
    width: int  # D
    bounds: list[int]  # (shards + 1,) ordinals at which shards begin

    @property
    def n_shards(self) -> int:
        return len(self.bounds) - 1


def write_layout(folder: Path, layout: Layout) -> None:
    """Write shards.json."""
    write_json(folder / LAYOUT, asdict(layout))


def read_layout(folder: Path) -> Layout:
    """The layout of the capture in `folder`."""
    return Layout(**read_json(folder / LAYOUT))


def shard_path(folder: Path, number: int) -> Path:
    """The file with the activations of shard `number`."""
    return folder / f"activations-{number:05d}.npy"


def read_vectors(folder: Path, ordinals: np.ndarray) -> np.ndarray:
    """Stored activations (len(ordinals), D) float32 of a capture, in the order asked for."""
    layout = read_layout(folder)
    bounds = np.array(layout.bounds, dtype=np.int64)
    home = np.searchsorted(bounds, ordinals, side="right") - 1
    out = np.empty((len(ordinals), layout.width), np.float32)
    for shard in np.unique(home):
        here = home == shard
        raw = read_array(shard_path(folder, int(shard)))[ordinals[here] - bounds[shard]]
        if layout.dtype == "bfloat16":  # its bits are the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        out[here] = raw
    return out

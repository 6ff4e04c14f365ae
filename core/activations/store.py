"""Activations (n, D) of a capture, aligned with its tokens: from shards on disk, or from the subject itself as they are asked for.

A stored shard is activations-00000.npy with the rows of some consecutive rows of text. bfloat16, which numpy does not have, is stored
as its bits in uint16; `dtype` in shards.json says which it is. A capture for a published SAE stores none: nothing is trained on
them, and each reader passes over them once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.activations.passes import TextRows, read_rows
from core.errors import NotReady, UsageError
from core.files import read_array, read_json, write_array
from core.records import Site
from core.run import Run
from core.subject.subject import Subject, load_subject
from core.text.tokens import Tokens


class Activations(Protocol):
    """What both kinds offer."""

    width: int
    bounds: np.ndarray  # (shards + 1,) ordinals

    @property
    def n_shards(self) -> int: ...

    def shard(self, index: int) -> Tensor:
        """Activations (n of the shard, D) in the subject's type."""

    def read(self, ordinals: np.ndarray) -> Tensor:
        """Activations (len(ordinals), D) in the subject's type, in the order asked for."""


def open_activations(run: Run, subject: Subject | None = None) -> Activations:
    """The activations of a run's capture; a live one loads the subject unless it is given."""
    folder = run.folder("capture")
    if read_json(folder / "shards.json")["stored"]:
        return ActivationStore(folder)
    return LiveActivations(folder, subject or load_subject(run), Site.parse(run.settings.site))


# ---------------------------------------------------------------- on disk


def to_numpy(activations: Tensor) -> np.ndarray:
    activations = activations.contiguous()
    return (
        (activations.view(torch.uint16) if activations.dtype == torch.bfloat16 else activations)
        .cpu()
        .numpy()
    )


def from_numpy(array: np.ndarray, dtype: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def shard_name(index: int) -> str:
    return f"activations-{index:05d}.npy"


def write_shard(folder: Path, index: int, activations: Tensor) -> None:
    """Write shard `index`; raises UsageError when an activation is not finite."""
    check_finite(activations)
    write_array(folder / shard_name(index), to_numpy(activations))


def check_finite(activations: Tensor) -> None:
    if not torch.isfinite(
        torch.stack(torch.aminmax(activations))
    ).all():  # a NaN is both; a tenth of the time of looking at each
        bad = int((~torch.isfinite(activations)).any(1).sum())
        raise UsageError(
            f"The subject gave NaN or infinite activations on {bad} of {len(activations)} tokens.",
            "Make the run anew with --dtype float32.",
        )


class ActivationStore:
    """Activations (n, D) of a committed capture that stored them; raises NotReady when it did not."""

    def __init__(self, folder: Path):
        layout = read_json(folder / "shards.json")
        if not layout["stored"]:
            raise NotReady(
                "This capture stored no activations, and training needs them.",
                "Make it anew: python main.py capture RUN --store yes --redo",
            )
        self.dtype: str = layout["dtype"]
        self.width: int = layout["width"]
        self.bounds = np.array(layout["bounds"], dtype=np.int64)
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

    def shuffled(
        self, ordinals: np.ndarray, batch: int, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[Tensor]:
        """Batches (batch, D) of one epoch in a random order over the whole store, from batch `skip` on; a short last one is left out."""
        order = np.random.default_rng([seed, epoch]).permutation(len(ordinals))
        for start in range(skip * batch, len(order) - batch + 1, batch):
            yield self.read(ordinals[np.sort(order[start : start + batch])])


# ---------------------------------------------------------------- from the subject


class LiveActivations:
    """Activations (n, D) of a committed capture that stored none, read from the subject."""

    def __init__(self, folder: Path, subject: Subject, site: Site, batch_tokens: int = 4096):
        layout = read_json(folder / "shards.json")
        self.width: int = layout["width"]
        self.bounds = np.array(layout["bounds"], dtype=np.int64)
        self.subject, self.site, self.batch_tokens = subject, site, batch_tokens
        tokens = Tokens(folder)
        self.rows = TextRows(
            tokens.ids, np.asarray(tokens.row_offsets), np.load(folder / "first.npy"), subject.bos
        )

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def n_shards(self) -> int:
        return len(self.bounds) - 1

    def shard(self, index: int) -> Tensor:
        """Activations (n of the shard, D) in the subject's type; raises UsageError when one is not finite."""
        found = self._of_rows(
            np.arange(*np.searchsorted(self.rows.offsets, self.bounds[index : index + 2]))
        )
        check_finite(found)
        return found

    def read(self, ordinals: np.ndarray) -> Tensor:
        """Activations (len(ordinals), D) in the subject's type, in the order asked for; every row that holds one is read whole."""
        home = np.searchsorted(self.rows.offsets, ordinals, side="right") - 1
        chosen, which = np.unique(home, return_inverse=True)
        lengths = self.rows.offsets[chosen + 1] - self.rows.offsets[chosen]
        start = np.r_[0, np.cumsum(lengths)[:-1]]
        return self._of_rows(chosen)[
            torch.from_numpy(start[which] + ordinals - self.rows.offsets[home])
        ]

    def _of_rows(self, chosen: np.ndarray) -> Tensor:
        return read_rows(self.subject, [self.site], self.rows, chosen, self.batch_tokens)[0]

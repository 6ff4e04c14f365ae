"""Read activations (n, D) of a capture, from shards on disk or from the subject on request.

They are aligned with the capture's tokens. A capture for a published SAE stores none: nothing is
trained on them, and each stage that reads them does so once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.activations.layout import OUT, read_layout, shard_path
from core.activations.passes import TextRows, read_activations
from core.errors import NotReady, UsageError
from core.files import read_array, write_array
from core.records import Site
from core.run import Run
from core.subject.load import load_subject
from core.subject.subject import Subject


class Activations(Protocol):
    """The interface that `ActivationStore` and `LiveActivations` share."""

    width: int  # D
    bounds: np.ndarray  # (shards + 1,) ordinals at which shards begin

    @property
    def n_shards(self) -> int: ...

    def shard(self, index: int) -> Tensor:
        """Activations (n of the shard, D) in the subject's type."""

    def read(self, ordinals: np.ndarray) -> Tensor:
        """Activations (len(ordinals), D) in the subject's type, in the order asked for."""


def open_activations(run: Run, subject: Subject | None = None) -> Activations:
    """The activations of a run's capture.

    Where the capture stored none, they come from `subject`, which is loaded unless it is given.
    """
    folder = run.folder("capture")
    if read_layout(folder).stored:
        return ActivationStore(folder)
    return LiveActivations(folder, subject or load_subject(run), Site.parse(run.settings.site))


def open_targets(run: Run, subject: Subject | None = None) -> Activations | None:
    """The activations at the site that the run's transcoder predicts; None for an autoencoder.

    They are aligned with those of `open_activations`.
    """
    if not run.settings.site_out:
        return None
    folder, site = run.folder("capture"), Site.parse(run.settings.site_out)
    if read_layout(folder).stored:
        return ActivationStore(folder / OUT)
    width = read_layout(folder / OUT).width
    return LiveActivations(folder, subject or load_subject(run), site, width=width)


# ---------------------------------------------------------------- on disk


def to_numpy(activations: Tensor) -> np.ndarray:
    """The array to store: bfloat16 as its bits in uint16, every other type as it is."""
    activations = activations.contiguous()
    if activations.dtype == torch.bfloat16:
        activations = activations.view(torch.uint16)
    return activations.cpu().numpy()


def from_numpy(array: np.ndarray, dtype: str) -> Tensor:
    """The activations in a stored array; `dtype` is what the layout says."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def write_shard(folder: Path, number: int, activations: Tensor) -> None:
    """Write shard `number`; raises UsageError when an activation is not finite."""
    check_finite(activations)
    write_array(shard_path(folder, number), to_numpy(activations))


def check_finite(activations: Tensor) -> None:
    """Raise UsageError when one of the activations (n, D) is NaN or infinite."""
    extremes = torch.stack(torch.aminmax(activations))  # NaN if one is; a tenth of isfinite's time
    if not torch.isfinite(extremes).all():
        bad = int((~torch.isfinite(activations)).any(1).sum())
        raise UsageError(
            f"The subject gave NaN or infinite activations on {bad} of {len(activations)} tokens.",
            "Make a new run with --dtype float32.",
        )


class ActivationStore:
    """Activations (n, D) of a committed capture that stored them; raises NotReady for any other."""

    def __init__(self, folder: Path):
        layout = read_layout(folder)
        if not layout.stored:
            raise NotReady(
                "This capture stored no activations, and training needs them.",
                "Store them: python main.py capture RUN --store yes --redo",
            )
        self.dtype: str = layout.dtype
        self.width: int = layout.width
        self.bounds = np.array(layout.bounds, dtype=np.int64)
        self._shards = [read_array(shard_path(folder, i)) for i in range(layout.n_shards)]

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
        """Yield batches (batch, D) of one epoch over `ordinals` in a random order.

        The first `skip` batches are left out, and so is a last one that is not full.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(ordinals))
        for start in range(skip * batch, len(order) - batch + 1, batch):
            yield self.read(ordinals[np.sort(order[start : start + batch])])


# ---------------------------------------------------------------- from the subject


class LiveActivations:
    """Activations (n, D) of a committed capture that stored none, read from the subject."""

    def __init__(
        self,
        folder: Path,
        subject: Subject,
        site: Site,
        batch_tokens: int = 4096,
        width: int = 0,
    ):
        """`width` is that of another site than the layout's."""
        layout = read_layout(folder)
        self.width: int = width or layout.width
        self.bounds = np.array(layout.bounds, dtype=np.int64)
        self.subject, self.site, self.batch_tokens = subject, site, batch_tokens
        self.rows = TextRows.open(folder, subject.bos)

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def n_shards(self) -> int:
        return len(self.bounds) - 1

    def shard(self, index: int) -> Tensor:
        """Activations (n of the shard, D) in the subject's type.

        Raises UsageError when one of them is not finite.
        """
        activations = self._read_rows(
            np.arange(*np.searchsorted(self.rows.offsets, self.bounds[index : index + 2]))
        )
        check_finite(activations)
        return activations

    def read(self, ordinals: np.ndarray) -> Tensor:
        """Activations (len(ordinals), D) in the subject's type, in the order asked for.

        Every row that holds one of the ordinals is read whole.
        """
        home = np.searchsorted(self.rows.offsets, ordinals, side="right") - 1
        rows, which = np.unique(home, return_inverse=True)
        lengths = self.rows.offsets[rows + 1] - self.rows.offsets[rows]
        start = np.r_[0, np.cumsum(lengths)[:-1]]
        places = start[which] + ordinals - self.rows.offsets[home]
        return self._read_rows(rows)[torch.from_numpy(places)]

    def _read_rows(self, rows: np.ndarray) -> Tensor:
        return read_activations(self.subject, [self.site], self.rows, rows, self.batch_tokens)[0]

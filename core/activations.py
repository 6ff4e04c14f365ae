"""Activations (n, D) of a capture, aligned with its tokens: from shards on disk, or from the subject itself as they are asked for.

A stored shard is activations-00000.npy with the rows of some consecutive rows of text. bfloat16, which numpy does not have, is stored
as its bits in uint16; `dtype` in shards.json says which it is. A capture for a published SAE stores none: nothing is trained on
them, and each reader passes over them once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.corpus import Tokens
from core.errors import NotReady, UsageError
from core.files import read_array, read_json, write_array
from core.records import Site
from core.run import Run
from core.shards import own_cores
from core.subject import Subject, load_subject

AT_ONCE = 2  # passes through the subject on a CPU; each holds the hidden states of its rows


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
    return (activations.view(torch.uint16) if activations.dtype == torch.bfloat16 else activations).cpu().numpy()


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
    if not torch.isfinite(torch.stack(torch.aminmax(activations))).all():  # a NaN is both; a tenth of the time of looking at each
        bad = int((~torch.isfinite(activations)).any(1).sum())
        raise UsageError(f"The subject gave NaN or infinite activations on {bad} of {len(activations)} tokens.", "Make the run anew with --dtype float32.")


class ActivationStore:
    """Activations (n, D) of a committed capture that stored them; raises NotReady when it did not."""

    def __init__(self, folder: Path):
        layout = read_json(folder / "shards.json")
        if not layout["stored"]:
            raise NotReady("This capture stored no activations, and training needs them.", "Make it anew: python main.py capture RUN --store yes --redo")
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

    def shuffled(self, ordinals: np.ndarray, batch: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Tensor]:
        """Batches (batch, D) of one epoch in a random order over the whole store, from batch `skip` on; a short last one is left out."""
        order = np.random.default_rng([seed, epoch]).permutation(len(ordinals))
        for start in range(skip * batch, len(order) - batch + 1, batch):
            yield self.read(ordinals[np.sort(order[start : start + batch])])


# ---------------------------------------------------------------- from the subject


class Rows:
    """The rows of a capture as the subject reads them: BOS, or the token in front, then the kept tokens."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, first: np.ndarray, bos: int | None):
        self.ids, self.offsets, self.first, self.bos = ids, offsets, first, bos

    def tokens(self, rows: np.ndarray) -> Tensor:
        """Token ids (R, T) of `rows`, padded on the right."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        tokens = torch.full((len(rows), int(lengths.max()) + 1), self.bos or 0)
        for i, row in enumerate(rows):
            tokens[i, 0] = self.bos if self.first[row] < 0 else int(self.first[row])
            tokens[i, 1 : 1 + int(lengths[i])] = torch.from_numpy(self.ids[self.offsets[row] : self.offsets[row + 1]].astype(np.int64))
        return tokens


class Passes:
    """Reads rows of text at `sites`, on a CPU in several passes at once. A context manager; `start` returns at once."""

    def __init__(self, subject: Subject, sites: list[Site], rows: Rows, batch_tokens: int):
        self.subject, self.sites, self.rows, self.batch_tokens = subject, sites, rows, batch_tokens

    def __enter__(self) -> Passes:
        self._stack = contextlib.ExitStack()
        self._read = self._stack.enter_context(self.subject.reading(self.sites))
        self._pool = self._stack.enter_context(own_cores(AT_ONCE if self.subject.device.type == "cpu" else 1))
        return self

    def __exit__(self, *raised) -> None:
        self._stack.close()

    def start(self, chosen: np.ndarray, wanted: list[Site]) -> Callable[[], list[Tensor]]:
        """Begin to read the `chosen` rows; what it gives waits for them and returns the activations (kept tokens of the rows in their
        order, D) at each of the `wanted` sites. Rows of like length are read together."""
        lengths = self.rows.offsets[chosen + 1] - self.rows.offsets[chosen]
        places = np.r_[0, np.cumsum(lengths)]
        by_length, at, waiting, found, lock = np.argsort(-lengths, kind="stable"), 0, [], [], threading.Lock()

        def one(group: np.ndarray) -> None:
            hidden = [h.cpu() for h in self._read(self.rows.tokens(chosen[group]), wanted)]
            with lock:
                if not found:
                    found.extend(torch.empty(int(places[-1]), h.shape[-1], dtype=h.dtype) for h in hidden)
            for i, row in enumerate(group):
                for whole, part in zip(found, hidden, strict=True):
                    whole[places[row] : places[row + 1]] = part[i, 1 : 1 + int(lengths[row])]

        while at < len(by_length):
            group = by_length[at : at + max(1, self.batch_tokens // (int(lengths[by_length[at]]) + 1))]
            at += len(group)
            waiting.append(self._pool.submit(one, group))

        def finish() -> list[Tensor]:
            for done in waiting:
                done.result()
            return found

        return finish


def read_rows(subject: Subject, sites: list[Site], rows: Rows, chosen: np.ndarray, batch_tokens: int) -> list[Tensor]:
    """Activations (kept tokens of the `chosen` rows in their order, D) at each of `sites`."""
    with Passes(subject, sites, rows, batch_tokens) as passes:
        return passes.start(chosen, sites)()


class LiveActivations:
    """Activations (n, D) of a committed capture that stored none, read from the subject."""

    def __init__(self, folder: Path, subject: Subject, site: Site, batch_tokens: int = 4096):
        layout = read_json(folder / "shards.json")
        self.width: int = layout["width"]
        self.bounds = np.array(layout["bounds"], dtype=np.int64)
        self.subject, self.site, self.batch_tokens = subject, site, batch_tokens
        tokens = Tokens(folder)
        self.rows = Rows(tokens.ids, np.asarray(tokens.row_offsets), np.load(folder / "first.npy"), subject.bos)

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def n_shards(self) -> int:
        return len(self.bounds) - 1

    def shard(self, index: int) -> Tensor:
        """Activations (n of the shard, D) in the subject's type; raises UsageError when one is not finite."""
        found = self._of_rows(np.arange(*np.searchsorted(self.rows.offsets, self.bounds[index : index + 2])))
        check_finite(found)
        return found

    def read(self, ordinals: np.ndarray) -> Tensor:
        """Activations (len(ordinals), D) in the subject's type, in the order asked for; every row that holds one is read whole."""
        home = np.searchsorted(self.rows.offsets, ordinals, side="right") - 1
        chosen, which = np.unique(home, return_inverse=True)
        lengths = self.rows.offsets[chosen + 1] - self.rows.offsets[chosen]
        start = np.r_[0, np.cumsum(lengths)[:-1]]
        return self._of_rows(chosen)[torch.from_numpy(start[which] + ordinals - self.rows.offsets[home])]

    def _of_rows(self, chosen: np.ndarray) -> Tensor:
        return read_rows(self.subject, [self.site], self.rows, chosen, self.batch_tokens)[0]

"""Read rows of tokens through the subject, on a CPU in several passes at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.parallel import share_cores
from core.records import Site
from core.subject.subject import Subject
from core.text.tokens import read_rows

AT_ONCE = 2  # passes through the subject on a CPU; each holds the hidden states of its rows


class TextRows:
    """The rows of a capture as the subject reads them: BOS or the token in front, then the rest."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, first: np.ndarray, bos: int | None):
        self.ids, self.offsets, self.first, self.bos = ids, offsets, first, bos

    @classmethod
    def open(cls, folder: Path, bos: int | None) -> TextRows:
        """The rows of the capture in `folder`, committed or not; `bos` is the subject's."""
        return cls(*read_rows(folder), bos)

    def tokens(self, rows: np.ndarray) -> Tensor:
        """Token ids (R, T) of `rows`, padded on the right."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        bos = self.bos or 0
        tokens = torch.full((len(rows), int(lengths.max()) + 1), bos)
        for i, row in enumerate(rows):
            tokens[i, 0] = bos if self.first[row] < 0 else int(self.first[row])
            tokens[i, 1 : 1 + int(lengths[i])] = torch.from_numpy(
                self.ids[self.offsets[row] : self.offsets[row + 1]].astype(np.int64)
            )
        return tokens


class Reader:
    """Reads rows of text at `sites`. A context manager: it installs hooks and owns threads."""

    def __init__(self, subject: Subject, sites: list[Site], rows: TextRows, batch_tokens: int):
        self.subject, self.sites, self.rows, self.batch_tokens = subject, sites, rows, batch_tokens

    def __enter__(self) -> Reader:
        self._stack = contextlib.ExitStack()
        self._read = self._stack.enter_context(self.subject.open_reader(self.sites))
        self._pool = self._stack.enter_context(
            share_cores(AT_ONCE if self.subject.device.type == "cpu" else 1)
        )
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def start(
        self, rows: np.ndarray, sites: list[Site], advance: Callable[[int], Any] = int
    ) -> Callable[[], list[Tensor]]:
        """Submit rows (by number) and return at once.

        Returns a function that waits and gives their activations at each of `sites`: (n, D) of
        the kept tokens, in the order of `rows`. Rows of similar length are read together, and
        `advance` is called with the number of tokens of each pass, from its thread.
        """
        lengths = self.rows.offsets[rows + 1] - self.rows.offsets[rows]
        places = np.r_[0, np.cumsum(lengths)]
        activations: list[Tensor] = []  # (n, D) of each site, made by the first pass to finish
        lock = threading.Lock()

        def read_batch(batch: np.ndarray) -> None:
            hidden = [h.cpu() for h in self._read(self.rows.tokens(rows[batch]), sites)]
            with lock:
                if not activations:
                    activations.extend(
                        torch.empty(int(places[-1]), h.shape[-1], dtype=h.dtype) for h in hidden
                    )
            for i, row in enumerate(batch):
                for whole, part in zip(activations, hidden, strict=True):
                    whole[places[row] : places[row + 1]] = part[i, 1 : 1 + int(lengths[row])]
            advance(int(lengths[batch].sum()))

        by_length, at, futures = np.argsort(-lengths, kind="stable"), 0, []
        while at < len(by_length):
            size = max(1, self.batch_tokens // (int(lengths[by_length[at]]) + 1))
            futures.append(self._pool.submit(read_batch, by_length[at : at + size]))
            at += size

        def wait() -> list[Tensor]:
            for future in futures:
                future.result()
            return activations

        return wait


def read_activations(
    subject: Subject, sites: list[Site], text: TextRows, rows: np.ndarray, batch_tokens: int
) -> list[Tensor]:
    """Activations at each of `sites`: (n, D) of the kept tokens of `rows`, in their order."""
    with Reader(subject, sites, text, batch_tokens) as reader:
        return reader.start(rows, sites)()

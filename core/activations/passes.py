"""Rows of tokens through the subject, in passes of one core each."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from core.parallel import own_cores
from core.records import Site
from core.subject.subject import Subject

AT_ONCE = 2  # passes through the subject on a CPU; each holds the hidden states of its rows


class TextRows:
    """The rows of a capture as the subject reads them: BOS, or the token in front, then the kept tokens."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, first: np.ndarray, bos: int | None):
        self.ids, self.offsets, self.first, self.bos = ids, offsets, first, bos

    def tokens(self, rows: np.ndarray) -> Tensor:
        """Token ids (R, T) of `rows`, padded on the right."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        tokens = torch.full((len(rows), int(lengths.max()) + 1), self.bos or 0)
        for i, row in enumerate(rows):
            tokens[i, 0] = self.bos if self.first[row] < 0 else int(self.first[row])
            tokens[i, 1 : 1 + int(lengths[i])] = torch.from_numpy(
                self.ids[self.offsets[row] : self.offsets[row + 1]].astype(np.int64)
            )
        return tokens


class Reader:
    """Reads rows of text at `sites`, on a CPU in several passes at once. A context manager; `start` returns at once."""

    def __init__(self, subject: Subject, sites: list[Site], rows: TextRows, batch_tokens: int):
        self.subject, self.sites, self.rows, self.batch_tokens = subject, sites, rows, batch_tokens

    def __enter__(self) -> Reader:
        self._stack = contextlib.ExitStack()
        self._read = self._stack.enter_context(self.subject.reading(self.sites))
        self._pool = self._stack.enter_context(
            own_cores(AT_ONCE if self.subject.device.type == "cpu" else 1)
        )
        return self

    def __exit__(self, *raised) -> None:
        self._stack.close()

    def start(self, chosen: np.ndarray, wanted: list[Site]) -> Callable[[], list[Tensor]]:
        """Begin to read the `chosen` rows; what it gives waits for them and returns the activations (kept tokens of the rows in their
        order, D) at each of the `wanted` sites. Rows of like length are read together."""
        lengths = self.rows.offsets[chosen + 1] - self.rows.offsets[chosen]
        places = np.r_[0, np.cumsum(lengths)]
        by_length, at, waiting, found, lock = (
            np.argsort(-lengths, kind="stable"),
            0,
            [],
            [],
            threading.Lock(),
        )

        def one(group: np.ndarray) -> None:
            hidden = [h.cpu() for h in self._read(self.rows.tokens(chosen[group]), wanted)]
            with lock:
                if not found:
                    found.extend(
                        torch.empty(int(places[-1]), h.shape[-1], dtype=h.dtype) for h in hidden
                    )
            for i, row in enumerate(group):
                for whole, part in zip(found, hidden, strict=True):
                    whole[places[row] : places[row + 1]] = part[i, 1 : 1 + int(lengths[row])]

        while at < len(by_length):
            group = by_length[
                at : at + max(1, self.batch_tokens // (int(lengths[by_length[at]]) + 1))
            ]
            at += len(group)
            waiting.append(self._pool.submit(one, group))

        def finish() -> list[Tensor]:
            for done in waiting:
                done.result()
            return found

        return finish


def read_rows(
    subject: Subject, sites: list[Site], rows: TextRows, chosen: np.ndarray, batch_tokens: int
) -> list[Tensor]:
    """Activations (kept tokens of the `chosen` rows in their order, D) at each of `sites`."""
    with Reader(subject, sites, rows, batch_tokens) as passes:
        return passes.start(chosen, sites)()

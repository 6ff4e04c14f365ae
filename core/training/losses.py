"""Cross-entropies of a subject on rows of tokens, as it is and with its site replaced."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.activations.passes import TextRows
from core.parallel import share_cores
from core.records import Site
from core.saes import SAE
from core.subject.decoding import Edit
from core.subject.subject import Subject
from core.subject.tap import Tap

AT_ONCE = 2  # batches in work on a CPU
LOGITS = 3e7  # largest number of logits held in float32 at once, about

# sums of a document over its predictions (nats)
LOSSES = ("n", "clean", "spliced", "zero", "mean", "kl")

Array = npt.NDArray[Any]


def replacements(sae: SAE, mean: Tensor, tap: Tap | None = None) -> dict[str, Edit]:
    """Return edits that replace the site: by the SAE's reconstruction, zero, the mean (D,).

    `tap` sees what a transcoder reads.
    """

    def splice(h: Tensor, editable: Tensor) -> Tensor:
        x = h if tap is None else tap.hidden
        return torch.where(editable[..., None], sae.reconstruct(x.float()), h.float())

    def set_zero(h: Tensor, editable: Tensor) -> Tensor:
        return torch.where(editable[..., None], 0.0, h.float())

    def set_mean(h: Tensor, editable: Tensor) -> Tensor:
        return torch.where(editable[..., None], mean, h.float())

    return {"spliced": splice, "zero": set_zero, "mean": set_mean}


@dataclass
class Measurement:
    """Losses of a subject, clean and with each of `edits` at `site`.

    On a CPU `at_once` batches are in work, each on its own cores. `advance` is called with the
    number of predictions of each batch. With `go_on` rows are measured in their order, and none any
    more once it says False; `whole` is then False.
    """

    subject: Subject
    site: Site
    edits: dict[str, Edit]
    at_once: int = 1
    advance: Callable[[int], Any] = int
    go_on: Callable[[], bool] | None = None
    whole: bool = True

    def __call__(self, rows: TextRows, chosen: Array, documents: Array) -> Array:
        """Return sums (documents, len(LOSSES)) over the predictions in the `chosen` rows.

        The rows are of `documents` (len(chosen),).
        """
        known, own = np.unique(documents, return_inverse=True)
        sums = np.zeros((len(known), len(LOSSES)))
        place = dict(zip(chosen.tolist(), own.tolist(), strict=True))
        in_order = self.go_on is not None
        batches = split_by_length(rows, chosen, self.subject.n_vocabulary, in_order)
        at_once = self.at_once if self.subject.device.type == "cpu" else 1
        with edit_by_thread(self.subject, self.site) as logits, share_cores(at_once) as pool:
            made = pool.map(lambda b: row_losses(logits, rows.tokens(b), self.edits), batches)
            for number, (batch, losses) in enumerate(zip(batches, made, strict=True), 1):
                self.advance(int(losses[:, 0].sum()))
                np.add.at(sums, [place[row] for row in batch.tolist()], losses)
                if self.go_on and not self.go_on() and number < len(batches):
                    self.whole = False
                    break
        return sums


Logits = Callable[[Tensor, Edit | None], Tensor]


@contextlib.contextmanager
def edit_by_thread(subject: Subject, site: Site) -> Iterator[Logits]:
    """Context manager: yields logits(tokens (R, T), edit), which several threads may call.

    One hook serves them all, so the edit of one does not reach the pass of another.
    """
    current = threading.local()

    def see(hidden: Tensor) -> Tensor | None:
        edit = getattr(current, "edit", None)
        if edit is None:
            return None
        editable = torch.ones(hidden.shape[:2], dtype=torch.bool, device=subject.device)
        editable[:, 0] = False
        edited: Tensor = edit(hidden.to(subject.device), editable).to(hidden.dtype)
        return edited

    def logits(tokens: Tensor, edit: Edit | None) -> Tensor:
        current.edit = edit
        return subject.logits(tokens)

    with subject.hook(site, see):
        yield logits


@torch.inference_mode()
def row_losses(logits: Logits, tokens: Tensor, edits: dict[str, Edit]) -> Array:
    """Return sums (R, len(LOSSES)) over the predictions of token ids (R, T) without padding."""
    clean = logits(tokens, None).log_softmax(-1)[:, :-1]
    target = tokens[:, 1:, None].to(clean.device)
    sums = {
        "n": torch.full((len(tokens),), tokens.shape[1] - 1.0),
        "clean": -clean.gather(-1, target)[..., 0].double().sum(1),
    }
    for name, edit in edits.items():
        new = logits(tokens, edit).log_softmax(-1)[:, :-1]
        sums[name] = -new.gather(-1, target)[..., 0].double().sum(1)
        if name == "spliced":
            sums["kl"] = (clean.exp() * (clean - new)).double().sum((1, 2))
    table: Array = torch.stack([sums[name].cpu().double() for name in LOSSES], 1).numpy()
    return table


def split_by_length(
    rows: TextRows, chosen: Array, n_vocabulary: int, in_order: bool = False
) -> list[Array]:
    """Split rows into batches of equal length, the shortest first or (`in_order`) as they come.

    A batch's logits are at most about LOGITS numbers.
    """
    lengths = rows.offsets[chosen + 1] - rows.offsets[chosen]
    if in_order:
        runs = np.split(chosen, np.flatnonzero(np.diff(lengths)) + 1)
    else:
        runs = [chosen[lengths == length] for length in np.unique(lengths)]
    batches = []
    for same in runs:
        length = int(rows.offsets[same[0] + 1] - rows.offsets[same[0]])
        size = max(1, int(LOGITS // (n_vocabulary * (length + 1))))
        batches += [same[start : start + size] for start in range(0, len(same), size)]
    return batches

"""Draw what SAEs are measured on: tokens and whole rows of the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.activations.passes import TextRows
from core.activations.store import Activations, open_activations, open_targets
from core.errors import UsageError
from core.records import SPLITS, Site
from core.run import Run
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.text.tokens import Tokens

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """What SAEs are measured on."""

    subject: Subject | None  # only where there are rows for losses
    site: Site  # that is read
    place: Site  # that the SAE reconstructs: the same, but for a transcoder
    source: Activations
    targets: Activations | None  # at `place`; None where it is `site`
    tokens: Tokens
    rows: TextRows
    ordinals: Array  # (n,) of counted tokens of the test split
    loss_rows: Array  # rows of theirs for cross-entropies, in a random order
    to_precision: bool  # stop before the last of them where that is enough
    seed: int


def draw_sample(run: Run, n_tokens: int, loss_tokens: int | None) -> Sample:
    """Draw rows of the test split at random until they hold `n_tokens` tokens.

    The first of them are for losses, until they hold `loss_tokens` (0: as many as the precision
    needs; None: no rows).
    """
    subject = None if loss_tokens is None else load_subject(run)
    tokens = Tokens(run.folder("capture"))
    rows = draw_test_rows(tokens, n_tokens, np.random.default_rng(run.settings.seed))
    loss_rows = rows[:0] if loss_tokens is None else first_tokens(tokens, rows, loss_tokens)
    return Sample(
        subject,
        Site.parse(run.settings.site),
        Site.parse(run.settings.site_out or run.settings.site),
        open_activations(run, subject),
        open_targets(run, subject),
        tokens,
        TextRows.open(tokens.folder, None if subject is None else subject.bos),
        counted_ordinals(tokens, rows),
        loss_rows,
        loss_tokens == 0,
        run.settings.seed,
    )


def draw_test_rows(tokens: Tokens, n_tokens: int, rng: np.random.Generator) -> Array:
    """Draw rows of the test split until they hold `n_tokens` tokens (0: all).

    Raises UsageError when there are none.
    """
    rows = np.flatnonzero(tokens.split[tokens.row_document] == SPLITS.index("test"))
    if not len(rows):
        raise UsageError(
            "No document fell into the test split.",
            "Capture more documents: the splits are 60 / 10 / 30 of them.",
        )
    return first_tokens(tokens, rng.permutation(rows), n_tokens)


def first_tokens(tokens: Tokens, rows: Array, n_tokens: int) -> Array:
    """Return the first of `rows` until they hold `n_tokens` tokens (0: all of them)."""
    total = np.cumsum(np.diff(tokens.row_offsets)[rows])
    return rows[: int(np.searchsorted(total, n_tokens)) + 1] if n_tokens else rows


def counted_ordinals(tokens: Tokens, rows: Array) -> Array:
    """Return the ordinals of the counted tokens of `rows`, in order."""
    offsets = tokens.row_offsets
    ordinals = np.concatenate([np.arange(offsets[r], offsets[r + 1]) for r in np.sort(rows)])
    counted: Array = ordinals[tokens.counted[ordinals]]
    return counted

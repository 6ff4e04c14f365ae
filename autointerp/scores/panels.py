"""Held-out windows for detection and fuzzing: positives, random negatives and hard negatives.

    fires    windows around firings, evenly from the five quantile strata of non-zero activations
    random   windows anywhere in which the feature fires on no token
    hard     windows around a rival's firing (see `rivals`) in which the feature fires on no token

No two windows of a feature overlap, and they come from as many documents as possible. Each window
has marks, which fuzzing shows: in `fires` windows the firing tokens; in `hard` windows the tokens
on which the rival fires; in `random` windows as many random tokens as some `fires` window has. A
panel depends on the seed and the feature alone, so that every label set is tried on the same
windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.examples import STRATA, Examples, Firings
from autointerp.scores.rivals import Rivals
from autointerp.scores.strata import SILENT, quantile_of
from core.firings.postings import lookup
from core.records import Undefined

FIRES, RANDOM, HARD = range(3)
LEAST = 5  # documents with a silent window of a sort; with fewer, the score is undefined
TRIES = 40  # random tokens, for each window wanted, around which a silent window is sought


@dataclass(frozen=True)
class Panel:
    """The windows (w,) of one feature, or why no label can be tried on them (`undefined`)."""

    feature: int
    starts: np.ndarray  # (w,) int64 ordinals of first tokens
    ends: np.ndarray  # (w,) int64 ordinals past the last tokens
    sorts: np.ndarray  # (w,) FIRES, RANDOM or HARD
    documents: np.ndarray  # (w,)
    marks: tuple[np.ndarray, ...]  # (w,) ordinals in each window
    undefined: Undefined | None = None
    # (w,) quantile of the window's peak among the held-out firings; SILENT for silent windows
    quantiles: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def count(self, sort: int) -> int:
        """Return the number of documents from which the windows of a sort come."""
        return len(set(self.documents[self.sorts == sort].tolist()))


def draw_panel(examples: Examples, rivals: Rivals, windows: int, seed: int, feature: int) -> Panel:
    """Draw up to `windows` windows of each sort for one feature."""
    rng = np.random.default_rng([seed, feature, 3])
    firings = examples.postings.firings(feature)
    where = firings[0]
    taken: list[tuple[int, int]] = []
    strata = examples.draw(firings, "test", {"strata": 3 * -(-windows // len(STRATA))}, rng)
    in_turn = np.argsort(_rank_within(strata.strata), kind="stable")  # strata take turns
    fires = _choose_windows(examples, strata.ordinals[in_turn], windows, taken)
    pool = examples.pool("test")
    tried = rng.choice(pool, min(TRIES * windows, len(pool)), replace=False)
    random = _choose_windows(examples, _keep_silent(examples, tried, where), windows, taken)
    numbers = rivals.draw_peaks(feature, rng)
    peaks = rivals.peaks.ravel()[numbers]
    hard = _choose_windows(examples, _keep_silent(examples, peaks, where), windows, taken)

    ordinals = np.concatenate([fires, random, hard]).astype(np.int64)
    starts, ends = examples.window(ordinals)
    sorts = np.repeat([FIRES, RANDOM, HARD], [len(fires), len(random), len(hard)])
    bounds = list(zip(starts.tolist(), ends.tolist(), strict=True))
    marks = [_firings_between(where, *bound) for bound in bounds[: len(fires)]]
    silent = bounds[len(fires) : len(fires) + len(random)]
    marks += [_draw_marks(marks, *bound, rng) for bound in silent]
    number_of = dict(zip(peaks.tolist(), numbers.tolist(), strict=True))
    marks += [rivals.firings_around(number_of[ordinal]) for ordinal in hard]
    documents = examples.tokens.document_of(ordinals)
    quantiles = np.full(len(ordinals), SILENT)
    quantiles[: len(fires)] = _quantiles(examples, firings, fires)
    panel = Panel(feature, starts, ends, sorts, documents, tuple(marks), None, quantiles)
    return replace(panel, undefined=_why_undefined(panel))


def _quantiles(examples: Examples, firings: Firings, peaks: list[int]) -> np.ndarray:
    """(peaks,) share of the held-out firings that are weaker than each peak."""
    _, held_out, _ = examples.firings_in(firings, "test")
    return quantile_of(held_out, lookup(*firings, np.array(peaks, np.int64)))


def _firings_between(where: np.ndarray, start: int, end: int) -> np.ndarray:
    first, last = np.searchsorted(where, [start, end])
    return where[first:last]


def _draw_marks(
    marks: list[np.ndarray], start: int, end: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw random ordinals from a window, as many as one randomly chosen entry of `marks` has."""
    count = len(marks[rng.integers(len(marks))]) if marks else 1
    return np.sort(rng.choice(np.arange(start, end), min(count, end - start), replace=False))


def _why_undefined(panel: Panel) -> Undefined | None:
    """Return why no label can be tried on the panel, or None."""
    fires, random = panel.count(FIRES), panel.count(RANDOM)
    if fires < RARE_DOCUMENTS:
        reason = f"fires in {fires} documents of the panel; {RARE_DOCUMENTS} are needed"
        return Undefined("too_rare", reason)
    if random < LEAST:
        reason = f"only {random} documents have a window without it; {LEAST} are needed"
        return Undefined("too_dense", reason)
    return None


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """Return for each entry how many equal entries stand before it."""
    out = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        out[groups == group] = np.arange((groups == group).sum())
    return out


def _keep_silent(examples: Examples, ordinals: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the ordinals whose windows hold none of the firings `where` (ascending ordinals)."""
    starts, ends = examples.window(ordinals)
    return ordinals[np.searchsorted(where, starts) == np.searchsorted(where, ends)]


def _choose_windows(
    examples: Examples, ordinals: np.ndarray, count: int, taken: list[tuple[int, int]]
) -> list[int]:
    """Choose the first `count` ordinals whose windows are free, from new documents first.

    A window is free when it overlaps none of `taken`; the chosen windows are appended to `taken`.
    """
    chosen: list[int] = []
    used: dict[int, int] = {}
    documents = examples.tokens.document_of(ordinals).tolist()
    starts, ends = (side.tolist() for side in examples.window(ordinals))
    tried = list(zip(ordinals.tolist(), documents, starts, ends, strict=True))
    for most in (1, 2, 4):  # windows of one document
        for ordinal, document, start, end in tried:
            if len(chosen) == count:
                return chosen
            if used.get(document, 0) < most and all(end <= a or b <= start for a, b in taken):
                chosen.append(ordinal)
                taken.append((start, end))
                used[document] = used.get(document, 0) + 1
    return chosen

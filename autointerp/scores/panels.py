"""Windows of held-out text on which labels are tried as a whole: some fire, some are random and silent, some are silent and hard.

    fires    evenly from the five quantile strata of the non-zero activations
    random   anywhere, the feature silent on every token of the window
    hard     around a firing of a rival (`rivals`), the feature silent on every token of the window

No two windows of one feature overlap, and documents are taken in turn, so that each window is nearly a document of its own. Each window
also has marks: the firing tokens; in hard windows those on which the rival fires; in random ones as many random tokens as some firing
window has. The panel of a feature depends on the seed alone: every labeller is tried on the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.examples import Examples
from autointerp.scores.rivals import Rivals

FIRES, RANDOM, HARD = range(3)
LEAST = 5  # windows of a sort, in as many documents


@dataclass(frozen=True)
class Panel:
    """The windows (w,) of one feature; `failure` is (kind, message) when it has none on which a label could be tried."""

    feature: int
    starts: np.ndarray  # (w,) int64 ordinals
    ends: np.ndarray  # (w,) past the last
    sorts: np.ndarray  # (w,) FIRES, RANDOM or HARD
    documents: np.ndarray  # (w,)
    marks: tuple[np.ndarray, ...]  # ordinals in each window
    failure: tuple[str, str] | None = None

    def count(self, sort: int) -> int:
        """Documents that windows of a sort come from."""
        return len(set(self.documents[self.sorts == sort].tolist()))


def draw_panel(examples: Examples, rivals: Rivals, windows: int, seed: int, feature: int) -> Panel:
    """Up to `windows` windows of each sort for one feature."""
    rng = np.random.default_rng([seed, feature, 3])
    where = examples.postings.firings(feature)
    strata = examples.draw(where, "test", {"strata": 3 * -(-windows // 5)}, rng)
    by_turns = np.argsort(
        _ranks(strata.strata), kind="stable"
    )  # the first of each stratum, then the second of each, ...
    taken: list[tuple[int, int]] = []
    fires = _spread(examples, strata.ordinals[by_turns], windows, taken)
    pool = examples.pool("test")
    silent = rng.choice(pool, min(40 * windows, len(pool)), replace=False)
    random = _spread(examples, _silent(examples, silent, where[0]), windows, taken)
    numbers = rivals.drawn(feature, rng)
    tried = rivals.peaks.ravel()[numbers]
    hard = _spread(examples, _silent(examples, tried, where[0]), windows, taken)
    ordinals = np.concatenate([fires, random, hard]).astype(np.int64)
    starts, ends = examples.window(ordinals)
    sorts = np.repeat([FIRES, RANDOM, HARD], [len(fires), len(random), len(hard)])
    number_of = dict(zip(tried.tolist(), numbers.tolist(), strict=True))
    marks = [
        where[0][a:b]
        for a, b in zip(
            *(np.searchsorted(where[0], side[: len(fires)]).tolist() for side in (starts, ends)),
            strict=True,
        )
    ]
    marks += [
        _like(marks, start, end, rng)
        for start, end in zip(
            *(side[sorts == RANDOM].tolist() for side in (starts, ends)), strict=True
        )
    ]
    marks += [rivals.marks(number_of[ordinal]) for ordinal in hard]
    panel = Panel(feature, starts, ends, sorts, examples.tokens.document_of(ordinals), tuple(marks))
    return replace(panel, failure=_failure(panel))


def _like(marks: list[np.ndarray], start: int, end: int, rng: np.random.Generator) -> np.ndarray:
    """As many random ordinals of a window as one of `marks`, drawn at random, has."""
    count = len(marks[rng.integers(len(marks))]) if marks else 1
    return np.sort(rng.choice(np.arange(start, end), min(count, end - start), replace=False))


def _failure(panel: Panel) -> tuple[str, str] | None:
    if panel.count(FIRES) < RARE_DOCUMENTS:
        return (
            "too_rare",
            f"fires in {panel.count(FIRES)} documents of the panel; {RARE_DOCUMENTS} are needed",
        )
    if panel.count(RANDOM) < LEAST:
        return (
            "too_dense",
            f"only {panel.count(RANDOM)} documents have a window without it; {LEAST} are needed",
        )
    return None


def _ranks(groups: np.ndarray) -> np.ndarray:
    """For each entry how many equal ones stand before it."""
    out = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        out[groups == group] = np.arange((groups == group).sum())
    return out


def _silent(examples: Examples, ordinals: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Those ordinals in whose windows the feature, with firings `where`, never fires."""
    starts, ends = examples.window(ordinals)
    return ordinals[np.searchsorted(where, starts) == np.searchsorted(where, ends)]


def _spread(
    examples: Examples, ordinals: np.ndarray, count: int, taken: list[tuple[int, int]]
) -> list[int]:
    """The first `count` ordinals in the order given whose windows are free, new documents first; `taken` grows by their windows."""
    chosen: list[int] = []
    used: dict[int, int] = {}
    documents = examples.tokens.document_of(ordinals).tolist()
    starts, ends = (side.tolist() for side in examples.window(ordinals))
    for most in (1, 2, 4):
        for ordinal, document, start, end in zip(
            ordinals.tolist(), documents, starts, ends, strict=True
        ):
            if len(chosen) == count:
                return chosen
            if used.get(document, 0) < most and all(end <= a or b <= start for a, b in taken):
                chosen.append(ordinal)
                taken.append((start, end))
                used[document] = used.get(document, 0) + 1
    return chosen

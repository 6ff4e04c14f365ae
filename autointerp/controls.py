"""The controls of a run, and what its labels gain over them.

A control of the run NAME lies beside it and is called NAME-...: the same subject with random
weights, or untrained directions over the same activations. A label's *gain* is its coverage less
that of the labels of a control: their median over the features of like density, because a label of
a dense feature covers more whatever it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autointerp.labels.unit import RULES
from autointerp.scores.unit import COVERAGE, find_scores
from core.errors import ToolError
from core.firings.postings import Postings
from core.run import Run

LIKE = 24  # features of a control whose densities are nearest
UNTRAINED = "untrained subject"


@dataclass(frozen=True)
class Control:
    """One control of a run."""

    name: str  # for people
    run: Run

    @cached_property
    def covered(self) -> tuple[np.ndarray, np.ndarray]:
        """(densities (m,) ascending, coverage (m,)) of its scored features; none unscored."""
        scores = find_scores(self.run, RULES, COVERAGE)
        if scores is None or not self.run.find("index"):
            return np.zeros(0), np.zeros(0)
        scored = scores[scores["value"].notna()]
        postings = Postings(self.run.folder("index"), self.run.folder("capture"))
        density = (postings.n_firings / postings.n_tokens)[scored["feature"].to_numpy()]
        order = np.argsort(density, kind="stable")
        return density[order], scored["value"].to_numpy(float)[order]

    def coverage_at(self, density: np.ndarray) -> np.ndarray:
        """(m,) median coverage of its features of like density; NaN where nothing is scored."""
        known, values = self.covered
        if not len(known):
            return np.full(len(density), np.nan)
        size = min(LIKE, len(known))
        first = np.searchsorted(known, density) - size // 2
        first = np.clip(first, 0, len(known) - size)
        return np.median(values[first[:, None] + np.arange(size)], axis=1)


def find_controls(run: Run) -> list[Control]:
    """The controls that lie beside a run, by name."""
    found = []
    for path in sorted(run.path.parent.glob(f"{run.path.name}-*")):
        if not (path / "run.json").exists():
            continue
        try:
            other = Run.open(str(path))
        except ToolError:  # of another version of the program
            continue
        same = (other.settings.subject, other.settings.site) == (
            run.settings.subject,
            run.settings.site,
        )
        if same and (name := name_control(other, run)):
            found.append(Control(name, other))
    return found


def name_control(control: Run, run: Run) -> str:
    """What a control is called; empty for a run that is none of this run."""
    if control.settings.weights == "random":
        return UNTRAINED if run.settings.weights != "random" else ""
    unit = control.find("train")
    directions = unit.summary.get("untrained") if unit else None
    return f"{directions} directions" if directions else ""


def gains(
    controls: list[Control], density: np.ndarray, coverage: np.ndarray
) -> dict[str, np.ndarray]:
    """{name of a control: coverage (m,) less that of its features of like density}."""
    found = {c.name: coverage - c.coverage_at(density) for c in controls}
    return {name: gain for name, gain in found.items() if not np.isnan(gain).all()}

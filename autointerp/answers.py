"""What a study answers: the features that fire on a text, and texts with and without clamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from autointerp.clamps import DOSES
from core.clamps.experiments import Experiment
from core.errors import UsageError
from core.records import Clamp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from autointerp.study import Study


@dataclass(frozen=True)
class TopFeatures:
    """The features that fire on a text. `table` lists them, strongest first; `activations` holds
    every one.
    """

    tokens: list[str]  # (T,) of the text, without BOS
    firings: list[dict]  # position, feature, activation, label; in the order of the text
    n_features: int

    @property
    def table(self) -> pd.DataFrame:
        """feature, activation (largest on the text, SAE units), token and position where it is,
        label.
        """
        rows = pd.DataFrame(self.firings, columns=["position", "feature", "activation", "label"])
        best = rows.sort_values("activation", ascending=False, kind="stable").drop_duplicates(
            "feature"
        )
        best = best.assign(token=[self.tokens[p] for p in best["position"]])
        return best[["feature", "activation", "token", "position", "label"]].reset_index(drop=True)

    @property
    def activations(self) -> np.ndarray:
        """Activations (T, F) float32 of every feature on every token, SAE units."""
        out = np.zeros((len(self.tokens), self.n_features), np.float32)
        for firing in self.firings:
            out[firing["position"], firing["feature"]] = firing["activation"]
        return out

    def _repr_html_(self) -> str:
        return self.table.head(20).to_html(index=False)

    def __str__(self) -> str:
        return self.table.head(20).to_string(index=False)


@dataclass(frozen=True)
class ClampedTexts:
    """Texts with and without clamps, as they were kept in the run."""

    study: Study
    experiment: Experiment
    saved: str  # its place inside the run

    @property
    def baseline(self) -> tuple[str, ...]:
        """Continuations without the clamps, one for each prompt and seed."""
        return self.experiment.baseline

    @property
    def clamped(self) -> tuple[str, ...]:
        """Continuations with the clamps, in the order of `baseline`."""
        return self.experiment.clamped

    def doses(self, doses: Sequence[float] = ()) -> ClampedTexts:
        """The same clamps measured at multiples of their value, on held-out text; kept as a new
        experiment.
        """
        clamps = [Clamp.parse(*text.split(" ", 1)) for text in self.experiment.clamps]
        return self.study.clamp(clamps, self.experiment.prompts, doses=doses or DOSES)

    def plot(self, dark: bool = False) -> Figure:
        """The dose-response curve. Raises UsageError when no doses were measured."""
        from figures.plots.doses import dose_curves

        if not self.experiment.doses:
            raise UsageError(
                "No doses were measured.", "Measure them: study.clamp(...).doses().plot()"
            )
        return dose_curves(self.experiment, dark)

    def __str__(self) -> str:
        pairs = zip(self.experiment.prompts, self.baseline, self.clamped, strict=True)
        return "\n\n".join(f"{p}\n  without  {a!r}\n  with     {b!r}" for p, a, b in pairs)


def clamps_of(clamps: Mapping[int, str | float] | Sequence[Clamp]) -> list[Clamp]:
    """{feature: value} or a list of clamps as a list of clamps; "4x" is four times the maximum."""
    if isinstance(clamps, Mapping):
        return [Clamp.parse("set", f"{feature}={value}") for feature, value in clamps.items()]
    return list(clamps)

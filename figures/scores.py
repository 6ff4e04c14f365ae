"""Label scores against their null and against the same pipeline on the untrained subject."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, themed


def score_curves(score: np.ndarray, null: np.ndarray, control: np.ndarray | None, live: int, dark: bool = False) -> Figure:
    """Share of features whose score is at least x: labels (n,), another feature's label on the same tokens (n,), untrained subject (m,).

    The share is of all `live` features, so a curve starts below 1 when some labels have no score.
    """
    curves = [("labels", score, live, COLOURS["score"], "-"), ("null: another feature's label", null, live, COLOURS["null"], "-")]
    if control is not None:
        curves.append(("control: labels on the untrained subject", control, len(control), COLOURS["control"], "--"))
    with themed(dark) as theme:
        figure = Figure(figsize=(7.5, 4.9), layout="constrained")
        axes = figure.add_subplot()
        for name, values, whole, colour, line in curves:
            ordered = np.sort(values[np.isfinite(values)])
            if not len(ordered):
                continue
            share = np.arange(len(ordered), 0, -1) / whole
            axes.step(ordered, share, where="post", color=colour, linestyle=line, label=f"{name} (median {np.median(ordered):.2f})")
        axes.axvline(0, color=theme["faint"], linewidth=0.8)
        axes.set(
            xlim=(-0.25, 1),
            ylim=(0, 1.02),
            xlabel="simulation score (correlation on unseen documents)",
            ylabel="share of live features at or above",
            title="What labels predict",
        )
        figure.legend(loc="outside lower center")
        return figure


def scores_by_kind(kinds: list[str], scores: list[np.ndarray], dark: bool = False) -> Figure:
    """The distribution of scores for each kind of label, widest group first; `scores` holds one array a kind."""
    order = sorted(range(len(kinds)), key=lambda i: -len(scores[i]))
    with themed(dark) as theme:
        figure = Figure(figsize=(7.5, 0.55 * len(kinds) + 1.4), layout="constrained")
        axes = figure.add_subplot()
        parts = axes.boxplot([scores[i] for i in order], orientation="horizontal", widths=0.6, patch_artist=True, showfliers=False)
        for box in parts["boxes"]:
            box.set(facecolor=COLOURS["score"], alpha=0.55, edgecolor=theme["ink"])
        for line in parts["medians"] + parts["whiskers"] + parts["caps"]:
            line.set(color=theme["ink"])
        axes.set_yticks(range(1, len(order) + 1), [f"{kinds[i]} ({len(scores[i]):,})" for i in order])
        axes.invert_yaxis()
        axes.set(xlabel="simulation score", title="Scores by kind of label", xlim=(-0.1, 1))
        axes.grid(axis="y", visible=False)
        return figure

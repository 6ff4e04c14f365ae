"""Figures of label scores: against their null and a control, by kind of label, by density."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLOURS, use_theme

MOST_STEPS = 400  # of a curve: more cannot be seen, and an SVG grows with them


def score_curves(
    score: np.ndarray, null: np.ndarray, control: np.ndarray | None, alive: int, dark: bool = False
) -> Figure:
    """Share of features whose score is at least x.

    The scores are those of the labels (n,), of another feature's label on the same tokens (n,) and
    of labels on the untrained subject (m,). The share is of all `alive` features, so a curve starts
    below 1 when some labels have no score. The bands are 95 % intervals of a share.
    """
    with use_theme(dark) as theme:
        figure = Figure(figsize=(7.5, 4.9), layout="constrained")
        axes = figure.add_subplot()
        draw_curve(axes, "labels", score, alive, COLOURS["score"])
        draw_curve(axes, "null: another feature's label", null, alive, COLOURS["null"])
        if control is not None:
            name = "control: labels on the untrained subject"
            draw_curve(axes, name, control, len(control), COLOURS["control"], "--")
        axes.axvline(0, color=theme["faint"], linewidth=0.8)
        axes.set(
            xlim=(-0.25, 1),
            ylim=(0, 1.02),
            xlabel="simulation score (correlation on unseen documents)",
            ylabel="share of alive features at or above",
            title="What labels predict",
        )
        figure.legend(loc="outside lower center")
    return figure


def draw_curve(
    axes: Axes, name: str, values: np.ndarray, whole: int, colour: str, line: str = "-"
) -> None:
    """The share of `whole` features that score at least x, with its band."""
    ordered = np.sort(values[np.isfinite(values)])
    n = len(ordered)
    if not n:
        return
    median = round(np.median(ordered), 2) + 0.0  # no -0.00
    shown = np.unique(np.linspace(0, n - 1, min(n, MOST_STEPS)).astype(int))
    share = (np.arange(n, 0, -1) / whole)[shown]
    ordered = ordered[shown]
    half = 1.96 * np.sqrt(share * (1 - np.minimum(share, 1)) / whole)
    band: dict[str, Any] = {"step": "post", "color": colour, "alpha": 0.16, "linewidth": 0}
    axes.fill_between(ordered, share - half, share + half, **band)
    label = f"{name} (median {median:.2f}, n = {n:,})"
    axes.step(ordered, share, where="post", color=colour, linestyle=line, label=label)


def scores_by_kind(kinds: list[str], scores: list[np.ndarray], dark: bool = False) -> Figure:
    """The distribution of scores for each kind of label, the kind with most labels first.

    `scores` holds one array for each of `kinds`.
    """
    order = sorted(range(len(kinds)), key=lambda i: -len(scores[i]))
    with use_theme(dark) as theme:
        figure = Figure(figsize=(7.5, 0.55 * len(kinds) + 1.4), layout="constrained")
        axes = figure.add_subplot()
        look: dict[str, Any] = {"widths": 0.6, "patch_artist": True, "showfliers": False}
        parts = axes.boxplot([scores[i] for i in order], orientation="horizontal", **look)
        for box in parts["boxes"]:
            box.set(facecolor=COLOURS["score"], alpha=0.55, edgecolor=theme["ink"])
        for line in parts["medians"] + parts["whiskers"] + parts["caps"]:
            line.set(color=theme["ink"])
        names = [f"{kinds[i]} ({len(scores[i]):,})" for i in order]
        axes.set_yticks(range(1, len(order) + 1), names)
        axes.invert_yaxis()
        axes.set(xlabel="simulation score", title="Scores by kind of label", xlim=(-0.1, 1))
        axes.grid(axis="y", visible=False)
    return figure


def scores_by_density(density: np.ndarray, score: np.ndarray, dark: bool = False) -> Figure:
    """Scores (n,) against densities (n,): features in each hexagon, medians of fifteenths."""
    known = np.isfinite(score) & (density > 0)
    across, score = np.log10(density[known]), score[known]
    with use_theme(dark) as theme:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        if len(score) >= 300:
            drawn = axes.hexbin(across, score, gridsize=34, mincnt=1, bins="log", linewidths=0.2)
            figure.colorbar(drawn, ax=axes, label="features (log)", pad=0.01)
        else:
            axes.scatter(across, score, s=22, color=COLOURS["score"], alpha=0.7, linewidths=0)
        if len(score) >= 45:
            draw_medians(axes, across, score)
        set_log_ticks(axes, across)
        axes.set_ylim(min(-0.1, score.min(initial=0)), 1.02)
        axes.set(
            xlabel="share of tokens on which the feature fires (log)",
            ylabel="simulation score",
            title=f"Scores against density, {len(score):,} features",
        )
        axes.grid(color=theme["grid"])
    return figure


def draw_medians(axes: Axes, across: np.ndarray, score: np.ndarray) -> None:
    """The median score of each fifteenth of the features, in the order of their densities."""
    parts = np.array_split(np.argsort(across, kind="stable"), 15)
    x = [np.median(across[p]) for p in parts]
    y = [np.median(score[p]) for p in parts]
    axes.plot(x, y, color=COLOURS["clamped"], marker="o", markersize=3.5, label="median")
    axes.legend(loc="lower right")


def set_log_ticks(axes: Axes, across: np.ndarray) -> None:
    """Ticks at powers of ten for the logarithms `across`; at least one tick is on the axis."""
    ticks = np.arange(np.floor(across.min(initial=-3)), np.ceil(across.max(initial=-1)) + 1)
    axes.set_xticks(ticks, [name_power(t) for t in ticks])
    ends = (across.min() - 0.1, across.max() + 0.1) if len(across) else (-4, 0)
    if np.diff(ends) < 1.2:
        ends = (min(ends[0], ticks[0]), max(ends[1], ticks[-1]))
    axes.set_xlim(ends)


def name_power(exponent: float) -> str:
    """10 to the power of `exponent` as a tick shows it."""
    return f"{10**exponent:.4g}" if exponent >= -4 else f"1e{exponent:.0f}"

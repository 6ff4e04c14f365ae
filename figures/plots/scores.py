"""Label scores against their null and against the same pipeline on the untrained subject."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, themed

MOST_STEPS = 400  # of a curve: more cannot be seen, and an SVG grows with them


def score_curves(
    score: np.ndarray, null: np.ndarray, control: np.ndarray | None, live: int, dark: bool = False
) -> Figure:
    """Share of features whose score is at least x: labels (n,), another feature's label on the same tokens (n,), untrained subject (m,).

    The share is of all `live` features, so a curve starts below 1 when some labels have no score; the bands are 95 % intervals of a share.
    """
    curves = [
        ("labels", score, live, COLOURS["score"], "-"),
        ("null: another feature's label", null, live, COLOURS["null"], "-"),
    ]
    if control is not None:
        curves.append(
            (
                "control: labels on the untrained subject",
                control,
                len(control),
                COLOURS["control"],
                "--",
            )
        )
    with themed(dark) as theme:
        figure = Figure(figsize=(7.5, 4.9), layout="constrained")
        axes = figure.add_subplot()
        for name, values, whole, colour, line in curves:
            ordered = np.sort(values[np.isfinite(values)])
            if not len(ordered):
                continue
            share = np.arange(len(ordered), 0, -1) / whole
            shown = np.unique(
                np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_STEPS)).astype(int)
            )
            middle, n = np.median(ordered), len(ordered)
            ordered, share = ordered[shown], share[shown]
            half = 1.96 * np.sqrt(share * (1 - np.minimum(share, 1)) / whole)
            axes.fill_between(
                ordered,
                share - half,
                share + half,
                step="post",
                color=colour,
                alpha=0.16,
                linewidth=0,
            )
            axes.step(
                ordered,
                share,
                where="post",
                color=colour,
                linestyle=line,
                label=f"{name} (median {round(middle, 2) + 0.0:.2f}, n = {n:,})",
            )  # no -0.00
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
        parts = axes.boxplot(
            [scores[i] for i in order],
            orientation="horizontal",
            widths=0.6,
            patch_artist=True,
            showfliers=False,
        )
        for box in parts["boxes"]:
            box.set(facecolor=COLOURS["score"], alpha=0.55, edgecolor=theme["ink"])
        for line in parts["medians"] + parts["whiskers"] + parts["caps"]:
            line.set(color=theme["ink"])
        axes.set_yticks(
            range(1, len(order) + 1), [f"{kinds[i]} ({len(scores[i]):,})" for i in order]
        )
        axes.invert_yaxis()
        axes.set(xlabel="simulation score", title="Scores by kind of label", xlim=(-0.1, 1))
        axes.grid(axis="y", visible=False)
        return figure


def scores_by_density(density: np.ndarray, score: np.ndarray, dark: bool = False) -> Figure:
    """Scores (n,) against densities (n,): how many features in each hexagon, and the running median over fifteenths of the features."""
    known = np.isfinite(score) & (density > 0)
    across, score = np.log10(density[known]), score[known]
    with themed(dark) as theme:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        if len(score) >= 300:
            drawn = axes.hexbin(across, score, gridsize=34, mincnt=1, bins="log", linewidths=0.2)
            figure.colorbar(drawn, ax=axes, label="features (log)", pad=0.01)
        else:
            axes.scatter(across, score, s=22, color=COLOURS["score"], alpha=0.7, linewidths=0)
        if len(score) >= 45:
            parts = np.array_split(np.argsort(across, kind="stable"), 15)
            axes.plot(
                [np.median(across[p]) for p in parts],
                [np.median(score[p]) for p in parts],
                color=COLOURS["clamped"],
                marker="o",
                markersize=3.5,
                label="median",
            )
            axes.legend(loc="lower right")
        ticks = np.arange(np.floor(across.min(initial=-3)), np.ceil(across.max(initial=-1)) + 1)
        axes.set_xticks(ticks, [f"{10**t:.4g}" if t >= -4 else f"1e{t:.0f}" for t in ticks])
        ends = (across.min() - 0.1, across.max() + 0.1) if len(across) else (-4, 0)
        if np.diff(ends) < 1.2:  # so that a tick stands on the axis, however few features there are
            ends = (min(ends[0], ticks[0]), max(ends[1], ticks[-1]))
        axes.set(xlim=ends, ylim=(min(-0.1, score.min(initial=0)), 1.02))
        axes.set(
            xlabel="share of tokens on which the feature fires (log)",
            ylabel="simulation score",
            title=f"Scores against density, {len(score):,} features",
        )
        axes.grid(color=theme["grid"])
    return figure

"""What the groups of a cluster map are worth: their sizes, and each figure of the method beside what it gives where there are no groups."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLOURS, plain, themed

MOST_BARS = 24


def group_figure(sizes: dict[int, int], titles: dict[int, str], comparisons: list[tuple[str, float, float]], dark: bool = False) -> Figure:
    """Sizes of the largest 24 groups with their titles; beside them (name, real, null) comparisons, each on its own scale from 0."""
    with themed(dark) as theme:
        figure = Figure(figsize=(8, 5), layout="constrained")
        grid = figure.add_gridspec(max(1, len(comparisons)), 2, width_ratios=(2.2, 1))
        left, right = figure.add_subplot(grid[:, 0]), [figure.add_subplot(grid[i, 1]) for i in range(len(comparisons))]
        draw_sizes(left, sizes, titles)
        for axes, (name, real, null) in zip(right, comparisons, strict=True):
            draw_comparison(axes, name, real, null, theme)
    return figure


def draw_sizes(axes: Axes, sizes: dict[int, int], titles: dict[int, str]) -> None:
    """A bar a group, the largest on top."""
    shown = sorted(sizes, key=lambda g: (-sizes[g], g))[:MOST_BARS]
    place = np.arange(len(shown))[::-1]
    axes.barh(place, [sizes[g] for g in shown], color=COLOURS["score"], height=0.7)
    axes.set_yticks(place, [plain(titles.get(g, f"group {g}")) for g in shown], fontsize=7)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("features")
    rest = len(sizes) - len(shown)
    axes.set_title(f"{len(sizes)} groups" + (f", the {len(shown)} largest" if rest else ""))


def draw_comparison(axes: Axes, name: str, real: float, null: float, theme: dict) -> None:
    """Two bars with their numbers: the real directions, and the null."""
    axes.barh([1, 0], [real, null], color=[COLOURS["score"], COLOURS["null"]], height=0.6)
    for place, value in ((1, real), (0, null)):
        axes.annotate(f"{value:.3g}", (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=theme["ink"])
    axes.set_yticks([1, 0], ["real", "null"], fontsize=8)
    axes.set_xlim(0, 1.25 * max(real, null, 1e-9))
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(plain(name), fontsize=9)

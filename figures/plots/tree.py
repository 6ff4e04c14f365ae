"""Figure of clusters within clusters: a column a level, a box a cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from figures.plots.clusters import DISSOLVED, Titles, count_clusters, name_level
from figures.style import escape_text, use_theme

SOLID, PALE = 0.45, 0.14  # opacity of boxes: ink on the strongest hue keeps a contrast of 4.5
LINE = 10.0  # points of height that a title needs
SIZE = 7.5  # points of a title's letters

Spans = dict[tuple[int, int], tuple[float, float]]  # {(level, cluster): (low, high)}


def tree_figure(records: list[dict], titles: Titles, n_features: int, dark: bool = False) -> Figure:
    """Nested levels as an icicle: a box's height is the share of the alive features.

    `records` are those of groups.json. Boxes of dissolved clusters are pale; a box is named where
    its title fits. Clusters outside every coarser one stand below the others.
    """
    n_levels = max((r["layer"] for r in records), default=-1) + 1
    spans = place_boxes(records, n_features)
    with use_theme(dark) as theme:
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.add_subplot()
        lowest = max((high for _, high in spans.values()), default=1.0)
        set_axes(axes, records, n_features, lowest)
        figure.draw_without_rendering()  # the layout must be final before text is fitted into boxes
        extent, inch = axes.get_window_extent(), 72 / figure.dpi
        width, height = extent.width * inch / max(n_levels, 1), extent.height * inch
        for record in records:
            span = spans[record["layer"], record["group"]]
            draw_box(axes, record, span, theme)
            title = titles.get((record["layer"], record["group"]), "")
            high_enough = (span[1] - span[0]) / lowest * height >= LINE
            if title and high_enough and measure_width(title, SIZE) <= 0.94 * width:
                at = record["layer"] + 0.03, sum(span) / 2
                look: dict[str, Any] = {
                    "va": "center",
                    "fontsize": SIZE,
                    "color": theme["ink"],
                    "clip_on": True,
                }
                axes.text(*at, escape_text(title), **look)
        if any(is_dissolved(r) for r in records):
            note = "pale: less than half comes back in subsamples, so it has no name"
            axes.set_xlabel(note, fontsize=8, color=theme["faint"])
    return figure


def set_axes(axes: Axes, records: list[dict], n_features: int, lowest: float) -> None:
    """A column for each level, and features counted downwards to the `lowest` box's end."""
    n_levels = max((r["layer"] for r in records), default=-1) + 1
    axes.set(xlim=(0, max(n_levels, 1)), ylim=(lowest, 0), xticks=np.arange(n_levels) + 0.5)
    counts = [count_clusters(sum(r["layer"] == i for r in records)) for i in range(n_levels)]
    axes.set_xticklabels([f"{name_level(i, n_levels)}: {n}" for i, n in enumerate(counts)])
    ticks = np.asarray(MaxNLocator(5, integer=True).tick_values(0, n_features * lowest))
    ticks = ticks[ticks <= n_features * lowest]
    axes.set_yticks(ticks / n_features, [f"{t:,.0f}" for t in ticks])
    axes.set(ylabel="features in clusters", title="Clusters within clusters")
    axes.grid(False)


def draw_box(axes: Axes, record: dict, span: tuple[float, float], theme: dict) -> None:
    hue = record["hue"]
    colour = theme["palette"][hue] if hue >= 0 else theme["faint"]
    corner, size = (record["layer"] + 0.01, span[0]), (0.98, span[1] - span[0])
    look: dict[str, Any] = {"edgecolor": theme["page"], "linewidth": 0.6}
    alpha = PALE if is_dissolved(record) else SOLID
    axes.add_patch(Rectangle(corner, *size, facecolor=colour, alpha=alpha, **look))


def is_dissolved(record: dict) -> bool:
    """Whether less than half of the cluster comes back in subsamples; False where unknown."""
    return record.get("jaccard") is not None and record["jaccard"] < DISSOLVED


def place_boxes(records: list[dict], n_features: int) -> Spans:
    """{(level, cluster): (low, high)} as shares of the height.

    Clusters stand within the finest cluster that they lie in, the largest first; those that lie in
    none stand after all others.
    """
    spans: Spans = {}
    for level in range(max((r["layer"] for r in records), default=-1) + 1):
        end = max((high for _, high in spans.values()), default=0.0)
        used: dict[tuple[int, int] | None, float] = {}
        pairs = [(find_parent(r), r) for r in records if r["layer"] == level]
        for parent, record in sorted(pairs, key=lambda p: (p[0] is None, p[1]["group"])):
            start = used.get(parent, end if parent is None else spans[parent][0])
            used[parent] = start + record["size"] / n_features
            spans[level, record["group"]] = (start, used[parent])
        shift_apart(spans, level)
    return spans


def find_parent(record: dict) -> tuple[int, int] | None:
    """(level, cluster) of the finest cluster that this one lies in, or None."""
    for level, cluster in reversed(list(enumerate(record["path"]))):
        if cluster >= 0:
            return level, cluster
    return None


def shift_apart(spans: Spans, level: int) -> None:
    """Move boxes of a level down where a box with a parent of another level covers a neighbour."""
    low = 0.0
    for key in sorted((key for key in spans if key[0] == level), key=lambda key: spans[key]):
        start, end = spans[key]
        moved = max(low - start, 0.0)
        spans[key] = (start + moved, end + moved)
        low = end + moved


def measure_width(text: str, size: float) -> float:
    """Width in points of `text` in letters of `size` points."""
    path = TextPath(
        (0, 0), text.strip() or "x", size=size, prop=FontProperties(family="DejaVu Sans")
    )
    return path.get_extents().width

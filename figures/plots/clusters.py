"""Figures about clusters: their sizes and stability, clouds without clusters, firing together."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import COLOURS, escape_text, use_theme

MOST_BARS = 20
SMALL_PHI = 0.1  # below it a correlation is told as tiny, however many pairs make its z large
STABLE, DISSOLVED = (
    0.75,
    0.5,
)  # mean Jaccard overlap at and above which a cluster is stable; below, dissolved
CLOUD_COLOURS = {
    "Gaussian, same mean and covariance": COLOURS["null"],
    "columns shuffled": COLOURS["control"],
    "uniform": COLOURS["noise"],
}

Titles = dict[tuple[int, int], str]  # {(level, cluster): title}


# ------------------------------------------------------------ sizes


def sizes_figure(records: list[dict], titles: Titles, level: int, dark: bool = False) -> Figure:
    """Sizes of the largest 20 clusters of a level, and how much of each comes back.

    `records` are those of groups.json. `titles` name clusters; one without a name is told by what
    is typical of it, `around ...`. What comes back is the mean Jaccard overlap with the best match
    in subsamples and under other seeds.
    """
    every = sorted((r for r in records if r["layer"] == level), key=lambda r: r["group"])
    shown = every[:MOST_BARS]
    place = np.arange(len(shown))[::-1]
    with use_theme(dark) as theme:
        figure = Figure(figsize=(8, 1.5 + 0.22 * max(len(shown), 3)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.1))
        draw_sizes(left, shown, place, titles, len(every))
        draw_stability(right, shown, place, theme)
        for axes in (left, right):
            axes.grid(False, axis="y")
        handles, names = right.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def draw_sizes(
    axes: Axes, shown: list[dict], place: np.ndarray, titles: Titles, total: int
) -> None:
    """A bar for each cluster that is shown, named on the left."""
    axes.barh(place, [r["size"] for r in shown], color=COLOURS["score"], height=0.7)
    names = [titles.get((r["layer"], r["group"])) or "(no name)" for r in shown]
    axes.set_yticks(place, [escape_text(shorten(name)) for name in names], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    title = count_clusters(total)
    if total > len(shown):
        title += f", the {len(shown)} largest"
    axes.set(xlabel="features", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_stability(axes: Axes, shown: list[dict], place: np.ndarray, theme: dict) -> None:
    """Overlap of each cluster with its best match in subsamples and under other seeds."""
    for key, name, face in (
        ("jaccard_seeds", "other seeds", "none"),
        ("jaccard", "80 % subsamples", COLOURS["score"]),
    ):
        pairs = zip(shown, place, strict=True)
        points = [(r[key], p) for r, p in pairs if r.get(key) is not None]
        if points:
            overlap, height = zip(*points, strict=True)
            look: dict[str, Any] = {"facecolors": face, "edgecolors": COLOURS["score"]}
            axes.scatter(overlap, height, marker="o", s=26, label=name, zorder=3, **look)
    for value, line, name in (
        (DISSOLVED, "--", "below: dissolved, unnamed"),
        (STABLE, ":", "above: stable"),
    ):
        axes.axvline(value, color=theme["faint"], linestyle=line, linewidth=1.1, label=name)
    xlabel = "mean Jaccard overlap with its best match"
    axes.set(xlim=(-0.02, 1.02), xlabel=xlabel, title="What comes back")
    axes.tick_params(axis="y", length=0)


def count_clusters(n: int) -> str:
    return f"{n:,} cluster" + ("" if n == 1 else "s")


def shorten(name: str, width: int = 34) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


# ------------------------------------------------------------ clouds without clusters


def nulls_figure(
    measures: list[tuple[str, float, dict[str, list[float]]]], dark: bool = False
) -> Figure:
    """The real value of each measure beside the same pipeline on clouds without clusters.

    `measures` holds (name, real value, {kind of cloud: values}); each has its own scale.
    """
    with use_theme(dark) as theme:
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(measures)))
        for axes, (name, real, clouds) in zip(panels, measures, strict=True):
            draw_clouds(axes, real, clouds, theme)
            axes.set_title(escape_text(name), fontsize=9.5, fontweight="normal")
        title = "The same method on clouds without clusters"
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def draw_clouds(axes: Axes, real: float, clouds: dict[str, list[float]], theme: dict) -> None:
    """One diamond for the real value, then a column of points for each kind of cloud."""
    look: dict[str, Any] = {"marker": "D", "s": 55, "color": COLOURS["score"], "zorder": 3}
    axes.scatter([0], [real], label="these directions", **look)
    for place, (kind, values) in enumerate(clouds.items(), 1):
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        look = {"edgecolors": theme["faint"], "linewidths": 0.4, "s": 30, "zorder": 3}
        axes.scatter(place + spread, values, color=CLOUD_COLOURS[kind], label=kind, **look)
    highest = max([real, *(v for values in clouds.values() for v in values)])
    top = 1.12 * highest if highest else 1.0
    axes.set(xticks=[], xlim=(-0.6, len(clouds) + 0.6), ylim=(-0.04 * highest, top))


# ------------------------------------------------------------ firing together


def together_figure(levels: list[dict | None], dark: bool = False) -> Figure | None:
    """Mean phi of pairs within clusters, between clusters, and after shuffles; None without data.

    `levels` are the entries of proof.json, one a level, None where nothing was measured: value,
    shuffled (within density strata), between, z, p, n_pairs.
    """
    known = [(i, entry) for i, entry in enumerate(levels) if entry]
    if not known:
        return None
    with use_theme(dark) as theme:
        figure = Figure(figsize=(8, 1.4 + 0.75 * len(known)), layout="constrained")
        axes = figure.add_subplot()
        for place, (_, entry) in enumerate(reversed(known)):
            draw_level(axes, place, entry, theme)
        names = [name_level(level, len(levels)) for level, _ in reversed(known)]
        axes.set_yticks(range(len(known)), names)
        axes.set_ylim(-0.6, len(known) - 0.2)
        axes.margins(x=0.16)
        axes.grid(False, axis="y")
        axes.set(
            xlabel="mean phi of two features (correlation of firing on a token)",
            title="Do members of a cluster fire together?",
        )
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles[:3], names[:3], loc="outside lower center", ncols=3, fontsize=8)
    return figure


def draw_level(axes: Axes, place: int, entry: dict, theme: dict) -> None:
    """Every shuffle of one level, the mean between clusters and within, and the test in words."""
    shuffled = entry["shuffled"]
    look: dict[str, Any] = {"marker": "|", "s": 140, "color": COLOURS["null"], "alpha": 0.7}
    axes.scatter(shuffled, np.full(len(shuffled), place), label="shuffled", **look)
    look = {"marker": "s", "s": 34, "color": theme["faint"], "zorder": 3}
    axes.scatter([entry["between"]], [place], label="between clusters", **look)
    look = {"marker": "D", "s": 48, "color": COLOURS["score"], "zorder": 3}
    axes.scatter([entry["value"]], [place], label="within clusters", **look)
    z = "" if entry["z"] is None else f"z = {entry['z']:.0f}, "
    effect = "tiny, " if abs(entry["value"]) < SMALL_PHI else ""
    p = f"p {'≤' if entry['p'] < 0.006 else '='} {entry['p']:.3f}"
    axes.annotate(
        f"phi {entry['value']:.3f}: {effect}{z}{p}, {entry['n_pairs']:,} pairs",
        (entry["value"], place),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        color=theme["ink"],
    )


def name_level(level: int, n_levels: int) -> str:
    """What the figures call a level."""
    if n_levels == 1:
        return "clusters"
    if level == 0:
        return "coarsest"
    return "finest" if level == n_levels - 1 else "middle"

"""This project's own report: figures of sites, of sizes and penalties, of matches between SAEs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.plots.training import set_binary_ticks
from figures.style import COLOURS, use_theme

MARKERS = {"tied_l1": "s", "l1": "o", "topk": "D"}
SERIES = (COLOURS["null"], COLOURS["score"], COLOURS["clamped"], COLOURS["baseline"])

Measure = tuple[str, list[float], float | None, str]  # title, value of every site, chance, format


def sites_figure(sites: list[str], measures: list[Measure], dark: bool = False) -> Figure:
    """One panel for each measure, one bar a site."""
    with use_theme(dark) as theme:
        figure = Figure(figsize=(11, 1.15 + 0.42 * len(sites)), layout="constrained")
        place = np.arange(len(sites))[::-1]
        panels = figure.subplots(1, len(measures))
        for i, (axes, measure) in enumerate(zip(panels, measures, strict=True)):
            draw_bars(axes, place, measure, theme)
            axes.set_yticks(place, [""] * len(sites) if i else sites)
    return figure


def draw_bars(axes: Axes, place: np.ndarray, measure: Measure, theme: dict) -> None:
    """A bar for each site with its value behind it, and a line at chance."""
    title, values, chance, form = measure
    axes.barh(place, values, height=0.62, color=COLOURS["score"])
    top = max([v for v in values if v is not None] + [chance or 0])
    font: dict[str, Any] = {"va": "center", "fontsize": 9, "color": theme["ink"]}
    for y, value in zip(place, values, strict=True):
        axes.text(value + 0.02 * top, y, format(value, form), **font)
    if chance is not None:
        axes.axvline(chance, color=COLOURS["null"], linestyle="--", linewidth=1.4)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1.22 * top))
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", visible=False)


def sizes_figure(rows: list[dict], dark: bool = False) -> Figure:
    """L0 and FVU of swept autoencoders, one colour and one line a series.

    `rows` have architecture, series, name, order (in the series), l0 and fvu.
    """
    with use_theme(dark) as theme:
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.add_subplot()
        names = dict.fromkeys(r["series"] for r in rows)
        taken: set[tuple[float, float]] = set()
        for name, colour in zip(names, SERIES, strict=False):
            own = sorted((r for r in rows if r["series"] == name), key=lambda r: r["order"])
            draw_series(axes, own, colour, taken, theme)
        low, high = min(r["l0"] for r in rows) / 1.5, max(r["l0"] for r in rows) * 1.9
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 1.1 * max(r["fvu"] for r in rows)))
        set_binary_ticks(axes, low, high)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(
            xlabel="L0: features a token (log)",
            ylabel="FVU on the test split",
            title="Sparsity against what is left unexplained",
        )
        axes.legend(fontsize=9)
    return figure


def draw_series(axes: Axes, rows: list[dict], colour: str, taken: set, theme: dict) -> None:
    """One series; a name goes to the other side where another series has a point at the place."""
    marker = MARKERS.get(rows[0]["architecture"], "o")
    l0, fvu = [r["l0"] for r in rows], [r["fvu"] for r in rows]
    axes.plot(l0, fvu, color=colour, marker=marker, label=rows[0]["series"], markersize=6)
    for row in rows:
        place = row["l0"], row["fvu"]
        side: dict[str, Any] = {"xytext": (7, 3)}
        if place in taken:
            side = {"xytext": (-7, -3), "ha": "right", "va": "top"}
        font: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": theme["ink"]}
        axes.annotate(row["name"], place, **side, **font)
        taken.add(place)


def matches_figure(cosines: dict[str, np.ndarray], dark: bool = False) -> Figure:
    """Share of features whose best match in another dictionary has at least this cosine.

    `cosines` holds the best cosines (F,) by the name of the dictionary, at most three.
    """
    looks = ((COLOURS["baseline"], "-"), (COLOURS["score"], "--"), (COLOURS["null"], ":"))
    with use_theme(dark):
        figure = Figure(figsize=(7.5, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), (colour, line) in zip(cosines.items(), looks, strict=False):
            known = np.sort(values[np.isfinite(values)])
            share = np.arange(len(known), 0, -1) / len(known)
            label = f"{name} (median {np.median(known):.2f})"
            axes.plot(known, share, color=colour, linestyle=line, label=label)
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1.02),
            xlabel="cosine with the best match",
            ylabel="share of features at or above",
            title="Is it found again?",
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(fontsize=9, loc="upper right")
    return figure

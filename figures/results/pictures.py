"""Figures that only the report of results has: sites beside each other, sizes and penalties, matches of two dictionaries."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import COLOURS, themed

MARKERS = {"tied_l1": "s", "l1": "o", "topk": "D"}


def sites_figure(
    sites: list[str], measures: list[tuple[str, list[float], float | None, str]], dark: bool = False
) -> Figure:
    """One panel for each (title, value of every site, chance or None, format), one bar a site."""
    with themed(dark) as theme:
        figure = Figure(figsize=(11, 1.15 + 0.42 * len(sites)), layout="constrained")
        place = np.arange(len(sites))[::-1]
        for i, (axes, (title, values, chance, form)) in enumerate(
            zip(figure.subplots(1, len(measures)), measures, strict=True)
        ):
            axes.barh(place, values, height=0.62, color=COLOURS["score"])
            top = max([v for v in values if v is not None] + [chance or 0])
            for y, value in zip(place, values, strict=True):
                axes.text(
                    value + 0.02 * top,
                    y,
                    format(value, form),
                    va="center",
                    fontsize=9,
                    color=theme["ink"],
                )
            if chance is not None:
                axes.axvline(chance, color=COLOURS["null"], linestyle="--", linewidth=1.4)
            axes.set_yticks(place, sites if i == 0 else [""] * len(sites))
            axes.tick_params(axis="y", length=0)
            axes.set(xlim=(0, 1.22 * top))
            axes.set_title(title, fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="y", visible=False)
        return figure


def sizes_figure(rows: list[dict], dark: bool = False) -> Figure:
    """L0 and FVU of swept autoencoders: `rows` have architecture, size, l0 and fvu. One colour an architecture, a line through its sizes."""
    with themed(dark) as theme:
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.add_subplot()
        names, named = list(dict.fromkeys(r["series"] for r in rows)), set()
        for name, colour in zip(
            names,
            (COLOURS["null"], COLOURS["score"], COLOURS["clamped"], COLOURS["baseline"]),
            strict=False,
        ):
            own = sorted((r for r in rows if r["series"] == name), key=lambda r: r["order"])
            axes.plot(
                [r["l0"] for r in own],
                [r["fvu"] for r in own],
                color=colour,
                marker=MARKERS.get(own[0]["architecture"], "o"),
                label=name,
                markersize=6,
            )
            for r in own:
                place = r["l0"], r["fvu"]
                beside = (
                    {"xytext": (-7, -3), "ha": "right", "va": "top"}
                    if place in named
                    else {"xytext": (7, 3)}
                )  # one of another series has the place
                axes.annotate(
                    r["name"],
                    place,
                    **beside,
                    textcoords="offset points",
                    fontsize=8,
                    color=theme["ink"],
                )
                named.add(place)
        ticks = [2.0**i for i in range(1, 12)]
        low, high = min(r["l0"] for r in rows) / 1.5, max(r["l0"] for r in rows) * 1.9
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 1.1 * max(r["fvu"] for r in rows)))
        axes.set_xticks(
            [t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high]
        )
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(
            xlabel="L0: features a token (log)",
            ylabel="FVU on the test split",
            title="Sparsity against what is left unexplained",
        )
        axes.legend(fontsize=9)
        return figure


def matches_figure(found: dict[str, np.ndarray], dark: bool = False) -> Figure:
    """Share of features (F,) whose best match in another dictionary has at least this cosine, one curve for each dictionary."""
    looks = ((COLOURS["baseline"], "-"), (COLOURS["score"], "--"), (COLOURS["null"], ":"))
    with themed(dark):
        figure = Figure(figsize=(7.5, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), (colour, line) in zip(found.items(), looks, strict=False):
            known = np.sort(values[np.isfinite(values)])
            axes.plot(
                known,
                np.arange(len(known), 0, -1) / len(known),
                color=colour,
                linestyle=line,
                label=f"{name} (median {np.median(known):.2f})",
            )
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

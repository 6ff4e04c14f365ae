"""What the colours of the points on a map mean: categories or values, and the key to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure

from figures.style import SEQUENTIAL, escape_text

FADED = 0.8  # opacity of points without a category or a value
NEAR = 6  # nearest sets that should have another colour
LIGHT_SCALE, DARK_SCALE = (0.88, 0.0), (0.12, 1.0)  # parts of the scale that the page sets off


@dataclass(frozen=True)
class Categories:
    """A category for each point."""

    of: np.ndarray  # (N,) int, -1 for none; number modulo nine is the colour
    names: tuple[str, ...] = field(default=())  # of the categories in the key; empty: no key
    none: str = ""  # what grey means; empty: not in the key


@dataclass(frozen=True)
class Values:
    """A number for each point."""

    values: np.ndarray  # (N,) float, NaN where there is none
    name: str
    log: bool = False
    none: str = ""  # what grey means


def paint(colour: Categories | Values, theme: dict) -> np.ndarray:
    """(N, 4) red, green, blue, opacity of each point."""
    if isinstance(colour, Categories):
        palette = np.array([to_rgba(c) for c in theme["palette"]])
        painted = palette[colour.of % len(palette)]
        none = colour.of < 0
    else:
        scale, norm = scale_of(theme), norm_of(colour)
        none = ~np.isfinite(colour.values)
        painted = np.asarray(scale(norm(np.where(none, norm.vmin or 0.0, colour.values))))
    painted = painted.copy()
    painted[none] = to_rgba(theme["noise"], FADED)
    return painted


def scale_of(theme: dict) -> mpl.colors.Colormap:
    """The scale of values: large ones stand out most from the page of the theme."""
    first, last = LIGHT_SCALE if is_light(theme["page"]) else DARK_SCALE
    colours = mpl.colormaps[SEQUENTIAL](np.linspace(first, last, 64))
    return mpl.colors.LinearSegmentedColormap.from_list("map", colours)


def is_light(colour: str) -> bool:
    return sum(to_rgba(colour)[:3]) > 1.5


def norm_of(colour: Values) -> Normalize:
    """From the 2nd to the 98th percentile of the values, or all where that is one number."""
    known = colour.values[np.isfinite(colour.values)]
    if colour.log:
        known = known[known > 0]
    if not len(known):
        return Normalize(0, 1)
    low, high = np.percentile(known, (2, 98))
    if low == high:
        low, high = known.min(), known.max() + 1e-9
    return LogNorm(low, high, clip=True) if colour.log else Normalize(low, high, clip=True)


def spread_hues(centres: np.ndarray, n_colours: int) -> np.ndarray:
    """(n,) int colours of sets with these centres (n, 2), so that near sets differ.

    In their order, each takes the colour that is farthest from it among its NEAR nearest sets that
    have one already.
    """
    from scipy.spatial import cKDTree

    n = len(centres)
    hues = np.full(n, -1)
    if not n:
        return hues
    away, near = cKDTree(centres).query(centres, k=min(n, NEAR + 1))
    away, near = away.reshape(n, -1), near.reshape(n, -1)
    used = np.zeros(n_colours)
    for i in range(n):
        distance = np.full(n_colours, np.inf)
        for j, d in zip(near[i].tolist(), away[i].tolist(), strict=True):
            if j != i and hues[j] >= 0:
                distance[hues[j]] = min(distance[hues[j]], d)
        best = np.flatnonzero(distance == distance.max())
        hues[i] = best[np.argmin(used[best])]
        used[hues[i]] += 1
    return hues


def draw_key(
    figure: Figure, colour: Categories | Values, size: float, top: float, theme: dict
) -> None:
    """The key to the colours, in the upper right corner."""
    if isinstance(colour, Values):
        draw_scale(figure, colour, size, theme)
        return
    if not colour.names:
        return
    entries = [(name, theme["palette"][i % 9]) for i, name in enumerate(colour.names)]
    if colour.none:
        entries.append((colour.none, theme["noise"]))
    handles = [
        mpl.lines.Line2D([], [], marker="o", ls="", color=c, markersize=0.75 * size, label=n)
        for n, c in entries
    ]
    figure.legend(
        handles,
        [escape_text(name) for name, _ in entries],
        loc="upper right",
        bbox_to_anchor=(0.995, 1.0),
        ncols=min(len(entries), 9),
        fontsize=size,
        handletextpad=0.1,
        columnspacing=1.0,
        borderpad=0.3,
    )


def draw_scale(figure: Figure, colour: Values, size: float, theme: dict) -> None:
    """A small colour bar with its name before it and the numbers at its ends beside it."""
    width, height = figure.get_size_inches()
    norm = norm_of(colour)
    tall = 0.8 * size / 72 / height
    middle = 1 - 1.0 * size / 72 / height
    right, long = 0.94, 0.13
    axes = figure.add_axes((right - long, middle - tall / 2, long, tall))
    axes.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=scale_of(theme))
    axes.set_axis_off()
    low, high = (f"{value:.2g}" for value in (norm.vmin or 0.0, norm.vmax or 0.0))
    font = {"fontsize": size, "color": theme["ink"], "va": "center_baseline"}
    gap = 0.5 * size / 72 / width
    none = f"   (grey: {colour.none})" if colour.none else ""
    figure.text(right + gap, middle, high, ha="left", **font)
    name = escape_text(f"{colour.name}{none}   {low}")
    figure.text(right - long - gap, middle, name, ha="right", **font)

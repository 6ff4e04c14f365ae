"""The map of all features: points, their density, names that do not overlap, a sentence below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.plots.map_colours import Categories, Values, draw_key, paint
from figures.plots.placement import Label, measure_line, place_labels
from figures.style import escape_text, use_theme

WARNING = "Distances between far points mean nothing."
GRID = 200  # cells along the longer side when density is drawn
BLUR = 0.011  # of the longer side: standard deviation of the density's smoothing
HELD = (0.97, 0.85, 0.65, 0.4, 0.2)  # shares of the points that each contour holds
POINTS_BELOW = 1.9  # zorder: what is under it is one picture in an SVG or a PDF
MARGIN = (0.07, 0.04)  # of the extent of the points, left free on each side for names
LONGEST = 46  # characters of a name
INKED = 0.075  # of the page: area of all points together, if no two lay on each other
WEAK, STRONG = 0.55, 1.9  # area of a point in no family, in a family


@dataclass(frozen=True)
class Sheet:
    """How large the map is, and its names."""

    width: float  # inches
    height: float
    over: float  # points: names of groups of families, which stand on the map itself
    beside: tuple[tuple[int, float], ...]  # (how many names, their size in points), largest first
    text: float  # points: heading, caption, key
    wrap: int  # characters in a line of a name

    @property
    def most(self) -> int:
        return sum(n for n, _ in self.beside)


README = Sheet(8.0, 5.6, 9.5, ((90, 7.0),), 7.4, 24)
PRINT = Sheet(16.54, 11.69, 13.0, ((80, 8.0), (160, 6.2), (4000, 4.6)), 9.5, 28)  # A3


@dataclass(frozen=True)
class Name:
    """A name for some of the points."""

    text: str
    members: np.ndarray  # numbers of points
    solid: bool = True  # comes back in subsamples: bold
    over: bool = False  # a group of families: large, on the map


@dataclass(frozen=True)
class MapText:
    """What is written around the map."""

    heading: str
    sentences: tuple[str, ...]  # the verdict first
    isolated: str = ""  # over the strip of isolated features


@dataclass(frozen=True)
class Look:
    """How a map is drawn."""

    dark: bool = False
    sheet: Sheet = README
    contours: bool = True


def cluster_map(
    points: np.ndarray,
    strong: np.ndarray,
    isolated: np.ndarray,
    colour: Categories | Values,
    names: list[Name],
    text: MapText,
    look: Look = Look(),  # noqa: B008 - frozen
) -> Figure:
    """The map of `points` (N, 2).

    `strong` (N,) points are in a family and are drawn larger; `isolated` (N,) ones stand in a strip
    below the others. Names are written in their order, large ones first, where there is room.
    """
    with use_theme(look.dark) as theme:
        sheet = look.sheet
        figure = Figure(figsize=(sheet.width, sheet.height))
        low, high = write_around(figure, text, sheet, theme)
        axes = figure.add_axes((0.012, low, 0.976, high - low))
        set_limits(axes, points)
        around = points[~isolated]
        if look.contours and len(around) > 30:
            draw_density(axes, around, theme)
        sizes = draw_points(axes, points, strong & ~isolated, colour, sheet, theme)
        draw_key(figure, colour, sheet.text, high, theme)
        if isolated.any():
            draw_strip(axes, points, isolated, text.isolated, sheet, theme)
        labels = make_labels(points, names, sheet)
        place_labels(axes, labels, points, sizes, len(labels), theme)
    return figure


def set_limits(axes: Axes, points: np.ndarray) -> None:
    """Show all points, with a margin for names."""
    axes.set_axis_off()
    pad = np.array(MARGIN) * np.maximum(np.ptp(points, axis=0), 1e-6)
    low, high = points.min(axis=0) - pad, points.max(axis=0) + pad
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_rasterization_zorder(POINTS_BELOW)


# ---------------------------------------------------------------- points


def draw_points(
    axes: Axes,
    points: np.ndarray,
    strong: np.ndarray,
    colour: Categories | Values,
    sheet: Sheet,
    theme: dict,
) -> np.ndarray:
    """Draw the points, those of families last; returns the ink (N,) of each in points^2.

    In an SVG or a PDF all points are one picture: a path for each was ten times as large.
    """
    page = 72**2 * sheet.width * sheet.height  # points^2
    area = float(np.clip(INKED * page / len(points), 0.5, 13))
    colours = paint(colour, theme)
    order = np.random.default_rng(0).permutation(len(points))
    for part, size, name in (
        (order[~strong[order]], WEAK, "weak"),
        (order[strong[order]], STRONG, "strong"),
    ):
        if len(part):
            x, y = points[part].T
            given: dict[str, Any] = {"c": colours[part], "linewidths": 0, "zorder": 1.5}
            axes.scatter(x, y, s=size * area, label=name, **given)
    return np.pi / 4 * area * np.where(strong, STRONG, WEAK)


def draw_density(axes: Axes, points: np.ndarray, theme: dict) -> None:
    """Contours of the smoothed density of the points, each around a share HELD of them."""
    from scipy.ndimage import gaussian_filter

    x, y = points.T
    limits = (axes.get_xlim(), axes.get_ylim())
    counts, across, up = np.histogram2d(x, y, bins=GRID, range=limits)
    density = gaussian_filter(counts, BLUR * GRID, mode="constant")
    column = np.clip(np.searchsorted(across, x) - 1, 0, GRID - 1)
    row = np.clip(np.searchsorted(up, y) - 1, 0, GRID - 1)
    own = np.sort(density[column, row])
    levels = np.unique([own[int((1 - held) * (len(own) - 1))] for held in HELD])
    levels = levels[(levels > 0) & (levels < density.max())]
    if not len(levels):
        return
    centres = (across[:-1] + across[1:]) / 2, (up[:-1] + up[1:]) / 2
    fill: dict[str, Any] = {"colors": [theme["faint"]], "alpha": 0.05, "zorder": 0.5}
    for level in levels:
        axes.contourf(*centres, density.T, levels=[level, density.max() + 1], **fill)
    line: dict[str, Any] = {
        "colors": [theme["faint"]],
        "linewidths": 0.35,
        "alpha": 0.35,
        "zorder": 0.6,
    }
    axes.contour(*centres, density.T, levels=levels, **line)


def draw_strip(
    axes: Axes, points: np.ndarray, isolated: np.ndarray, text: str, sheet: Sheet, theme: dict
) -> None:
    """A line over the isolated points, which stand below the others, and what they are."""
    inside = points[~isolated]
    top = points[isolated, 1].max()
    if not len(inside) or top >= inside[:, 1].min():  # a map of an earlier version has a rim
        return
    y = top + 0.35 * (inside[:, 1].min() - top)
    axes.plot([0.004, 0.996], [y, y], transform=axes.get_yaxis_transform(), lw=0.4,
              color=theme["grid"], zorder=2, label="_strip")  # fmt: skip
    font: dict[str, Any] = {"fontsize": sheet.text, "color": theme["faint"], "va": "bottom"}
    axes.text(0.004, y, escape_text(text), transform=axes.get_yaxis_transform(), **font)


# ---------------------------------------------------------------- names


def make_labels(points: np.ndarray, names: list[Name], sheet: Sheet) -> list[Label]:
    """The names as labels: large ones first, then solid ones, then the largest."""
    named = [name for name in names if name.text]
    order = sorted(named, key=lambda n: (not n.over, not n.solid, -len(n.members), n.members[0]))
    sizes = iter(np.repeat([s for _, s in sheet.beside], [n for n, _ in sheet.beside]).tolist())
    labels = []
    for name in order:
        x, y = points[find_middle(points, name.members)].tolist()
        size = sheet.over if name.over else next(sizes, None)
        if size is not None:
            text = shorten(name.text)
            labels.append(Label(text, (x, y), size, sheet.wrap, name.solid, name.over))
    return labels


def shorten(text: str, width: int = LONGEST) -> str:
    """Cut a name between two words, with a … at its end."""
    if len(text) <= width:
        return text
    return text[: width - 1].rsplit(" ", 1)[0].rstrip(" ,:;") + "…"


def find_middle(points: np.ndarray, members: np.ndarray) -> int:
    """The member that is nearest to the median of the members."""
    away = points[members] - np.median(points[members], axis=0)
    return int(members[np.hypot(*away.T).argmin()])


# ---------------------------------------------------------------- text


def write_around(figure: Figure, text: MapText, sheet: Sheet, theme: dict) -> tuple[float, float]:
    """Write the heading and the caption; returns the heights (shares) that the map may use."""
    line = 1.45 * sheet.text / 72 / sheet.height
    left, y = 0.012, 0.35 * line
    room = 0.976 * sheet.width * 72 / sheet.text
    verdict, *others = text.sentences or ("",)
    faint = wrap_lines(" ".join([*others, WARNING]), room)
    for part, colour in ((faint, "faint"), (wrap_lines(verdict, room), "ink")):
        for row in reversed(part):
            figure.text(left, y, escape_text(row), fontsize=sheet.text, color=theme[colour])
            y += line
    top = 1 - 1.3 * line
    font: dict[str, Any] = {"fontsize": 1.25 * sheet.text, "fontweight": "bold"}
    figure.text(left, top, escape_text(text.heading), color=theme["ink"], **font)
    return y + 0.2 * line, top - 0.35 * line


def wrap_lines(text: str, room: float) -> list[str]:
    """Break `text` between words into lines of at most `room` times the size of its font."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measure_line(longer, False) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines

"""The cluster map: every live feature as a point in the hue of its coarsest group, hulls round those, two ranks of titles, a caption strip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.plots.placement import Label, place_labels
from figures.style import plain, themed

WARNING = "Positions between far groups carry no meaning."
MOST_TITLES = 24
WIDTH, HEIGHT, STRIP = (
    8.0,
    5.4,
    0.55,
)  # inches: 1600 x 1080 px at 200 dots an inch; the strip holds the caption
GRID, HELD = (
    64,
    0.8,
)  # cells along each side when a hull is drawn, share of the members that it holds
POINTS_BELOW = 1.5  # zorder
RANKS = {0: (10.5, 20), 1: (7.5, 22)}  # rank -> points, characters in a line


@dataclass(frozen=True)
class Caption:
    """The figures under a map, of all live features. `recall` is None where the map is no UMAP; `kept` where stability was not tried."""

    live: int
    dead: int
    layers: tuple[int, ...]
    noise: int
    isolated: int
    recall: float | None
    null_groups: tuple[int, ...] = ()
    kept: float | None = None
    ari: float | None = None
    verdict: str = ""

    def lines(self) -> list[str]:
        share = f"{100 * self.noise / max(self.live, 1):.0f} %"
        null = (
            f" (same cut of {len(self.null_groups)} Gaussian clouds: {min(self.null_groups)} to {max(self.null_groups)})"
            if self.null_groups
            else ""
        )
        groups = f"{' > '.join(map(str, self.layers)) or 'no'} group{'' if self.layers == (1,) else 's'}{null}"
        first = [
            f"{self.live:,} live features, {self.dead:,} dead",
            groups,
            f"{share} noise (grey)",
        ]
        first += [f"{self.isolated:,} isolated on the rim"] if self.isolated else []
        second = (
            []
            if self.kept is None
            else [f"{self.kept:.0%} of the finest groups come back in subsamples"]
        )
        second += [] if self.ari is None else [f"ARI {self.ari:.2f}"]
        second += (
            []
            if self.recall is None
            else [f"the map keeps {100 * self.recall:.0f} % of 15 neighbours"]
        )
        return [" · ".join(first), " · ".join(second)]


@dataclass(frozen=True)
class Group:
    """A group that may be named on the map. `members` index the points, `anchor` is one of them."""

    title: str
    rank: int  # 0 coarsest, written large; 1 finest
    members: np.ndarray
    anchor: int
    hue: int = -1


def cluster_map(
    x: np.ndarray,
    y: np.ndarray,
    hue: np.ndarray,
    grouped: np.ndarray,
    groups: list[Group],
    caption: Caption,
    dark: bool = False,
) -> Figure:
    """The map of points x, y (N,): `hue` (N,) 0 to 8 of the coarsest group, -1 for none; `grouped` (N,) whether in a group of the finest layer.

    At most 24 of the groups with a title are named, where there is room: the coarse ones first, then the largest.
    """
    with themed(dark) as theme:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        low = STRIP / HEIGHT
        axes = figure.add_axes((0.01, low, 0.98, 0.99 - low))
        draw_points(axes, x, y, hue, grouped, theme)
        for group in groups:
            if group.rank == 0 and group.hue >= 0:
                draw_hull(axes, x[group.members], y[group.members], theme["palette"][group.hue])
        place_titles(axes, x, y, grouped | (hue >= 0), groups, theme)
        first, second = caption.lines()
        for height, text, colour in (
            (0.074, first, "ink"),
            (0.045, second, "ink"),
            (0.016, " ".join([WARNING, caption.verdict]).strip(), "faint"),
        ):
            figure.text(0.012, height, plain(text), fontsize=7.2, color=theme[colour])
    return figure


def draw_points(
    axes: Axes, x: np.ndarray, y: np.ndarray, hue: np.ndarray, grouped: np.ndarray, theme: dict
) -> None:
    """Grey points without any group first; then each hue, points of coarse groups only pale; points of fine groups outside every coarse one in ink."""
    axes.set_axis_off()
    pad = 0.03 * np.maximum([np.ptp(x), np.ptp(y)], 1e-6)
    axes.set_xlim(x.min() - pad[0], x.max() + pad[0])
    axes.set_ylim(y.min() - pad[1], y.max() + pad[1])
    area = float(np.clip(2.6e4 / max(len(x), 1), 1.2, 70))  # points^2
    axes.set_rasterization_zorder(
        POINTS_BELOW
    )  # in an SVG all points are one picture; a picture for each hue was four times as large
    dot = {"linewidths": 0, "zorder": 1}
    none = (hue < 0) & ~grouped
    axes.scatter(
        x[none], y[none], s=0.4 * area, color=theme["noise"], alpha=0.6, label="noise", **dot
    )
    alone = (hue < 0) & grouped
    if alone.any():
        axes.scatter(
            x[alone], y[alone], s=0.8 * area, color=theme["faint"], alpha=0.8, label="alone", **dot
        )
    for number in np.unique(hue[hue >= 0]).tolist():
        colour = theme["palette"][number % len(theme["palette"])]
        for here, size, alpha, name in (
            ((hue == number) & ~grouped, 0.6, 0.35, "_pale"),
            ((hue == number) & grouped, 1.0, 0.9, str(number)),
        ):
            axes.scatter(
                x[here], y[here], s=size * area, color=colour, alpha=alpha, label=name, **dot
            )


def draw_hull(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """A contour of the members' smoothed density that holds 80 % of them, with a faint fill; nothing for fewer than ten."""
    from scipy.ndimage import gaussian_filter

    if len(x) < 10:
        return
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    counts, across, up = np.histogram2d(x, y, bins=GRID, range=((x0, x1), (y0, y1)))
    density = gaussian_filter(counts, 1.4)
    own = np.sort(
        density[
            np.clip(np.searchsorted(across, x) - 1, 0, GRID - 1),
            np.clip(np.searchsorted(up, y) - 1, 0, GRID - 1),
        ]
    )
    level = own[int((1 - HELD) * len(own))]
    middle = (across[:-1] + across[1:]) / 2, (up[:-1] + up[1:]) / 2
    if 0 < level < density.max():
        axes.contourf(
            *middle, density.T, levels=[level, density.max()], colors=[colour], alpha=0.07, zorder=2
        )
        axes.contour(
            *middle, density.T, levels=[level], colors=[colour], linewidths=0.9, alpha=0.8, zorder=2
        )


def place_titles(
    axes: Axes, x: np.ndarray, y: np.ndarray, shown: np.ndarray, groups: list[Group], theme: dict
) -> None:
    """Coarse titles first, each rank from the largest group on; what finds no free place is left out."""
    ordered = sorted(
        (g for g in groups if g.title), key=lambda g: (g.rank, -len(g.members), g.anchor)
    )
    labels = [
        Label(g.title, (float(x[g.anchor]), float(y[g.anchor])), *RANKS[g.rank]) for g in ordered
    ]
    place_labels(axes, labels, np.c_[x, y][shown], MOST_TITLES, theme)


def middle(x: np.ndarray, y: np.ndarray, members: np.ndarray) -> int:
    """Index of the member that is nearest to the group's median."""
    near = np.hypot(x[members] - np.median(x[members]), y[members] - np.median(y[members]))
    return int(members[near.argmin()])

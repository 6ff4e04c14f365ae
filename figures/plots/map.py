"""The cluster map: a point a feature, hulls round the coarsest clusters, titles, a caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.plots.placement import Label, place_labels
from figures.style import escape_text, use_theme

WARNING = "Distances between far clusters mean nothing."
MOST_TITLES = 24
WIDTH, HEIGHT = 8.0, 5.4  # inches: 1600 x 1080 px at 200 dots an inch
STRIP = 0.55  # inches at the bottom that hold the caption
GRID = 64  # cells along each side when a hull is drawn
HELD = 0.8  # share of the members that a hull holds
POINTS_BELOW = 1.5  # zorder
RANKS = {0: (10.5, 20), 1: (7.5, 22)}  # rank -> points, characters in a line


@dataclass(frozen=True)
class Caption:
    """The numbers under a map, of all aalive features."""

    alive: int
    dead: int
    levels: tuple[int, ...]  # clusters of each level, coarsest first
    noise: int
    isolated: int
    recall: float | None  # share of 15 neighbours that the map keeps; None where it is no UMAP
    null_clusters: tuple[int, ...] = ()  # clusters that the same cut finds in Gaussian clouds
    kept: float | None = None  # share of clusters that come back; None where it was not tried
    ari: float | None = None
    verdict: str = ""

    def lines(self) -> list[str]:
        """The two lines of numbers."""
        share = f"{100 * self.noise / max(self.alive, 1):.0f} %"
        first = [f"{self.alive:,} alive features, {self.dead:,} dead", self._clusters()]
        first += [f"{share} noise (grey)"]
        if self.isolated:
            first.append(f"{self.isolated:,} isolated at the edge")
        second = []
        if self.kept is not None:
            second.append(f"{self.kept:.0%} of the finest clusters come back in subsamples")
        if self.ari is not None:
            second.append(f"ARI {self.ari:.2f}")
        if self.recall is not None:
            second.append(f"the map keeps {100 * self.recall:.0f} % of 15 neighbours")
        return [" · ".join(first), " · ".join(second)]

    def _clusters(self) -> str:
        counts = " > ".join(map(str, self.levels)) or "no"
        text = f"{counts} cluster{'' if self.levels == (1,) else 's'}"
        if not self.null_clusters:
            return text
        low, high = min(self.null_clusters), max(self.null_clusters)
        clouds = f"{len(self.null_clusters)} Gaussian clouds"
        return f"{text} (same cut of {clouds}: {low} to {high})"


@dataclass(frozen=True)
class NamedCluster:
    """A cluster that may be named on the map; `members` index the points, `anchor` is one."""

    title: str
    rank: int  # 0 coarsest, written large; 1 finest
    members: np.ndarray
    anchor: int
    hue: int = -1


def cluster_map(
    points: np.ndarray,
    hue: np.ndarray,
    clustered: np.ndarray,
    clusters: list[NamedCluster],
    caption: Caption,
    dark: bool = False,
) -> Figure:
    """The map of `points` (N, 2).

    `hue` (N,) is 0 to 8 for the coarsest cluster and -1 for none; `clustered` (N,) says whether a
    point is in a cluster of the finest level. At most 24 of the clusters with a title are named,
    where there is room: the coarse ones first, then the largest.
    """
    with use_theme(dark) as theme:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        low = STRIP / HEIGHT
        axes = figure.add_axes((0.01, low, 0.98, 0.99 - low))
        draw_points(axes, points, hue, clustered, theme)
        for cluster in clusters:
            if cluster.rank == 0 and cluster.hue >= 0:
                draw_hull(axes, points[cluster.members], theme["palette"][cluster.hue])
        place_titles(axes, points, clustered | (hue >= 0), clusters, theme)
        first, second = caption.lines()
        for height, text, colour in (
            (0.074, first, "ink"),
            (0.045, second, "ink"),
            (0.016, " ".join([WARNING, caption.verdict]).strip(), "faint"),
        ):
            figure.text(0.012, height, escape_text(text), fontsize=7.2, color=theme[colour])
    return figure


def draw_points(
    axes: Axes, points: np.ndarray, hue: np.ndarray, clustered: np.ndarray, theme: dict
) -> None:
    """Draw grey points without a cluster first, then the points of each hue.

    Points of a coarse cluster only are pale; points of a fine cluster outside every coarse one are
    in the faint ink. In an SVG all points are one picture: one for each hue was four times as
    large.
    """
    axes.set_axis_off()
    pad = 0.03 * np.maximum(np.ptp(points, axis=0), 1e-6)
    low, high = points.min(axis=0) - pad, points.max(axis=0) + pad
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_rasterization_zorder(POINTS_BELOW)
    area = float(np.clip(2.6e4 / max(len(points), 1), 1.2, 70))  # points^2

    def draw(here: np.ndarray, size: float, colour: str, alpha: float, name: str) -> None:
        x, y = points[here].T
        look: dict[str, Any] = {"color": colour, "alpha": alpha, "linewidths": 0, "zorder": 1}
        axes.scatter(x, y, s=size * area, label=name, **look)

    draw((hue < 0) & ~clustered, 0.4, theme["noise"], 0.6, "noise")
    if (alone := (hue < 0) & clustered).any():
        draw(alone, 0.8, theme["faint"], 0.8, "alone")
    for number in np.unique(hue[hue >= 0]).tolist():
        colour = theme["palette"][number % len(theme["palette"])]
        draw((hue == number) & ~clustered, 0.6, colour, 0.35, "_pale")
        draw((hue == number) & clustered, 1.0, colour, 0.9, str(number))


def draw_hull(axes: Axes, points: np.ndarray, colour: str) -> None:
    """A contour of the members' smoothed density that holds 80 % of them, with a faint fill.

    Nothing for fewer than ten members.
    """
    from scipy.ndimage import gaussian_filter

    if len(points) < 10:
        return
    x, y = points.T
    counts, across, up = np.histogram2d(x, y, bins=GRID, range=(axes.get_xlim(), axes.get_ylim()))
    density = gaussian_filter(counts, 1.4)
    column = np.clip(np.searchsorted(across, x) - 1, 0, GRID - 1)
    row = np.clip(np.searchsorted(up, y) - 1, 0, GRID - 1)
    own = np.sort(density[column, row])
    level, top = own[int((1 - HELD) * len(own))], density.max()
    if not 0 < level < top:
        return
    centres = (across[:-1] + across[1:]) / 2, (up[:-1] + up[1:]) / 2
    look: dict[str, Any] = {"colors": [colour], "zorder": 2}
    axes.contourf(*centres, density.T, levels=[level, top], alpha=0.07, **look)
    axes.contour(*centres, density.T, levels=[level], linewidths=0.9, alpha=0.8, **look)


def place_titles(
    axes: Axes, points: np.ndarray, shown: np.ndarray, clusters: list[NamedCluster], theme: dict
) -> None:
    """Place coarse titles first, each rank from the largest cluster on; skip what has no room."""
    with_title = [c for c in clusters if c.title]
    ordered = sorted(with_title, key=lambda c: (c.rank, -len(c.members), c.anchor))
    labels = []
    for cluster in ordered:
        x, y = points[cluster.anchor].tolist()
        labels.append(Label(cluster.title, (x, y), *RANKS[cluster.rank]))
    place_labels(axes, labels, points[shown], MOST_TITLES, theme)


def find_middle(points: np.ndarray, members: np.ndarray) -> int:
    """Return the member that is nearest to the cluster's median."""
    away = points[members] - np.median(points[members], axis=0)
    return int(members[np.hypot(*away.T).argmin()])

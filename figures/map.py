"""The cluster map: every live feature as a point, groups in the colours of their families, the largest groups named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from figures.style import plain, themed

WARNING = "Positions between far groups carry no meaning."
MOST_TITLES = 24
WIDTH, HEIGHT = 8.0, 5.0  # inches: 1600 x 1000 px at 200 dots an inch
POINTS = 72.0  # an inch


@dataclass(frozen=True)
class Caption:
    """The figures under a map, of all live features. `recall` is None where the map is no UMAP."""

    live: int
    dead: int
    groups: int
    noise: int
    isolated: int
    recall: float | None
    null_groups: int | None = None

    def __str__(self) -> str:
        share = f"{100 * self.noise / max(self.live, 1):.0f} %"
        null = "" if self.null_groups is None else f" ({self.null_groups} in a random cloud)"
        parts = [f"{self.live:,} live features, {self.dead:,} dead", f"{self.groups} groups{null}", f"{share} noise (grey)"]
        parts += [f"{self.isolated:,} isolated on the rim"] if self.isolated else []
        parts += [] if self.recall is None else [f"the map keeps {100 * self.recall:.0f} % of 15 neighbours"]
        return " · ".join(parts)


def cluster_map(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, titles: dict[int, str], caption: Caption | str,
    family: dict[int, int] | None = None, medoid: dict[int, int] | None = None, dark: bool = False,
) -> Figure:  # fmt: skip
    """The map of points x, y (N,) with their groups (N,), -1 for none.

    `titles` names groups; at most 24 are written, the largest first, where there is room. `family` gives each group one of nine colours
    (by default its own number), `medoid` the index of the point that its title stands at (by default the one nearest to its median).
    """
    with themed(dark) as theme:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0.01, 0.085, 0.98, 0.905))
        draw_points(axes, x, y, group, {g: (family or {}).get(g, g) for g in np.unique(group[group >= 0]).tolist()}, theme)
        anchors = {g: medoid[g] if medoid and g in medoid else middle(x, y, group == g) for g in titles if (group == g).any()}
        place_titles(axes, x, y, group, {g: titles[g] for g in anchors}, anchors, theme)
        figure.text(0.012, 0.045, plain(str(caption)), fontsize=7, color=theme["ink"])
        figure.text(0.012, 0.016, WARNING, fontsize=7, color=theme["faint"])
    return figure


def draw_points(axes: Axes, x: np.ndarray, y: np.ndarray, group: np.ndarray, family: dict[int, int], theme: dict) -> None:
    """Points without a group first, small and grey; then groups from the largest to the smallest."""
    axes.set_axis_off()
    pad = 0.03 * np.array([np.ptp(x), np.ptp(y)])
    axes.set_xlim(x.min() - pad[0], x.max() + pad[0])
    axes.set_ylim(y.min() - pad[1], y.max() + pad[1])
    area = float(np.clip(2.6e4 / max(len(x), 1), 1.5, 40))  # points^2
    none = group < 0
    axes.scatter(x[none], y[none], s=0.4 * area, color=theme["noise"], alpha=0.6, linewidths=0, rasterized=True, label="noise")
    groups, counts = np.unique(group[~none], return_counts=True)
    for number in groups[np.argsort(-counts, kind="stable")].tolist():
        here, colour = group == number, theme["palette"][family[number] % len(theme["palette"])]
        axes.scatter(x[here], y[here], s=area, color=colour, alpha=0.9, linewidths=0.3, edgecolors=theme["page"], rasterized=True, label=str(number))


def middle(x: np.ndarray, y: np.ndarray, here: np.ndarray) -> int:
    """Index of the point of a group that is nearest to the group's median."""
    inside = np.flatnonzero(here)
    return int(inside[np.hypot(x[inside] - np.median(x[inside]), y[inside] - np.median(y[inside])).argmin()])


# ------------------------------------------------------------ titles


def place_titles(axes: Axes, x: np.ndarray, y: np.ndarray, group: np.ndarray, titles: dict[int, str], anchors: dict[int, int], theme: dict) -> None:
    """Write titles greedily, the largest group first, each at the free place that covers fewest coloured points; none where all are taken."""
    sizes = {g: int((group == g).sum()) for g in titles}
    to_points = axes.transData.transform  # pixels of the figure's own dpi
    scale = POINTS / axes.figure.dpi
    points = to_points(np.c_[x, y]) * scale
    box = axes.get_window_extent()
    frame = np.array([box.x0, box.y0, box.x1, box.y1]) * scale
    taken: list[np.ndarray] = []
    for number in sorted(titles, key=lambda g: (-sizes[g], g)):
        if len(taken) == MOST_TITLES:
            break
        lines, size = wrap(titles[number]), 7.5 if sizes[number] >= np.median(list(sizes.values())) else 6.5
        at = best_box(points[anchors[number]], text_size(lines, size), points[group >= 0], taken, frame)
        if at is not None:
            taken.append(at)
            write_title(axes, lines, at / scale, points[anchors[number]] / scale, size, theme)


def best_box(anchor: np.ndarray, size: tuple[float, float], points: np.ndarray, taken: list[np.ndarray], frame: np.ndarray) -> np.ndarray | None:
    """(x0, y0, x1, y1) in points of a box of `size` near `anchor`, inside `frame`, clear of `taken`, over fewest points; else None."""
    best, least = None, np.inf
    for distance in (0.0, 1.0, 1.6, 2.2):
        for angle in np.linspace(0, 2 * np.pi, 1 if distance == 0 else 16, endpoint=False):
            centre = anchor + distance * np.array([np.cos(angle) * (size[0] / 2 + 4), np.sin(angle) * (size[1] / 2 + 4)])
            box = np.r_[centre - np.array(size) / 2, centre + np.array(size) / 2]
            if (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any() or any(overlap(box, other) for other in taken):
                continue
            covered = ((points > box[:2]) & (points < box[2:])).all(1).sum()
            cost = covered + 8.0 * distance  # a step away is worth eight points covered
            if cost < least:
                best, least = box, cost
    return best


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def wrap(text: str, width: int = 24) -> str:
    """`text` in at most two lines of about `width` characters, broken at the space nearest to the middle."""
    spaces = [i for i, c in enumerate(text) if c == " "]
    if len(text) <= width or not spaces:
        return plain(text)
    at = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return plain(text[:at]) + "\n" + plain(text[at + 1 :])


def text_size(lines: str, size: float) -> tuple[float, float]:
    """(width, height) in points of lines of text in bold, with a margin."""
    parts = [line.replace(r"\$", "S") for line in lines.split("\n")]
    widths = [TextPath((0, 0), part, size=size, prop={"family": "DejaVu Sans", "weight": "bold"}).get_extents().width if part.strip() else 0 for part in parts]
    return max(widths) + 4, 1.25 * size * len(parts) + 3


def write_title(axes: Axes, lines: str, box: np.ndarray, anchor: np.ndarray, size: float, theme: dict) -> None:
    """The text in the middle of its box (pixels), with a halo; a line to the anchor where it had to move far."""
    inverse = axes.transData.inverted().transform
    centre = (box[:2] + box[2:]) / 2
    halo = [withStroke(linewidth=2.5, foreground=theme["page"])]
    outside = np.maximum(np.maximum(box[:2] - anchor, anchor - box[2:]), 0)
    if np.hypot(*outside) > (box[3] - box[1]) / 2:
        near = np.clip(anchor, box[:2], box[2:])
        start, end = inverse(near), inverse(anchor)
        axes.plot([start[0], end[0]], [start[1], end[1]], color=theme["faint"], linewidth=0.6, zorder=3, label="_leader")
    font = {"fontsize": size, "fontweight": "bold", "color": theme["ink"], "linespacing": 1.15}
    axes.text(*inverse(centre), lines, ha="center", va="center", path_effects=halo, zorder=4, **font)

"""Place labels on a crowded plot: inside, apart, over few points, the same way every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from figures.style import escape_text

POINTS = 72.0  # an inch
DISTANCES = (0.0, 1.0, 1.6, 2.2, 3.0)  # of half a box, tried in this order
STEP = 8.0  # a step away costs as much as this many covered points


@dataclass(frozen=True)
class Label:
    """A text and the point that it names."""

    text: str
    anchor: tuple[float, float]  # data coordinates
    size: float  # points
    width: int  # characters in a line, about


def place_labels(axes: Axes, labels: list[Label], cloud: np.ndarray, most: int, theme: dict) -> int:
    """Write labels in order, at most `most` of them; returns how many were written.

    Each stands at the free place near its anchor that covers fewest points of `cloud` (M, 2); one
    without a free place is left out. The axes' limits and size must be final: everything is
    calculated in points of the figure.
    """
    scale = POINTS / axes.figure.dpi

    def to_points(data: np.ndarray) -> np.ndarray:
        return axes.transData.transform(data) * scale

    cloud = to_points(cloud) if len(cloud) else np.zeros((0, 2))
    box = axes.get_window_extent()
    frame = np.array([box.x0, box.y0, box.x1, box.y1]) * scale
    taken: list[np.ndarray] = []
    for label in labels:
        if len(taken) == most:
            break
        lines, anchor = wrap(label.text, label.width), to_points(np.array([label.anchor]))[0]
        at = find_box(anchor, measure(lines, label.size), cloud, taken, frame)
        if at is not None:
            taken.append(at)
            write_label(axes, lines, at / scale, anchor / scale, label.size, theme)
    return len(taken)


def find_box(
    anchor: np.ndarray,
    size: tuple[float, float],
    cloud: np.ndarray,
    taken: list[np.ndarray],
    frame: np.ndarray,
) -> np.ndarray | None:
    """Return (x0, y0, x1, y1) in points of the best box of `size` near `anchor`, or None.

    The box is inside `frame`, does not touch those in `taken`, and covers fewest points.
    """
    best, least = None, np.inf
    half = np.array(size) / 2
    for distance in DISTANCES:
        for angle in np.linspace(0, 2 * np.pi, 1 if distance == 0 else 16, endpoint=False):
            centre = anchor + distance * np.array([np.cos(angle), np.sin(angle)]) * (half + 4)
            box = np.r_[centre - half, centre + half]
            outside = (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any()
            if outside or any(overlap(box, other) for other in taken):
                continue
            inside = ((cloud > box[:2]) & (cloud < box[2:])).all(1)
            cost = inside.sum() + STEP * distance
            if cost < least:
                best, least = box, cost
    return best


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes (x0, y0, x1, y1) cover a place in common."""
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def wrap(text: str, width: int) -> str:
    """Break `text` at the space nearest to its middle if it is longer than `width` characters."""
    spaces = [i for i, c in enumerate(text) if c == " "]
    if len(text) <= width or not spaces:
        return escape_text(text)
    at = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return escape_text(text[:at]) + "\n" + escape_text(text[at + 1 :])


def measure(lines: str, size: float) -> tuple[float, float]:
    """Return (width, height) in points of lines of bold text, with a margin."""
    font = FontProperties(family="DejaVu Sans", weight="bold")
    parts = [line.replace(r"\$", "S") for line in lines.split("\n")]
    widths = [
        TextPath((0, 0), part, size=size, prop=font).get_extents().width if part.strip() else 0
        for part in parts
    ]
    return max(widths) + 4, 1.25 * size * len(parts) + 3


def write_label(
    axes: Axes, lines: str, box: np.ndarray, anchor: np.ndarray, size: float, theme: dict
) -> None:
    """Write the text in the middle of its box (pixels), on a rectangle of the page's colour.

    A line leads to the anchor where the text had to move far. A halo of strokes looks as well as a
    rectangle, but turns each letter of an SVG into two outlines: 24 titles were 600 kB.
    """
    inverse = axes.transData.inverted().transform
    outside = np.maximum(np.maximum(box[:2] - anchor, anchor - box[2:]), 0)
    if np.hypot(*outside) > (box[3] - box[1]) / 2:
        start, end = inverse(np.clip(anchor, box[:2], box[2:])), inverse(anchor)
        look: dict[str, Any] = {
            "color": theme["faint"],
            "linewidth": 0.6,
            "zorder": 3,
            "label": "_leader",
        }
        axes.plot([start[0], end[0]], [start[1], end[1]], **look)
    ground = {"boxstyle": "round,pad=0.12", "edgecolor": "none", "alpha": 0.72}
    ground |= {"facecolor": theme["page"]}
    font: dict[str, Any] = {
        "fontsize": size,
        "fontweight": "bold",
        "color": theme["ink"],
        "linespacing": 1.15,
    }
    x, y = inverse((box[:2] + box[2:]) / 2)
    axes.text(x, y, lines, ha="center", va="center", bbox=ground, zorder=4, **font)

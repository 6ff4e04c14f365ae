"""Labels on a crowded plot, placed one after the other where they are free, inside, and cover few points. Nothing random: equal input, equal picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from figures.style import plain

POINTS = 72.0  # an inch
DISTANCES = (0.0, 1.0, 1.6, 2.2, 3.0)  # of half a box, tried in this order
STEP = 8.0  # a step away is worth as many covered points


@dataclass(frozen=True)
class Label:
    text: str
    anchor: tuple[float, float]  # data coordinates
    size: float  # points
    width: int  # characters in a line, about


def place_labels(axes: Axes, labels: list[Label], cloud: np.ndarray, most: int, theme: dict) -> int:
    """Write labels in order, each at the free place near its anchor that covers fewest of `cloud` (M, 2); returns how many found one.

    Everything is reckoned in points of the figure, so that limits and size of the axes must be final.
    """
    scale = POINTS / axes.figure.dpi
    to_points = lambda data: axes.transData.transform(data) * scale
    cloud = to_points(cloud) if len(cloud) else np.zeros((0, 2))
    box = axes.get_window_extent()
    frame = np.array([box.x0, box.y0, box.x1, box.y1]) * scale
    taken: list[np.ndarray] = []
    for label in labels:
        if len(taken) == most:
            break
        lines, anchor = wrap(label.text, label.width), to_points(np.array([label.anchor]))[0]
        at = best_box(anchor, text_size(lines, label.size), cloud, taken, frame)
        if at is not None:
            taken.append(at)
            write_label(axes, lines, at / scale, anchor / scale, label.size, theme)
    return len(taken)


def best_box(
    anchor: np.ndarray,
    size: tuple[float, float],
    cloud: np.ndarray,
    taken: list[np.ndarray],
    frame: np.ndarray,
) -> np.ndarray | None:
    """(x0, y0, x1, y1) in points of a box of `size` near `anchor`, inside `frame`, clear of `taken`, over fewest points; else None."""
    best, least = None, np.inf
    for distance in DISTANCES:
        for angle in np.linspace(0, 2 * np.pi, 1 if distance == 0 else 16, endpoint=False):
            centre = anchor + distance * np.array(
                [np.cos(angle) * (size[0] / 2 + 4), np.sin(angle) * (size[1] / 2 + 4)]
            )
            box = np.r_[centre - np.array(size) / 2, centre + np.array(size) / 2]
            if (
                (box[:2] < frame[:2]).any()
                or (box[2:] > frame[2:]).any()
                or any(overlap(box, other) for other in taken)
            ):
                continue
            cost = ((cloud > box[:2]) & (cloud < box[2:])).all(1).sum() + STEP * distance
            if cost < least:
                best, least = box, cost
    return best


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def wrap(text: str, width: int) -> str:
    """`text` in at most two lines of about `width` characters, broken at the space nearest to the middle."""
    spaces = [i for i, c in enumerate(text) if c == " "]
    if len(text) <= width or not spaces:
        return plain(text)
    at = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return plain(text[:at]) + "\n" + plain(text[at + 1 :])


def text_size(lines: str, size: float) -> tuple[float, float]:
    """(width, height) in points of lines of text in bold, with a margin."""
    parts = [line.replace(r"\$", "S") for line in lines.split("\n")]
    widths = [
        TextPath((0, 0), part, size=size, prop={"family": "DejaVu Sans", "weight": "bold"})
        .get_extents()
        .width
        if part.strip()
        else 0
        for part in parts
    ]
    return max(widths) + 4, 1.25 * size * len(parts) + 3


def write_label(
    axes: Axes, lines: str, box: np.ndarray, anchor: np.ndarray, size: float, theme: dict
) -> None:
    """The text in the middle of its box (pixels), on a veil of the page's colour; a line to the anchor where it had to move far.

    A halo of strokes looks as well, but turns each letter of an SVG into two outlines: 24 titles were 600 kB.
    """
    inverse = axes.transData.inverted().transform
    outside = np.maximum(np.maximum(box[:2] - anchor, anchor - box[2:]), 0)
    if np.hypot(*outside) > (box[3] - box[1]) / 2:
        start, end = inverse(np.clip(anchor, box[:2], box[2:])), inverse(anchor)
        axes.plot(
            [start[0], end[0]],
            [start[1], end[1]],
            color=theme["faint"],
            linewidth=0.6,
            zorder=3,
            label="_leader",
        )
    veil = {
        "boxstyle": "round,pad=0.12",
        "facecolor": theme["page"],
        "edgecolor": "none",
        "alpha": 0.72,
    }
    font = {"fontsize": size, "fontweight": "bold", "color": theme["ink"], "linespacing": 1.15}
    axes.text(
        *inverse((box[:2] + box[2:]) / 2),
        lines,
        ha="center",
        va="center",
        bbox=veil,
        zorder=4,
        **font,
    )

"""Place many labels on a crowded plot: apart, over few points, with a line to what each names.

Everything is calculated in points of the figure (1/72 inch), in a fixed order and without chance:
equal input gives equal places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from figures.style import escape_text

POINTS = 72.0  # an inch
# Points that a label is moved, at most the last; one that must move farther is left out.
STEPS = (2.0, 5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 66.0, 86.0, 112.0)
ANGLES = 24  # directions in which a place is sought at each step
CELL = 2.0  # points: side of a cell in which the ink of the cloud is counted
COVER = 90.0  # points that a label moves rather than lie on solid ink
PAD = 1.0  # points between two labels
LEADER = 4.0  # points of distance from which a line leads to what is named
FONT = "DejaVu Sans"


@dataclass(frozen=True)
class Label:
    """A text and the point that it names."""

    text: str
    anchor: tuple[float, float]  # data coordinates
    size: float  # points
    width: int  # characters in a line, about
    solid: bool = True  # in full ink, else in the faint one
    over: bool = False  # bold, stands on what it names instead of beside it, without a line


@dataclass
class Places:
    """What is taken on the figure: boxes of labels, lines to anchors, ink of the cloud."""

    frame: np.ndarray  # (4,) x0, y0, x1, y1
    ink: np.ndarray  # (columns + 1, rows + 1) sums of ink from the lower left corner on, points^2
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    lines: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    def covered(self, boxes: np.ndarray) -> np.ndarray:
        """(n,) share of each box (n, 4) that is ink; over 1 where points lie on each other."""
        most = np.array(self.ink.shape) - 1
        low = np.clip(np.round((boxes[:, :2] - self.frame[:2]) / CELL), 0, most).astype(int)
        high = np.clip(np.round((boxes[:, 2:] - self.frame[:2]) / CELL), 0, most).astype(int)
        (x0, y0), (x1, y1) = low.T, high.T
        ink = self.ink[x1, y1] - self.ink[x0, y1] - self.ink[x1, y0] + self.ink[x0, y0]
        return np.asarray(ink / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9))

    def near(self, boxes: np.ndarray, anchor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(boxes, lines) that are taken where `boxes` (n, 4) and lines to `anchor` may be."""
        if not len(boxes):
            return self.boxes[:0], self.lines[:0]
        low = np.minimum(boxes[:, :2].min(0), anchor) - PAD
        high = np.maximum(boxes[:, 2:].max(0), anchor) + PAD
        ends = np.sort(self.lines.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        here = [
            (part[:, :2] < high).all(1) & (part[:, 2:] > low).all(1) for part in (self.boxes, ends)
        ]
        return self.boxes[here[0]], self.lines[here[1]]

    def take(self, box: np.ndarray, line: np.ndarray | None) -> None:
        """Remember a label and the line to its anchor."""
        self.boxes = np.vstack([self.boxes, box])
        if line is not None:
            self.lines = np.vstack([self.lines, line])


# ---------------------------------------------------------------- place


def place_labels(
    axes: Axes,
    labels: Sequence[Label],
    cloud: np.ndarray,
    ink: np.ndarray,
    most: int,
    theme: dict,
) -> list[Label]:
    """Write labels in order, at most `most` of them; returns those that were written.

    Each stands at the free place near its anchor that covers least of `cloud` (M, 2), whose points
    have `ink` (M,) points^2 each; one without a free place is left out. No label lies on another or
    on a line, and no two lines cross. The axes' limits and size must be final.
    """
    scale = POINTS / axes.figure.dpi

    def to_points(data: np.ndarray) -> np.ndarray:
        return np.asarray(axes.transData.transform(data) * scale)

    box = axes.get_window_extent()
    frame = np.array([box.x0, box.y0, box.x1, box.y1]) * scale
    places = Places(frame, sum_ink(to_points(cloud) if len(cloud) else cloud, ink, frame))
    written: list[Label] = []
    for label in labels:
        if len(written) == most:
            break
        lines, anchor = wrap(label.text, label.width), to_points(np.array([label.anchor]))[0]
        found = find_place(anchor, measure(lines, label.size, label.over), places, label.over)
        if found is not None:
            at, line = found
            places.take(at, line)
            ends = None if line is None else line / scale
            write_label(axes, label, lines, at / scale, ends, theme)
            written.append(label)
    return written


def sum_ink(cloud: np.ndarray, ink: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Sums of ink over all cells below and left of each corner, for `Places.covered`."""
    columns, rows = np.ceil((frame[2:] - frame[:2]) / CELL).astype(int)
    counts = np.zeros((columns, rows))
    if len(cloud):
        cell = np.floor((cloud - frame[:2]) / CELL).astype(int)
        inside = ((cell >= 0) & (cell < (columns, rows))).all(1)
        np.add.at(counts, tuple(cell[inside].T), ink[inside])
    return np.pad(counts.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def find_place(
    anchor: np.ndarray, size: tuple[float, float], places: Places, over: bool = False
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """(box x0, y0, x1, y1; line x0, y0, x1, y1 or None) of the best place of `size` near `anchor`.

    None where there is no free one. `over` places may lie on the anchor itself and have no line.
    """
    boxes, moved = list_boxes(anchor, np.array(size) / 2, over)
    frame = places.frame
    free = (boxes[:, :2] >= frame[:2]).all(1) & (boxes[:, 2:] <= frame[2:]).all(1)
    boxes, moved = boxes[free], moved[free]
    grown = boxes + np.array([-PAD, -PAD, PAD, PAD])
    near_boxes, near_lines = places.near(boxes, anchor)
    free = ~meet_boxes(grown, near_boxes).any(1) & ~cross_boxes(near_lines, grown).any(0)
    boxes, moved = boxes[free], moved[free]
    ends = np.clip(anchor, boxes[:, :2], boxes[:, 2:])
    lines = np.concatenate([np.broadcast_to(anchor, ends.shape), ends], 1)
    led = np.hypot(*(ends - anchor).T) > LEADER
    if over:
        led[:] = False
    blocked = cross_boxes(lines, near_boxes).any(1) | cross_lines(lines, near_lines).any(1)
    free = ~(led & blocked)
    if not free.any():
        return None
    boxes, moved, lines, led = boxes[free], moved[free], lines[free], led[free]
    best = int(np.argmin(moved + COVER * np.minimum(places.covered(boxes), 1.5)))
    return boxes[best], lines[best] if led[best] else None


def list_boxes(anchor: np.ndarray, half: np.ndarray, over: bool) -> tuple[np.ndarray, np.ndarray]:
    """(boxes (n, 4) around the anchor, nearest first; (n,) points that each was moved)."""
    turn = 2 * np.pi * np.arange(ANGLES) / ANGLES
    way = np.c_[np.cos(turn), np.sin(turn)]
    edge = way / np.abs(way).max(1, keepdims=True)  # on the square around the origin
    steps = np.array(STEPS)
    centres = anchor + (edge * half)[None] + (way[None] * steps[:, None, None])
    moved = np.repeat(steps, ANGLES)
    centres = centres.reshape(-1, 2)
    if over:
        near = anchor + (edge * half * 0.5)
        centres = np.vstack([anchor, near, centres])
        moved = np.r_[0.0, np.ones(ANGLES), moved]
    return np.hstack([centres - half, centres + half]), moved


# ---------------------------------------------------------------- what meets what


def meet_boxes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) whether boxes a (n, 4) and b (m, 4) cover a place in common."""
    first, second = a[:, None], b[None]
    return np.asarray(
        (first[..., :2] < second[..., 2:]).all(-1) & (second[..., :2] < first[..., 2:]).all(-1)
    )


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes (x0, y0, x1, y1) cover a place in common."""
    return bool(meet_boxes(a[None], b[None])[0, 0])


def cross_boxes(lines: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n, m) whether lines (n, 4) pass through boxes (m, 4): slabs of Kay and Kajiya (1986)."""
    start, way = lines[:, None, :2], (lines[:, 2:] - lines[:, :2])[:, None]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    a, b = (boxes[None, :, :2] - start) / way, (boxes[None, :, 2:] - start) / way
    enters = np.minimum(a, b).max(-1)
    leaves = np.maximum(a, b).min(-1)
    return np.asarray((enters < leaves) & (leaves > 0) & (enters < 1))


def cross_lines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) whether lines a (n, 4) and b (m, 4) cross."""

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return np.asarray(
            (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1])
            - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
        )

    p, q, r, s = a[:, None, :2], a[:, None, 2:], b[None, :, :2], b[None, :, 2:]
    return np.asarray((side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0))


# ---------------------------------------------------------------- write


def wrap(text: str, width: int) -> str:
    """Break `text` at the space nearest to its middle if it is longer than `width` characters."""
    spaces = [i for i, c in enumerate(text) if c == " "]
    if len(text) <= width or not spaces:
        return escape_text(text)
    at = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return escape_text(text[:at]) + "\n" + escape_text(text[at + 1 :])


@lru_cache(maxsize=8192)
def measure_line(line: str, bold: bool) -> float:
    """Width of one line of text of one point."""
    font = FontProperties(family=FONT, weight="bold" if bold else "normal", size=100)
    return float(text_to_path.get_text_width_height_descent(line, font, False)[0]) / 100


def measure(lines: str, size: float, bold: bool = False) -> tuple[float, float]:
    """(width, height) in points of lines of text, with a margin."""
    parts = [line.replace(r"\$", "S") for line in lines.split("\n")]
    widths = [measure_line(part, bold) * size if part.strip() else 0.0 for part in parts]
    return max(widths) + 3, 1.2 * size * len(parts) + 1.5


def write_label(
    axes: Axes,
    label: Label,
    lines: str,
    box: np.ndarray,
    line: np.ndarray | None,
    theme: dict,
) -> None:
    """Write the text in the middle of its box (pixels), on a rectangle of the page's colour.

    `line` (pixels) leads from the anchor to the box. A halo of strokes looks as well as a
    rectangle, but turns each letter of an SVG into two outlines: 24 titles were 600 kB.
    """
    inverse = axes.transData.inverted().transform
    if line is not None:
        (x0, y0), (x1, y1) = inverse(line[:2]), inverse(line[2:])
        look: dict[str, Any] = {"color": theme["faint"], "linewidth": 0.045 * label.size + 0.15}
        axes.plot([x0, x1], [y0, y1], zorder=3, label="_leader", solid_capstyle="butt", **look)
        dot: dict[str, Any] = {"markersize": 0.28 * label.size, "markeredgewidth": 0}
        axes.plot([x0], [y0], "o", color=theme["ink"], zorder=3, label="_anchor", **dot)
    ground = {"boxstyle": "square,pad=0.06", "edgecolor": "none", "alpha": 0.78}
    ground |= {"facecolor": theme["page"]}
    font: dict[str, Any] = {
        "fontsize": label.size,
        "fontweight": "bold" if label.over else "normal",
        "color": theme["ink" if label.solid else "faint"],
        "linespacing": 1.1,
    }
    x, y = inverse((box[:2] + box[2:]) / 2)
    axes.text(x, y, lines, ha="center", va="center", bbox=ground, zorder=4, **font)

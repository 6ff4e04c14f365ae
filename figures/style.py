"""One style for every figure: a light theme, its dark variant, and what each colour means.

    with themed(dark) as theme:
        figure = Figure(figsize=(8, 5))
        axes = figure.add_subplot()
        axes.hist(scores, color=COLOURS["score"])
    save(figure, path)

Figures are made with `matplotlib.figure.Figure`, never with pyplot: no window, no global list of figures, Agg by itself. Text that
comes from a subject or a label goes through `plain`, or a `$` in it would be read as mathematics.

Colours are the ones that stay apart for colour-blind readers: Okabe and Ito's seven (smallest CIEDE2000 distance 10.9 under simulated
protanopia, deuteranopia and tritanopia) for meanings, Tol's muted nine (11.5) for categories; tab10 falls to 1.3. No palette survives
past nine, so a figure with more categories groups them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from core.files import replacing

COLOURS = {  # what a colour means, in every figure and both themes
    "score": "#0072B2",
    "null": "#E69F00",
    "control": "#CC79A7",
    "noise": "#B8BEC6",
    "baseline": "#009E73",
    "clamped": "#D55E00",
}
PALETTE = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
)  # Tol, muted
DARK_PALETTE = (
    "#7C6FD6",
    "#88CCEE",
    "#44AA99",
    "#3DA35D",
    "#A8A83A",
    "#DDCC77",
    "#DE7C8C",
    "#B8487F",
    "#C774B8",
)  # its four darkest hues raised
DOTS, MOST_BYTES = (200, 150, 110, 80), 600_000
SEQUENTIAL = "cividis"

LIGHT = {
    "page": "#FFFFFF",
    "ink": "#111418",
    "faint": "#5B6470",
    "grid": "#E3E6EA",
    "noise": "#B8BEC6",
    "palette": PALETTE,
}
DARK = {
    "page": "#14171C",
    "ink": "#F5F7FA",
    "faint": "#9AA4B1",
    "grid": "#2A3038",
    "noise": "#4A525C",
    "palette": DARK_PALETTE,
}


@contextlib.contextmanager
def themed(dark: bool = False) -> Iterator[dict]:
    """The theme's colours (page, ink, faint, grid, noise, palette), with matplotlib set to it inside the block.

    A figure keeps the colours of the block it was made in: make it and draw on it inside, save it anywhere.
    """
    theme = DARK if dark else LIGHT
    with mpl.rc_context(rc(theme)):
        yield theme


def rc(theme: dict) -> dict:
    """matplotlib settings of a theme."""
    ink, faint, page, grid = theme["ink"], theme["faint"], theme["page"], theme["grid"]
    return {
        "figure.facecolor": page, "savefig.facecolor": page, "axes.facecolor": page,
        "text.color": ink, "axes.labelcolor": ink, "axes.titlecolor": ink, "axes.edgecolor": faint,
        "xtick.color": faint, "ytick.color": faint, "xtick.labelcolor": ink, "ytick.labelcolor": ink,
        "grid.color": grid, "grid.linewidth": 0.8, "axes.grid": True, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
        "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.prop_cycle": mpl.cycler(color=theme["palette"]), "image.cmap": SEQUENTIAL,
        "legend.frameon": False, "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
        "figure.dpi": 100, "savefig.dpi": 200,
    }  # fmt: skip


def plain(text: str) -> str:
    """`text` as matplotlib will print it, character by character: no mathematics between dollars, line ends and tabs made visible."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "").replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write the figure, format by the ending of `path`; no date inside, so equal figures are equal bytes.

    Letters of an SVG are outlines, each kept once: it looks the same where our font is missing. At 200 dots an inch, or as many fewer as keep the file under 600 kB, which is what a readme can carry.
    """
    kind = path.suffix.lstrip(".")
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    path.parent.mkdir(parents=True, exist_ok=True)
    for dots in DOTS:
        with (
            replacing(path) as temporary,
            mpl.rc_context({"svg.hashsalt": "figures", "svg.fonttype": "path"}),
        ):
            figure.savefig(temporary, format=kind, dpi=dots, metadata=dated.get(kind))
        if path.stat().st_size < MOST_BYTES:
            break


def contrast(a: str, b: str) -> float:
    """Contrast of two colours #RRGGBB by WCAG 2.1, 1 to 21; text needs 4.5."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)

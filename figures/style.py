"""One style for every figure: a light theme, its dark variant, and what each colour means.

    with use_theme(dark) as theme:
        figure = Figure(figsize=(8, 5))
        axes = figure.add_subplot()
        axes.hist(scores, color=COLOURS["score"])
    save(figure, path)

Figures are made with `matplotlib.figure.Figure`, never with pyplot: no window and no global list of
figures. Text that comes from a subject or a label goes through `escape_text`, or matplotlib would
read a `$` in it as mathematics.

Colour-blind readers can tell the colours apart. Meanings have Okabe and Ito's seven (smallest
CIEDE2000 distance 10.9 under simulated protanopia, deuteranopia and tritanopia), categories have
Tol's muted nine (11.5); tab10 falls to 1.3. No palette has more than nine such colours, so a figure
with more categories merges some of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from core.files import replace_file

COLOURS = {  # the meaning of each colour, in every figure and both themes
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
)  # Tol's muted nine
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
)  # the four darkest of PALETTE are lighter
DOTS, MOST_BYTES = (200, 150, 110, 80), 600_000
PRINT_DOTS = (300,)  # dots an inch of a figure for print, however large its file
SEQUENTIAL = "cividis"

# `own`, `direction` and `other` are the curves of a clamp and of its controls: a random direction,
# a random feature. The explorer's page has the same colours (a test compares them), so each is dark
# or light enough for 3 : 1 on the page's background.
LIGHT = {
    "page": "#FFFFFF",
    "ink": "#111418",
    "faint": "#5B6470",
    "grid": "#E3E6EA",
    "noise": "#B8BEC6",
    "score": "#0072B2",
    "null": "#B06F00",
    "own": "#D55E00",
    "direction": "#B0558A",
    "other": "#737B86",
    "palette": PALETTE,
}
DARK = {
    "page": "#14171C",
    "ink": "#F5F7FA",
    "faint": "#9AA4B1",
    "grid": "#2A3038",
    "noise": "#4A525C",
    "score": "#4AA8E0",
    "null": "#E69F00",
    "own": "#FF8A3C",
    "direction": "#E08FBD",
    "other": "#98A1AC",
    "palette": DARK_PALETTE,
}


@contextlib.contextmanager
def use_theme(dark: bool = False) -> Iterator[dict]:
    """Set matplotlib to a theme inside the block; gives the theme's colours.

    The colours are page, ink, faint, grid, noise (#RRGGBB) and palette (nine of them). A figure
    keeps the colours of the block it was made in: make it and draw on it inside, save it anywhere.
    """
    theme = DARK if dark else LIGHT
    with mpl.rc_context(rc_of(theme)):
        yield theme


def rc_of(theme: dict) -> dict:
    """Return the matplotlib settings of a theme."""
    ink, faint, page = theme["ink"], theme["faint"], theme["page"]
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), ink)
    colours |= dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), ink)
    colours |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), faint)
    colours |= dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), page)
    return colours | {
        "grid.color": theme["grid"],
        "grid.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.prop_cycle": cycler(color=theme["palette"]),
        "image.cmap": SEQUENTIAL,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "figure.dpi": 100,
        "savefig.dpi": 200,
    }


def escape_text(text: str) -> str:
    """Escape `text` for matplotlib: no mathematics between dollars, line ends and tabs as signs."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "").replace("$", r"\$")


def save(figure: Figure, path: Path, dots: tuple[int, ...] = DOTS) -> None:
    """Write the figure in the format that the ending of `path` names.

    The file holds no date, so equal figures are equal bytes. Letters of an SVG are outlines, each
    kept once: it looks the same where our font is missing. A picture has the most of `dots` an inch
    that keep the file under 600 kB, which is what a readme can carry, or else the last of them.
    """
    kind = path.suffix.lstrip(".").lower()
    without_date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    path.parent.mkdir(parents=True, exist_ok=True)
    for resolution in dots:
        with (
            replace_file(path) as temporary,
            mpl.rc_context({"svg.hashsalt": "figures", "svg.fonttype": "path"}),
        ):
            figure.savefig(temporary, format=kind, dpi=resolution, metadata=without_date.get(kind))
        if path.stat().st_size < MOST_BYTES:
            break


def contrast(a: str, b: str) -> float:
    """Return the contrast of two colours #RRGGBB by WCAG 2.1, from 1 to 21; text needs 4.5."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)

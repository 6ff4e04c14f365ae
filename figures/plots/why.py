"""Figure of an attribution: what ablating each firing was predicted to change, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.attribution.record import Attribution, Firing
from figures.style import COLOURS, escape_text, save, use_theme
from figures.text import quote, to_line

LONGEST = 44  # characters of a label beside a bar
HEADING = 100


def draw_why(record: Attribution, dark: bool = False) -> Figure:
    """Bars of the change of the logit (logits) when a firing alone is ablated.

    On the left the strongest firings by attribution, on the right random ones of like size; each
    has what the attribution predicts and what was measured.
    """
    strongest = record.firings[: record.strongest]
    random = [record.firings[i] for i in record.random]
    rows = max(len(strongest), len(random), 1)
    with use_theme(dark):
        figure = Figure(figsize=(13.5, 1.6 + 0.42 * rows), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True)
        draw_bars(left, record, strongest, "the strongest firings")
        draw_bars(right, record, random, "random firings of like size")
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=2, fontsize=9)
        figure.suptitle(
            escape_text(why_title(record)), x=0.01, ha="left", fontsize=12, fontweight="bold"
        )
    return figure


def draw_bars(axes: Axes, record: Attribution, firings: Sequence[Firing], title: str) -> None:
    """Two bars for each firing, the first at the top."""
    places = np.arange(len(firings))
    predicted = [-f.attribution for f in firings]
    measured = [np.nan if f.change is None else f.change for f in firings]
    axes.barh(places - 0.2, predicted, 0.38, color=COLOURS["null"], label="predicted")
    axes.barh(places + 0.2, measured, 0.38, color=COLOURS["clamped"], label="measured")
    axes.axvline(0, linewidth=0.8, color=COLOURS["noise"])
    names = [escape_text(name_firing(record, f)) for f in firings]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("change of the logit when it alone is ablated")
    axes.set_title(title, fontsize=10, fontweight="normal")


def name_firing(record: Attribution, firing: Firing) -> str:
    """Its token and its label, or its number without one, short enough for an axis."""
    text = to_line(record.label(firing.feature)) or f"feature {firing.feature}"
    name = f"{quote(record.tokens[firing.position])} at {firing.position}: {text}"
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def why_title(record: Attribution) -> str:
    """The prompt's end and the token that follows."""
    about = f" → {quote(record.token)} ({record.probability:.0%})"
    if record.against:
        about += f" rather than {quote(record.against)}"
    prompt, room = to_line(record.prompt), HEADING - len(about)
    return (prompt if len(prompt) <= room else "… " + prompt[-room:]) + about


def save_why_figure(path: Path, record: Attribution) -> list[Path]:
    """Write the figure at `path` and its dark variant beside it; return both paths."""
    dark = path.with_name(f"{path.stem}-dark{path.suffix}")
    save(draw_why(record), path)
    save(draw_why(record, dark=True), dark)
    return [path, dark]

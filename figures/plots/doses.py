"""Figure of what clamping a feature does, by dose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.clamps.experiments import Experiment
from figures.style import COLOURS, escape_text, save, use_theme
from figures.text import short_label

CURVES = (  # prefix in the row of a dose, colour, line, name
    ("", COLOURS["clamped"], "-", "this clamp"),
    ("random_", COLOURS["control"], "--", "random direction, equal length"),
    ("feature_", COLOURS["null"], ":", "random feature of like density, equal length"),
)
PANELS = (
    ("target", "nats", "Log-probability of its own tokens, change"),
    ("own", "share", "Its own tokens in what it writes"),
    ("found", "share of its maximum", "Found again in what it writes"),
    ("kl", "nats a token", "KL to the unclamped subject"),
)
LONGEST = 96  # characters of a heading


def dose_curves(record: Experiment, dark: bool = False) -> Figure:
    """How predictions, written text and the whole distribution change with the dose.

    Beside the clamp stand its controls, all with 95 % intervals. The doses of the record are rows
    of `core.clamps.doses.Doses.measure`: dose, means, and their _low and _high.
    """
    several = len(record.features) > 1
    of = "the clamps' values" if several else "the feature's maximum"
    with use_theme(dark):
        figure = Figure(figsize=(13.5, 3.9), layout="constrained")
        for axes, (key, unit, what) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            draw_panel(axes, record.doses or (), key)
            axes.set(xlabel=f"dose, times {of}", ylabel=unit)
            axes.set_title(what, fontsize=10, fontweight="normal")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=9)
        title = escape_text(dose_title(record))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def draw_panel(axes: Axes, rows: Sequence[dict], key: str) -> None:
    """One measure by dose, of the clamp and of those controls that were measured."""
    doses = [row["dose"] for row in rows]
    for prefix, colour, line, name in CURVES:
        mean, low, high = (
            np.array([row.get(f"{prefix}{key}{end}") for row in rows], dtype=float)
            for end in ("", "_low", "_high")
        )
        if np.isnan(mean).all():
            continue
        look: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "linestyle": line}
        axes.plot(doses, mean, label=name, **look)
        axes.fill_between(doses, low, high, color=colour, alpha=0.15, linewidth=0)


def dose_title(record: Experiment) -> str:
    """The clamp and its label, short enough for a heading."""
    feature = record.features[0]
    label = short_label(record.label(feature) or "no label")
    text = f"Clamping feature {feature}: {label}"
    if len(record.features) > 1:
        text = "Clamped together: " + ", ".join(record.clamps)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def describe_sizes(record: Experiment) -> str:
    """Say what the doses were measured on; nothing where the experiment does not hold it."""
    n = record.measured_on
    if not n:
        return ""
    seeds = f"{n['seeds']} seed{'s'[: n['seeds'] > 1]}"
    rows = f"{n['rows']} rows of {n['row_tokens']} held-out tokens"
    return f"{rows}; {n['prompts']} prompts, {seeds}, {n['tokens']} tokens written of each"


def save_dose_figure(experiment: Path, record: Experiment) -> str:
    """Draw the doses of a kept experiment beside its file; returns the figure's file name."""
    path = experiment.with_suffix(".png")
    save(dose_curves(record), path)
    return path.name

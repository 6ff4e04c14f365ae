"""Figure of what clamping a feature does, by dose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.clamps.experiments import Experiment
from figures.style import escape_text, save, use_theme
from figures.text import short_label

CURVES = (  # prefix in the row of a dose, colour of the theme, line, name
    ("", "own", "-", "this clamp"),
    ("random_", "direction", "--", "random direction, equal length"),
    ("feature_", "other", ":", "random feature of like density, equal length"),
)
TARGET = ("target", "nats, change", "Log-probability of its own tokens")
SECOND = (  # the first of these in which the clamp rises above its controls stands beside TARGET
    ("own", "share", "Its own tokens in what it writes"),
    ("found", "share of its maximum", "Found again in what it writes"),
    ("kl", "nats a token", "KL to the unclamped subject"),
)
SHARES = ("own", "found")  # a band of these cannot leave 0 to 1
LONGEST = 72  # characters of a heading


def dose_curves(record: Experiment, dark: bool = False) -> Figure:
    """How predictions and the written text change with the dose, in two panels.

    Beside the clamp stand its controls, all with 95 % intervals. Its own tokens are those that its
    direction promotes. The doses of the record are rows of `core.clamps.doses.Doses.measure`: dose,
    means, and their _low and _high.
    """
    several = len(record.features) > 1
    of = "the clamps' values" if several else "the feature's maximum"
    panels = (TARGET, choose_second(record.doses or ()))
    with use_theme(dark) as theme:
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        for axes, (key, unit, what) in zip(figure.subplots(1, 2), panels, strict=True):
            draw_panel(axes, record.doses or (), key, theme)
            axes.set_xlabel(f"dose, times {of}", fontsize=11)
            axes.set_ylabel(unit, fontsize=11)
            axes.tick_params(labelsize=10.5)
            axes.set_title(what, fontsize=11.5, fontweight="normal")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=10)
        title = escape_text(dose_title(record))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    return figure


def choose_second(rows: Sequence[dict]) -> tuple[str, str, str]:
    """The panel beside TARGET: where the clamp's lower bound is above its controls at some dose."""
    for panel in SECOND:
        for row in rows:
            key, controls = panel[0], ("random_", "feature_")
            highs = [row.get(f"{control}{key}_high") for control in controls]
            low = row.get(f"{key}_low")
            if low is not None and low > max((h for h in highs if h is not None), default=0.0):
                return panel
    return SECOND[0]


def draw_panel(axes: Axes, rows: Sequence[dict], key: str, theme: dict) -> None:
    """One measure by dose, of the clamp and of those controls that were measured."""
    doses = [row["dose"] for row in rows]
    for prefix, meaning, line, name in CURVES:
        colour = theme[meaning]
        mean, low, high = (
            np.array([row.get(f"{prefix}{key}{end}") for row in rows], dtype=float)
            for end in ("", "_low", "_high")
        )
        if np.isnan(mean).all():
            continue
        if key in SHARES:
            low, high = np.clip(low, 0, 1), np.clip(high, 0, np.maximum(1, mean))
        look: dict[str, Any] = {
            "color": colour,
            "marker": "o",
            "markersize": 4.5,
            "linestyle": line,
        }
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

"""What clamping a feature does, by dose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLOURS, plain, save, themed
from figures.text import visible

CURVES = (  # prefix in a dose's record, colour, line, name
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


def dose_curves(record: dict, dark: bool = False) -> Figure:
    """How the predictions, the written text and the whole distribution move with the dose, beside controls, with 95 % intervals.

    `doses` of the record are the rows of `core.doses.Doses.measure`: doses, means, _low and _high.
    """
    responses, several = record["doses"], len(record["features"]) > 1
    unit_of_dose = (
        "dose, times the clamps' values" if several else "dose, times the feature's maximum"
    )
    with themed(dark):
        figure = Figure(figsize=(13.5, 3.9), layout="constrained")
        for axes, (key, unit, what) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            draw_panel(axes, responses, key)
            axes.set(xlabel=unit_of_dose, ylabel=unit)
            axes.set_title(what, fontsize=10, fontweight="normal")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=9)
        figure.suptitle(
            plain(dose_title(record)), x=0.01, ha="left", fontsize=12, fontweight="bold"
        )
        return figure


def draw_panel(axes: Axes, responses: list[dict], key: str) -> None:
    doses = [r["dose"] for r in responses]
    for prefix, colour, line, name in CURVES:
        column = lambda end, prefix=prefix: np.array(
            [r.get(f"{prefix}{key}{end}") for r in responses], dtype=float
        )
        if np.isnan(column("")).all():
            continue
        axes.plot(
            doses, column(""), color=colour, marker="o", markersize=4, linestyle=line, label=name
        )
        axes.fill_between(
            doses, column("_low"), column("_high"), color=colour, alpha=0.15, linewidth=0
        )


def dose_title(record: dict) -> str:
    """The clamp and its label, short enough for a heading."""
    feature = record["features"][0]
    label = visible(record["labels"].get(str(feature)) or "no label")
    several = len(record["features"]) > 1
    text = (
        "Clamped together: " + ", ".join(record["clamps"])
        if several
        else f"Clamping feature {feature}: {label}"
    )
    return text if len(text) <= 96 else text[:95] + "…"


def dose_sizes(record: dict) -> str:
    """What the doses were measured on, in words; empty for experiments that were kept before this was."""
    n = record.get("measured_on")
    if not n:
        return ""
    return f"{n['rows']} rows of {n['row_tokens']} held-out tokens; {n['prompts']} prompts, {n['seeds']} seed{'s'[: n['seeds'] > 1]}, {n['tokens']} tokens written of each"


def save_dose_figure(experiment: Path, record: dict) -> str:
    """Draw the doses of a kept experiment beside it; returns the figure's file name."""
    path = experiment.with_suffix(".png")
    save(dose_curves(record), path)
    return path.name

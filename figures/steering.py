"""What clamping a feature does, by dose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import COLOURS, plain, save, themed
from figures.terminal import visible

CURVES = (  # prefix in a dose's record, colour, line, name
    ("", COLOURS["clamped"], "-", "this feature"),
    ("random_", COLOURS["control"], "--", "random direction, equal length"),
    ("feature_", COLOURS["null"], ":", "random feature of like density, equal length"),
)
PANELS = (
    ("target", "nats", "Log-probability of its own tokens, change"),
    ("own", "share", "Its own tokens in what it writes"),
    ("kl", "nats a token", "KL to the unclamped subject"),
)


def dose_curves(responses: list[dict], title: str, dark: bool = False) -> Figure:
    """How the predictions, the written text and the whole distribution move with the dose, beside controls, with 95 % intervals.

    `responses` are the rows of `core.doses.Doses.measure`: dose in multiples of the feature's maximum; means, _low and _high.
    """
    with themed(dark):
        figure = Figure(figsize=(11, 3.9), layout="constrained")
        for axes, (key, unit, what) in zip(figure.subplots(1, 3), PANELS, strict=True):
            draw_panel(axes, responses, key)
            axes.set(xlabel="dose (multiples of the feature's maximum)", ylabel=unit)
            axes.set_title(what, fontsize=10, fontweight="normal")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=9)
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
        return figure


def draw_panel(axes: Axes, responses: list[dict], key: str) -> None:
    doses = [r["dose"] for r in responses]
    for prefix, colour, line, name in CURVES:
        column = lambda end, prefix=prefix: np.array([r.get(f"{prefix}{key}{end}") for r in responses], dtype=float)
        if np.isnan(column("")).all():
            continue
        axes.plot(doses, column(""), color=colour, marker="o", markersize=4, linestyle=line, label=name)
        axes.fill_between(doses, column("_low"), column("_high"), color=colour, alpha=0.15, linewidth=0)


def dose_title(record: dict) -> str:
    """The clamp and its label, short enough for a heading."""
    feature = record["features"][0]
    label = visible(record["labels"].get(str(feature)) or "no label")
    return f"Clamping feature {feature}: {label if len(label) <= 70 else label[:69] + '…'}"


def save_dose_figure(experiment: Path, record: dict) -> str:
    """Draw the doses of a kept experiment beside it; returns the figure's file name."""
    path = experiment.with_suffix(".png")
    save(dose_curves(record["doses"], dose_title(record)), path)
    return path.name

"""What clamping a feature does, by dose."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from figures.style import COLOURS, plain, save, themed


def dose_curves(responses: list[dict], title: str, dark: bool = False) -> Figure:
    """Change of the promoted tokens' log-probability and KL to the unclamped subject over the dose, beside a random direction.

    `responses` are the fields of `core.clamp.Response`: dose in multiples of the feature's maximum, the rest in nats.
    """
    doses = [r["dose"] for r in responses]
    with themed(dark):
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, key, unit, what in zip(
            panels, ("target", "kl"), ("nats", "nats a token"), ("Log-probability of its promoted tokens", "KL to the unclamped subject"), strict=True
        ):
            axes.plot(doses, [r[key] for r in responses], color=COLOURS["clamped"], marker="o", label="this feature")
            axes.plot(
                doses, [r[f"control_{key}"] for r in responses], color=COLOURS["control"], marker="o", linestyle="--", label="random direction, same length"
            )
            axes.set(xlabel="dose (multiples of the feature's maximum)", ylabel=unit)
            axes.set_title(what, fontsize=10, fontweight="normal")
        panels[0].legend(loc="lower right")
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
        return figure


def dose_title(record: dict) -> str:
    """The clamp and its label, short enough for a heading."""
    feature = record["features"][0]
    label = record["labels"].get(str(feature)) or "no label"
    return f"Clamping feature {feature}: {label if len(label) <= 70 else label[:69] + '…'}"


def save_dose_figure(experiment: Path, record: dict) -> str:
    """Draw the doses of a kept experiment beside it; returns the figure's file name."""
    path = experiment.with_suffix(".png")
    save(dose_curves(record["doses"], dose_title(record)), path)
    return path.name

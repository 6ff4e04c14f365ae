"""Figures of training: reconstruction by step, density of features, L0 and FVU of several SAEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from figures.plots.scores import name_power
from figures.style import COLOURS, use_theme


@dataclass(frozen=True)
class Curves:
    """What was measured in training: S batches, and C checks on val."""

    steps: np.ndarray  # (S,)
    fvu: np.ndarray  # (S,) on the training batches
    l0: np.ndarray  # (S,)
    dead: np.ndarray  # (S,) share of dead features
    checked: np.ndarray  # (C,) steps
    checked_fvu: np.ndarray  # (C,) on val
    best_step: int  # whose weights were kept

    @classmethod
    def from_rows(cls, rows: list[dict], best_step: int) -> Curves:
        """From the rows of metrics.jsonl; arrays without elements where there are none."""
        batches = [r for r in rows if "l0" in r]
        checks = [r for r in rows if "val_fvu" in r]
        measured = [[r[name] for r in batches] for name in ("step", "fvu", "l0", "dead")]
        measured += [[r[name] for r in checks] for name in ("step", "val_fvu")]
        steps, fvu, l0, dead, checked, checked_fvu = (np.array(m, float) for m in measured)
        return cls(steps, fvu, l0, dead, checked, checked_fvu, best_step)


def training_curves(curves: Curves, dark: bool = False) -> Figure:
    """FVU on the training batches and on val, with L0 and the dead share below."""
    with use_theme(dark) as theme:
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        draw_fvu(top, curves, theme)
        middle.plot(curves.steps, curves.l0, color=COLOURS["score"], linewidth=1)
        middle.set_ylabel("L0")
        middle.set_ylim(bottom=0)
        bottom.plot(curves.steps, curves.dead, color=COLOURS["score"], linewidth=1)
        highest = max(0.1, float(curves.dead.max(initial=0)) * 1.1)
        bottom.set(ylabel="dead share", xlabel="step", ylim=(-0.02, highest))
    return figure


def draw_fvu(axes: Axes, curves: Curves, theme: dict) -> None:
    look: dict[str, Any] = {"color": theme["faint"], "alpha": 0.45, "linewidth": 0.8}
    axes.plot(curves.steps, curves.fvu, label="train, each batch", **look)
    look = {"color": COLOURS["score"], "marker": "o", "markersize": 3.5}
    axes.plot(curves.checked, curves.checked_fvu, label="val", **look)
    look = {"color": COLOURS["clamped"], "linestyle": "--", "linewidth": 1.2}
    axes.axvline(curves.best_step, label=f"kept: step {curves.best_step}", **look)
    axes.set(yscale="log", ylabel="FVU (log)", title="Reconstruction while training")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper center")


def density_histogram(density: np.ndarray, dark: bool = False) -> Figure:
    """How many features fire on which share of tokens; `density` (F,) is 0 for dead ones."""
    alive = density[density > 0]
    median, bins = np.median(alive), int(np.clip(len(alive) // 8, 8, 50))
    with use_theme(dark) as theme:
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        look: dict[str, Any] = {
            "color": COLOURS["score"],
            "edgecolor": theme["page"],
            "linewidth": 0.4,
        }
        sns.histplot(x=np.log10(alive), bins=bins, ax=axes, **look)
        axes.axvline(np.log10(median), color=COLOURS["clamped"], linestyle="--", linewidth=1.2)
        top = axes.get_ylim()[1] * 1.1
        axes.set_ylim(top=top)
        look = {"color": COLOURS["clamped"], "va": "top", "ha": "right"}
        axes.text(np.log10(median), top, f"median {median:.2%} ", **look)
        ticks = np.arange(np.floor(np.log10(alive.min())), 1)
        axes.set_xticks(ticks, [name_power(t) for t in ticks])
        axes.set(
            xlabel="share of tokens on which a feature fires (log)",
            ylabel="features",
            title=f"Density of {len(alive):,} alive features ({len(density) - len(alive)} dead)",
        )
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def sweep_figure(points: list[tuple[str, float, float]], dark: bool = False) -> Figure:
    """(name, L0, FVU) of SAEs on the same site and text, the first one marked."""
    with use_theme(dark) as theme:
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, l0, fvu) in enumerate(points):
            colour, marker = (theme["faint"], "o") if i else (COLOURS["score"], "D")
            axes.scatter([l0], [fvu], s=46, color=colour, marker=marker, zorder=3)
            note: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(name, (l0, fvu), color=theme["ink"], **note)
        low, high = min(l0 for _, l0, _ in points) / 1.6, max(l0 for _, l0, _ in points) * 2
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 1.15 * max(fvu for *_, fvu in points)))
        set_binary_ticks(axes, low, high)
        axes.set(
            xlabel="L0: features a token (log)",
            ylabel="FVU",
            title="Sparsity against what is left unexplained",
        )
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def set_binary_ticks(axes: Axes, low: float, high: float) -> None:
    """Ticks at powers of two from `low` to `high`, on a logarithmic axis."""
    ticks = [2.0**i for i in range(-3, 14) if low <= 2.0**i <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)

"""How the autoencoder learned, and how often its features fire."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from figures.style import COLOURS, themed


def training_curves(
    steps: np.ndarray,
    fvu: np.ndarray,
    l0: np.ndarray,
    dead: np.ndarray,
    checked: np.ndarray,
    checked_fvu: np.ndarray,
    best_step: int,
    dark: bool = False,
) -> Figure:
    """FVU on the training batches (steps,) and on val (checked,), with L0 and the dead share below; the kept step is marked."""
    with themed(dark) as theme:
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        top.plot(
            steps, fvu, color=theme["faint"], alpha=0.45, linewidth=0.8, label="train, each batch"
        )
        top.plot(
            checked, checked_fvu, color=COLOURS["score"], marker="o", markersize=3.5, label="val"
        )
        top.axvline(
            best_step,
            color=COLOURS["clamped"],
            linestyle="--",
            linewidth=1.2,
            label=f"kept: step {best_step}",
        )
        top.set(yscale="log", ylabel="FVU (log)", title="Reconstruction while training")
        top.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        top.yaxis.set_minor_formatter(NullFormatter())
        top.legend(loc="upper center")
        middle.plot(steps, l0, color=COLOURS["score"], linewidth=1)
        middle.set_ylabel("L0")
        middle.set_ylim(bottom=0)
        bottom.plot(steps, dead, color=COLOURS["score"], linewidth=1)
        bottom.set(
            ylabel="dead share",
            xlabel="step",
            ylim=(-0.02, max(0.1, float(dead.max(initial=0)) * 1.1)),
        )
        return figure


def density_histogram(density: np.ndarray, dark: bool = False) -> Figure:
    """How many features fire on which share of tokens; `density` (F,), dead features are counted in the title."""
    live = density[density > 0]
    with themed(dark) as theme:
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        sns.histplot(
            x=np.log10(live),
            bins=int(np.clip(len(live) // 8, 8, 50)),
            color=COLOURS["score"],
            edgecolor=theme["page"],
            linewidth=0.4,
            ax=axes,
        )
        axes.axvline(
            np.log10(np.median(live)), color=COLOURS["clamped"], linestyle="--", linewidth=1.2
        )
        axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
        axes.text(
            np.log10(np.median(live)),
            axes.get_ylim()[1],
            f"median {np.median(live):.2%} ",
            color=COLOURS["clamped"],
            va="top",
            ha="right",
        )
        ticks = np.arange(np.floor(np.log10(live.min())), 1)
        axes.set_xticks(ticks, [f"{10**t:.4g}" if t >= -4 else f"1e{t:.0f}" for t in ticks])
        axes.set(
            xlabel="share of tokens on which a feature fires (log)",
            ylabel="features",
            title=f"Density of {len(live):,} live features ({len(density) - len(live)} dead)",
        )
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        return figure


def sweep_figure(points: list[tuple[str, float, float]], dark: bool = False) -> Figure:
    """(name, L0, FVU) of autoencoders on the same site and text: how much each leaves unexplained with how many features a token."""
    with themed(dark) as theme:
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, l0, fvu) in enumerate(points):
            colour = COLOURS["score"] if place == 0 else theme["faint"]
            axes.scatter(
                [l0], [fvu], s=46, color=colour, marker="D" if place == 0 else "o", zorder=3
            )
            axes.annotate(
                name,
                (l0, fvu),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
                color=theme["ink"],
            )
        low, high = min(l0 for _, l0, _ in points) / 1.6, max(l0 for _, l0, _ in points) * 2
        axes.set(xscale="log", xlim=(low, high), ylim=(0, 1.15 * max(fvu for *_, fvu in points)))
        ticks = [2.0**i for i in range(-3, 14) if low <= 2.0**i <= high]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)
        axes.set(
            xlabel="L0: features a token (log)",
            ylabel="FVU",
            title="Sparsity against what is left unexplained",
        )
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure

"""This project's own report: tokens in activation space and feature space, superposition."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autointerp.features import Features
from core.activations.layout import read_vectors
from core.training.unit import read_directions
from figures.style import COLOURS, use_theme

TOKENS, EACH, BLOCK = 1500, 250, 512
NEITHER, FIRST, SECOND, BOTH = range(4)
PAIR = (COLOURS["score"], COLOURS["clamped"])


def space_figure(
    features: Features, pair: tuple[int, int], names: tuple[str, str], dark: bool = False
) -> Figure:
    """Tokens in the plane of two directions, the same tokens by what the two features do, cosines.

    `pair` are two features, `names` what they are called; the cosines are those of all pairs.
    """
    ordinals = choose_tokens(features, pair)
    first, second = (features.postings.activations_at(f, ordinals) for f in pair)
    state = (first > 0) * FIRST + (second > 0) * SECOND
    directions = np.asarray(read_directions(features.run), np.float32)
    x = read_vectors(features.run.folder("capture"), ordinals)
    basis = span_plane(directions[pair[0]], directions[pair[1]])
    x = x - x[state == NEITHER].mean(0)
    plane_points = np.stack([x @ basis[0], x @ basis[1]], axis=1)
    with use_theme(dark) as theme:
        figure = Figure(figsize=(12, 4.4), layout="constrained")
        plane, space, angles = figure.subplots(1, 3)
        for kind, colour, name in (
            (NEITHER, theme["noise"], "neither fires"),
            (FIRST, PAIR[0], names[0]),
            (SECOND, PAIR[1], names[1]),
            (BOTH, COLOURS["control"], "both"),
        ):
            here = state == kind
            if here.any():
                plane.scatter(*plane_points[here].T, s=7, color=colour, linewidth=0, label=name)
                space.scatter(first[here], second[here], s=9, color=colour, linewidth=0)
        reach = 0.9 * float(np.abs(plane_points[:, 0]).max())
        for feature, colour in zip(pair, PAIR, strict=True):
            draw_arrow(plane, reach * basis @ unit(directions[feature]), colour)
        plane.set(
            title="Activation space",
            xlabel=f"along the direction of {pair[0]}",
            ylabel=f"across it, towards {pair[1]}",
        )
        space.set(
            title="Feature space",
            xlabel=f"activation of feature {pair[0]}",
            ylabel=f"activation of feature {pair[1]}",
        )
        draw_cosines(angles, directions, theme)
        handles, labels = plane.get_legend_handles_labels()
        look: dict[str, Any] = {
            "loc": "outside lower left",
            "ncols": 4,
            "fontsize": 9,
            "markerscale": 2,
        }
        figure.legend(handles, labels, **look)
    return figure


def choose_tokens(features: Features, pair: tuple[int, int]) -> np.ndarray:
    """Choose ordinals, ascending: random tokens, and some on which each feature of `pair` fires."""
    rng = np.random.default_rng(features.run.settings.seed)
    n_tokens = features.postings.n_tokens
    parts = [rng.choice(n_tokens, min(TOKENS, n_tokens), replace=False)]
    for feature in pair:
        firing = features.postings.firings(feature)[0]
        parts.append(rng.choice(firing, min(EACH, len(firing)), replace=False))
    return np.unique(np.concatenate(parts))


def span_plane(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An orthonormal basis (2, D) of the plane of two directions, along the first one first."""
    along = unit(first)
    return np.stack([along, unit(second - (second @ along) * along)])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def draw_arrow(axes: Axes, to: np.ndarray, colour: str) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6}
    axes.annotate("", tuple(to.tolist()), (0, 0), arrowprops=look)


def draw_cosines(axes: Axes, directions: np.ndarray, theme: dict) -> None:
    """The cosines of all pairs, and the density for independent random directions.

    The latter is normal with variance 1 / D.
    """
    n, width = directions.shape
    look: dict[str, Any] = {
        "color": COLOURS["score"],
        "alpha": 0.7,
        "label": f"{n:,} decoder directions",
    }
    axes.hist(cosines(directions), bins=120, density=True, **look)
    grid = np.linspace(-0.5, 0.5, 200)
    expected = np.exp(-(grid**2) * width / 2) * np.sqrt(width / (2 * np.pi))
    axes.plot(grid, expected, color=theme["ink"], linewidth=1.2, label="random directions")
    axes.set(
        title="Superposition",
        xlabel=f"cosine of two of the directions ({width} dimensions)",
        ylabel="density",
        xlim=(-0.5, 0.5),
    )
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper right")


def cosines(directions: np.ndarray) -> np.ndarray:
    """Cosines of every two different rows of directions (F, D): (F (F - 1) / 2,)."""
    rows = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    parts = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK] @ rows.T
        later = np.arange(start, start + len(block))[:, None] < np.arange(len(rows))
        parts.append(block[later])
    return np.concatenate(parts)

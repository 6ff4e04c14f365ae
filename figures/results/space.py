"""What the autoencoder does in activation space, in one figure of real tokens: activation space, feature space, superposition."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from autointerp.features import Features
from core.files import read_array, read_json
from figures.style import COLOURS, themed

TOKENS, EACH, BLOCK = 1500, 250, 512
NEITHER, FIRST, SECOND, BOTH = range(4)


def vectors(features: Features, ordinals: np.ndarray) -> np.ndarray:
    """Stored activations (len(ordinals), D) float32 of a run's capture; numpy has no bfloat16, so its bits become the upper half of a float32."""
    folder = features.run.folder("capture")
    layout = read_json(folder / "shards.json")
    bounds = np.array(layout["bounds"])
    home = np.searchsorted(bounds, ordinals, side="right") - 1
    out = np.empty((len(ordinals), layout["width"]), np.float32)
    for shard in np.unique(home):
        here = home == shard
        raw = read_array(folder / f"activations-{shard:05d}.npy")[ordinals[here] - bounds[shard]]
        out[here] = (
            (raw.astype(np.uint32) << 16).view(np.float32) if layout["dtype"] == "bfloat16" else raw
        )
    return out


def activations(features: Features, feature: int, ordinals: np.ndarray) -> np.ndarray:
    """Activation of a feature at each ordinal, 0 where it is silent."""
    where, values = features.postings.firings(feature)
    place = np.minimum(np.searchsorted(where, ordinals), len(where) - 1)
    return np.where(where[place] == ordinals, values[place], 0).astype(float)


def chosen_tokens(features: Features, pair: tuple[int, int]) -> np.ndarray:
    """Ordinals, ascending: tokens at random, and as many as there is room for on which either feature fires."""
    rng = np.random.default_rng(features.run.settings.seed)
    firing = [features.postings.firings(f)[0] for f in pair]
    parts = [
        rng.choice(
            features.postings.n_tokens, min(TOKENS, features.postings.n_tokens), replace=False
        )
    ]
    parts += [rng.choice(where, min(EACH, len(where)), replace=False) for where in firing]
    return np.unique(np.concatenate(parts))


def cosines(directions: np.ndarray) -> np.ndarray:
    """Cosines of every two different rows of directions (F, D): (F (F - 1) / 2,)."""
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    parts = [
        (unit[i : i + BLOCK] @ unit.T)[
            np.arange(i, min(i + BLOCK, len(unit)))[:, None] < np.arange(len(unit))
        ]
        for i in range(0, len(unit), BLOCK)
    ]
    return np.concatenate(parts)


def space_figure(
    features: Features, pair: tuple[int, int], names: tuple[str, str], dark: bool = False
) -> Figure:
    """Tokens in the plane of two directions, the same tokens by what the two features do, and the cosines of all pairs of directions."""
    ordinals = chosen_tokens(features, pair)
    first, second = (activations(features, f, ordinals) for f in pair)
    state = (first > 0) * FIRST + (second > 0) * SECOND
    directions = np.asarray(read_array(features.run.folder("train") / "directions.npy"), np.float32)
    x = vectors(features, ordinals)
    x = x - x[state == NEITHER].mean(0)
    e1 = directions[pair[0]] / np.linalg.norm(directions[pair[0]])
    across = directions[pair[1]] - (directions[pair[1]] @ e1) * e1
    e2 = across / np.linalg.norm(across)
    with themed(dark) as theme:
        figure = Figure(figsize=(12, 4.4), layout="constrained")
        plane, space, angles = figure.subplots(1, 3)
        looks = {
            NEITHER: (theme["noise"], "neither fires"), FIRST: (COLOURS["score"], names[0]), SECOND: (COLOURS["clamped"], names[1]),
            BOTH: (COLOURS["control"], "both"),
        }  # fmt: skip
        for kind, (colour, name) in looks.items():
            here = state == kind
            if here.any():
                plane.scatter(
                    x[here] @ e1, x[here] @ e2, s=7, color=colour, linewidth=0, label=name
                )
                space.scatter(first[here], second[here], s=9, color=colour, linewidth=0)
        reach = 0.9 * float(np.abs(x @ e1).max())
        for feature, colour in zip(pair, (COLOURS["score"], COLOURS["clamped"]), strict=True):
            to = (
                reach * float(directions[feature] @ e1),
                reach * float(directions[feature] @ e2),
            ) / np.linalg.norm(directions[feature])
            plane.annotate(
                "", to, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6}
            )
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
        figure.legend(
            *plane.get_legend_handles_labels(),
            loc="outside lower left",
            ncols=4,
            fontsize=9,
            markerscale=2,
        )
        return figure


def draw_cosines(axes, directions: np.ndarray, theme: dict) -> None:
    """The cosines of all pairs, and the density of those of independent random directions, which is normal with variance 1 / D."""
    n, width = directions.shape
    found = cosines(directions)
    axes.hist(
        found,
        bins=120,
        density=True,
        color=COLOURS["score"],
        alpha=0.7,
        label=f"{n:,} decoder directions",
    )
    grid = np.linspace(-0.5, 0.5, 200)
    axes.plot(
        grid,
        np.exp(-(grid**2) * width / 2) * np.sqrt(width / (2 * np.pi)),
        color=theme["ink"],
        linewidth=1.2,
        label="random directions",
    )
    axes.set(
        title="Superposition",
        xlabel=f"cosine of two of the directions ({width} dimensions)",
        ylabel="density",
        xlim=(-0.5, 0.5),
    )
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper right")

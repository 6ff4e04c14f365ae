"""What the groups are worth: their tree, sizes and stability, the real result beside clouds without groups, firing together against shuffles."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from figures.style import COLOURS, plain, themed

MOST_BARS = 20
STABLE, DISSOLVED = 0.75, 0.5
SOLID, PALE = 0.45, 0.14  # opacity of boxes: ink on the strongest hue keeps a contrast of 4.5
LINE = 10.0  # points of height that a name in the tree needs


def sizes_figure(
    groups: list[dict], titles: dict[tuple[int, int], str], layer: int, dark: bool = False
) -> Figure:
    """Sizes of the largest 20 groups of a layer, and how much of each comes back: mean Jaccard in subsamples and under other seeds.

    `groups` are the records of groups.json.
    """
    shown = sorted((g for g in groups if g["layer"] == layer), key=lambda g: g["group"])
    total, shown = len(shown), shown[:MOST_BARS]
    place = np.arange(len(shown))[::-1]
    with themed(dark) as theme:
        figure = Figure(figsize=(8, 1.5 + 0.22 * max(len(shown), 3)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.1))
        left.barh(place, [g["size"] for g in shown], color=COLOURS["score"], height=0.7)
        names = [titles.get((layer, g["group"])) or f"group {g['group']} (unnamed)" for g in shown]
        left.set_yticks(place, [plain(short(name)) for name in names], fontsize=7.5)
        left.tick_params(axis="y", length=0)
        left.set(
            xlabel="features",
            title=counted(total) + (f", the {len(shown)} largest" if total > len(shown) else ""),
        )
        left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for key, name, marker, face in (
            ("jaccard_seeds", "other seeds", "o", "none"),
            ("jaccard", "80 % subsamples", "o", COLOURS["score"]),
        ):
            known = [
                (g[key], p) for g, p in zip(shown, place, strict=True) if g.get(key) is not None
            ]
            if known:
                right.scatter(
                    *zip(*known, strict=True),
                    marker=marker,
                    s=26,
                    facecolors=face,
                    edgecolors=COLOURS["score"],
                    label=name,
                    zorder=3,
                )
        for value, name in ((DISSOLVED, "below: dissolved, unnamed"), (STABLE, "above: stable")):
            right.axvline(
                value,
                color=theme["faint"],
                linestyle="--" if value == DISSOLVED else ":",
                linewidth=1.1,
                label=name,
            )
        right.set(
            xlim=(-0.02, 1.02),
            xlabel="mean Jaccard overlap with its best match",
            title="What comes back",
        )
        right.tick_params(axis="y", length=0)
        for axes in (left, right):
            axes.grid(False, axis="y")
        figure.legend(
            *right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
        )
    return figure


def counted(n: int) -> str:
    return f"{n:,} group" + ("" if n == 1 else "s")


def short(name: str, width: int = 34) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def nulls_figure(
    measures: list[tuple[str, float, dict[str, list[float]]]], dark: bool = False
) -> Figure:
    """For each (name, real value, {kind of cloud: values}): the real value beside the same pipeline on clouds without groups, each on its own scale."""
    colours = {
        "Gaussian, same mean and covariance": COLOURS["null"],
        "columns shuffled": COLOURS["control"],
        "uniform": COLOURS["noise"],
    }
    with themed(dark) as theme:
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(measures)))
        for axes, (name, real, clouds) in zip(panels, measures, strict=True):
            axes.scatter(
                [0],
                [real],
                marker="D",
                s=55,
                color=COLOURS["score"],
                label="these directions",
                zorder=3,
            )
            for place, (kind, values) in enumerate(clouds.items(), 1):
                spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
                axes.scatter(
                    place + np.asarray(spread),
                    values,
                    s=30,
                    color=colours[kind],
                    edgecolors=theme["faint"],
                    linewidths=0.4,
                    label=kind,
                    zorder=3,
                )
            highest = max([real, *(v for values in clouds.values() for v in values)], default=1.0)
            axes.set(
                xticks=[],
                xlim=(-0.6, len(clouds) + 0.6),
                ylim=(-0.04 * highest, 1.12 * highest if highest else 1.0),
            )
            axes.set_title(plain(name), fontsize=9.5, fontweight="normal")
        figure.suptitle(
            "The same method on clouds without groups",
            x=0.01,
            ha="left",
            fontsize=12,
            fontweight="bold",
        )
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
        )
    return figure


def together_figure(layers: list[dict | None], dark: bool = False) -> Figure | None:
    """Mean phi of pairs within groups of each layer, between groups, and after shuffles within density strata; None where nothing was measured.

    `layers` are the entries of proof.json: value, shuffled, between, z, p, n_pairs.
    """
    known = [(i, entry) for i, entry in enumerate(layers) if entry]
    if not known:
        return None
    with themed(dark) as theme:
        figure = Figure(figsize=(8, 1.4 + 0.75 * len(known)), layout="constrained")
        axes = figure.add_subplot()
        for place, (_, entry) in enumerate(reversed(known)):
            axes.scatter(
                entry["shuffled"],
                np.full(len(entry["shuffled"]), place),
                marker="|",
                s=140,
                color=COLOURS["null"],
                alpha=0.7,
                label="shuffled",
            )
            axes.scatter(
                [entry["between"]],
                [place],
                marker="s",
                s=34,
                color=theme["faint"],
                label="between groups",
                zorder=3,
            )
            axes.scatter(
                [entry["value"]],
                [place],
                marker="D",
                s=48,
                color=COLOURS["score"],
                label="within groups",
                zorder=3,
            )
            z = "" if entry["z"] is None else f"z = {entry['z']:.0f}, "
            note = f"{z}p {'≤' if entry['p'] < 0.006 else '='} {entry['p']:.3f}, {entry['n_pairs']:,} pairs"
            axes.annotate(
                note,
                (entry["value"], place),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=theme["ink"],
            )
        axes.set_yticks(
            range(len(known)), [layer_name(layer, len(layers)) for layer, _ in reversed(known)]
        )
        axes.set_ylim(-0.6, len(known) - 0.2)
        axes.margins(x=0.16)
        axes.grid(False, axis="y")
        axes.set(
            xlabel="mean phi of two features (correlation of firing on a token)",
            title="Do members of a group fire together?",
        )
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles[:3], names[:3], loc="outside lower center", ncols=3, fontsize=8)
    return figure


def layer_name(layer: int, n_layers: int) -> str:
    return (
        "groups"
        if n_layers == 1
        else "coarsest"
        if layer == 0
        else "finest"
        if layer == n_layers - 1
        else "middle"
    )


# ------------------------------------------------------------ the tree


def tree_figure(
    groups: list[dict], titles: dict[tuple[int, int], str], n_features: int, dark: bool = False
) -> Figure:
    """Nested layers as an icicle: a column a layer, a box a group, its height the share of the live features; boxes of dissolved groups are pale.

    A box is named where its title fits. Groups outside every coarser one stand below the others.
    """
    n_layers = max((g["layer"] for g in groups), default=-1) + 1
    spans = place_boxes(groups, n_features)
    with themed(dark) as theme:
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.add_subplot()
        lowest = max((high for _, high in spans.values()), default=1.0)
        axes.set(xlim=(0, max(n_layers, 1)), ylim=(lowest, 0), xticks=np.arange(n_layers) + 0.5)
        axes.set_xticklabels(
            [
                f"{layer_name(i, n_layers)}: {counted(sum(g['layer'] == i for g in groups))}"
                for i in range(n_layers)
            ]
        )
        whole = [
            t
            for t in MaxNLocator(5, integer=True).tick_values(0, n_features * lowest)
            if t <= n_features * lowest
        ]
        axes.set_yticks(np.array(whole) / n_features, [f"{t:,.0f}" for t in whole])
        axes.set(ylabel="features in groups", title="Groups within groups")
        axes.grid(False)
        figure.draw_without_rendering()  # the layout must be final before text is fitted into boxes
        width, height = (
            axes.get_window_extent().width * 72 / figure.dpi / max(n_layers, 1),
            axes.get_window_extent().height * 72 / figure.dpi,
        )
        for group in groups:
            low, high = spans[group["layer"], group["group"]]
            hue = theme["palette"][group["family"]] if group["family"] >= 0 else theme["faint"]
            alive = group.get("jaccard") is None or group["jaccard"] >= DISSOLVED
            box = (group["layer"] + 0.01, low), 0.98, high - low
            axes.add_patch(
                Rectangle(
                    *box,
                    facecolor=hue,
                    alpha=SOLID if alive else PALE,
                    edgecolor=theme["page"],
                    linewidth=0.6,
                )
            )
            title = titles.get((group["layer"], group["group"]), "")
            if (
                title
                and (high - low) / lowest * height >= LINE
                and text_width(title, 7.5) <= 0.94 * width
            ):
                axes.text(
                    group["layer"] + 0.03,
                    (low + high) / 2,
                    plain(title),
                    va="center",
                    fontsize=7.5,
                    color=theme["ink"],
                    clip_on=True,
                )
        if any(g.get("jaccard") is not None and g["jaccard"] < DISSOLVED for g in groups):
            axes.set_xlabel(
                "pale: less than half comes back in subsamples, so it has no name",
                fontsize=8,
                color=theme["faint"],
            )
    return figure


def place_boxes(groups: list[dict], n_features: int) -> dict[tuple[int, int], tuple[float, float]]:
    """{(layer, group): (low, high)} shares of the height: groups stand within the finest group that they lie in, the largest first; those that lie
    in none after all others."""
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    for layer in range(max((g["layer"] for g in groups), default=-1) + 1):
        end = max((high for _, high in spans.values()), default=0.0)
        used: dict[tuple[int, int] | None, float] = {}
        for inside, group in sorted(
            ((home_of(g), g) for g in groups if g["layer"] == layer),
            key=lambda pair: (pair[0] is None, pair[1]["group"]),
        ):
            start = used.get(inside, end if inside is None else spans[inside][0])
            used[inside] = start + group["size"] / n_features
            spans[layer, group["group"]] = (start, used[inside])
        shift_apart(spans, layer)
    return spans


def home_of(group: dict) -> tuple[int, int] | None:
    """(layer, group) of the finest group that this one lies in, or None."""
    return next(
        ((layer, g) for layer, g in reversed(list(enumerate(group["path"]))) if g >= 0), None
    )


def shift_apart(spans: dict[tuple[int, int], tuple[float, float]], layer: int) -> None:
    """Move boxes of one layer down where a box that lies in a group of another layer would cover its neighbour."""
    low = 0.0
    for key in sorted((key for key in spans if key[0] == layer), key=lambda key: spans[key]):
        start, end = spans[key]
        moved = max(low - start, 0.0)
        spans[key] = (start + moved, end + moved)
        low = end + moved


def text_width(text: str, size: float) -> float:
    """Points."""
    return (
        TextPath((0, 0), text.strip() or "x", size=size, prop={"family": "DejaVu Sans"})
        .get_extents()
        .width
    )

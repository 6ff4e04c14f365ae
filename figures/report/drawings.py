"""What the report draws: the units of a run as figures in both themes, with captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from autointerp.features import Features
from autointerp.labels.unit import RULES, read_labels
from autointerp.scores.unit import find_scores, unit_of
from core.clamps.experiments import Experiment
from core.progress import progress
from core.run import Run
from core.training.unit import read_metrics
from figures.plots.doses import describe_sizes, dose_curves
from figures.plots.scores import score_curves, scores_by_density, scores_by_kind
from figures.plots.training import Curves, density_histogram, sweep_figure, training_curves
from figures.report.cluster_drawings import ClusterDrawings
from figures.style import save

FEWEST = 5  # labels of a kind that has a box of its own
SIMULATION = unit_of(RULES, "simulation")


@dataclass(frozen=True)
class Drawing:
    """A figure to be made: `make(dark)` returns it, or None where there is nothing to draw."""

    name: str
    alt: str
    make: Callable[[bool], Figure | None]
    caption: str = ""


def draw(drawings: list[Drawing], folder: Path, endings: tuple[str, ...]) -> list[dict]:
    """Draw every figure that has data, in both themes; returns name, alt and caption of each."""
    made = []
    for drawing in progress(drawings, "figures", unit="figure"):
        for dark in (False, True):
            figure = drawing.make(dark)
            if figure is None:
                break
            for ending in endings:
                save(figure, folder / f"{drawing.name}{'-dark' if dark else ''}.{ending}")
        else:
            made.append({"name": drawing.name, "alt": drawing.alt, "caption": drawing.caption})
    return made


def list_drawings(
    features: Features, control: Run | None, compared: list[Run], clamps: list[Experiment]
) -> list[Drawing]:
    """Everything that can be drawn of a run.

    `control` is a run on the untrained subject; `compared` are others on the same site and text.
    """
    drawings = [*training_drawings(features, control, compared), *score_drawings(features, control)]
    if features.run.find("cluster"):
        for row in ClusterDrawings(features).table():
            drawings.append(Drawing(*row))
    with_doses = [record for record in clamps if record.doses is not None]
    return drawings + [dose_drawing(r, i) for i, r in enumerate(with_doses, 1)]


# ------------------------------------------------------------ training


def training_drawings(
    features: Features, control: Run | None, compared: list[Run]
) -> list[Drawing]:
    """How the autoencoder learned, others beside it, and how often its features fire."""
    vectors = features.run.manifest("train").summary.get("vectors", 0)
    alive = int((features.postings.n_firings > 0).sum())
    return [
        Drawing(
            "training",
            "Training curves",
            partial(draw_training, features.run),
            f"n = {vectors:,} vectors in training.",
        ),
        Drawing(
            "sweep",
            "L0 and FVU of several autoencoders",
            partial(draw_sweep, features.run, control, compared),
            sweep_caption(features.run, control, compared),
        ),
        Drawing(
            "density",
            "Density of features",
            partial(draw_density, features),
            f"n = {alive:,} alive features over {features.postings.n_tokens:,} tokens.",
        ),
    ]


def draw_training(run: Run, dark: bool) -> Figure | None:
    """None for an autoencoder that was trained elsewhere."""
    rows = read_metrics(run.folder("train"))
    curves = Curves.from_rows(rows, run.manifest("train").summary.get("best_step", 0))
    if not len(curves.steps) or not len(curves.checked):
        return None
    return training_curves(curves, dark)


def draw_sweep(run: Run, control: Run | None, compared: list[Run], dark: bool) -> Figure | None:
    """L0 and FVU of this run, of those it is compared with and of the control; None without any."""
    if not compared:
        return None
    others = [(r.name, r) for r in compared] + ([("untrained subject", control)] if control else [])
    points: list[tuple[str, float, float]] = []
    for name, r in [(run.name, run), *others]:
        evaluated = r.find("evaluate")
        if evaluated and "skipped" in evaluated.summary:
            continue
        summary = evaluated.summary if evaluated else r.manifest("train").summary
        fvu = summary["fvu"] if "fvu" in summary else summary["val_fvu"]
        points.append((name, summary["l0"], fvu))
    return sweep_figure(points, dark)


def sweep_caption(run: Run, control: Run | None, compared: list[Run]) -> str:
    """How many runs there are, and on how many tokens each is measured."""
    runs = [run, *compared, *([control] if control else [])]
    summaries = [unit.summary for r in runs if (unit := r.find("evaluate"))]
    tokens = list(dict.fromkeys(f"{s['tokens']:,}" for s in summaries if "tokens" in s))
    measured = f"{' / '.join(tokens) or 'the'} tokens of the test split"
    return f"n = {len(runs)} runs; FVU on {measured}" + ("." if tokens else " of each.")


def draw_density(features: Features, dark: bool) -> Figure | None:
    density = features.postings.n_firings / features.postings.n_tokens
    return density_histogram(density, dark) if (density > 0).any() else None


# ------------------------------------------------------------ scores


def score_drawings(features: Features, control: Run | None) -> list[Drawing]:
    """Scores of the rules' labels against their null, by kind of label, and against density."""
    unit, n = features.run.find(SIMULATION), ""
    if unit:
        n = f"n = {unit.summary['n']:,} of {unit.summary['alive']:,} alive features."
    boxes = f"quartiles; kinds of fewer than {FEWEST} features are left out"
    return [
        Drawing(
            "scores",
            "Scores against null and control",
            partial(draw_scores, features.run, control),
            f"{n} Bands: 95 % of a share.",
        ),
        Drawing(
            "kinds",
            "Scores by kind of label",
            partial(draw_kinds, features.run),
            f"{n} Boxes: {boxes}.",
        ),
        Drawing(
            "score-density",
            "Scores against density",
            partial(draw_score_density, features),
            n,
        ),
    ]


def draw_scores(run: Run, control: Run | None, dark: bool) -> Figure | None:
    own = simulation_scores(run)
    if own is None:
        return None
    other = find_scores(control, RULES, "simulation") if control else None
    return score_curves(
        own["value"].to_numpy(float),
        own["null"].to_numpy(float),
        None if other is None else other["value"].to_numpy(float),
        run.manifest(SIMULATION).summary["alive"],
        dark,
    )


def draw_kinds(run: Run, dark: bool) -> Figure | None:
    own = simulation_scores(run)
    if own is None:
        return None
    kind_of = read_labels(run, RULES).set_index("feature")["kind"]
    scored = own[own["value"].notna()]
    parts = scored.groupby(scored["feature"].map(kind_of))["value"]
    kinds = [(str(kind), values.to_numpy()) for kind, values in parts if len(values) >= FEWEST]
    return scores_by_kind([k for k, _ in kinds], [v for _, v in kinds], dark) if kinds else None


def draw_score_density(features: Features, dark: bool) -> Figure | None:
    own = simulation_scores(features.run)
    if own is None:
        return None
    n_firings = features.postings.n_firings[own["feature"].to_numpy(int)]
    density = n_firings / features.postings.n_tokens
    return scores_by_density(density, own["value"].to_numpy(float), dark)


def simulation_scores(run: Run) -> pd.DataFrame | None:
    """The simulation scores of the rules' labels; None when no label has a value."""
    table = find_scores(run, RULES, "simulation")
    return table if table is not None and table["value"].notna().any() else None


# ------------------------------------------------------------ clamps


def dose_drawing(record: Experiment, number: int) -> Drawing:
    """The dose figure of a kept experiment, the `number`-th one with doses."""
    sizes = describe_sizes(record)
    measured = f"{len(record.doses or ())} doses{' on ' + sizes if sizes else ''}"
    controls = "a random direction, a random feature of like density"
    caption = f"{measured}. Bands: 95 % over rows or prompts. Controls of equal length: {controls}."
    name = f"clamp-{record.features[0]}-{number}"
    return Drawing(name, "Dose and response", partial(dose_curves, record), caption)

"""What the report draws: from the units of a run to figures, light and dark, each with a caption that states n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from autointerp.features import Features
from core.files import read_json, read_lines
from core.progress import progress
from core.run import Run
from figures.plots import clusters as group_figures
from figures.plots import scores as score_figures
from figures.plots import training as training_figures
from figures.plots.doses import dose_curves, dose_sizes
from figures.plots.map import Caption, Group, cluster_map, middle
from figures.style import save


@dataclass(frozen=True)
class Drawing:
    """A figure to be made: `make(dark)` gives a Figure, or None where there is nothing to draw."""

    name: str
    alt: str
    make: Callable
    caption: str = ""


def draw(drawings: list[Drawing], folder: Path, endings: tuple[str, ...]) -> list[dict]:
    """Draw every figure whose data there are, in both themes; returns name, alt and caption of those made."""
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


def drawings_of(
    features: Features, control: Run | None, compared: list[Run], clamps: list[dict]
) -> list[Drawing]:
    """Everything that could be drawn of a run."""
    run, score = features.run, features.run.find("score/rules/simulation")
    density = features.postings.n_firings / features.postings.n_tokens
    scored = (
        ""
        if not score
        else f"n = {score.summary['n']:,} of {score.summary['live']:,} live features."
    )
    found = [
        Drawing(
            "training",
            "Training curves",
            partial(training_figure, features),
            f"n = {run.manifest('train').summary.get('vectors', 0):,} vectors in training.",
        ),
        Drawing(
            "sweep",
            "L0 and FVU of several autoencoders",
            partial(sweep_drawing, run, control, compared),
            sweep_caption(run, control, compared),
        ),
        Drawing(
            "density",
            "Density of features",
            partial(density_figure, features),
            f"n = {int((density > 0).sum()):,} live features over {features.postings.n_tokens:,} tokens.",
        ),
        Drawing(
            "scores",
            "Scores against null and control",
            partial(scores_figure, features, control),
            f"{scored} Bands: 95 % of a share.",
        ),
        Drawing(
            "kinds",
            "Scores by kind of label",
            partial(kinds_figure, features),
            f"{scored} Boxes: quartiles; kinds of fewer than 5 features are left out.",
        ),
        Drawing(
            "score-density",
            "Scores against density",
            partial(score_density_figure, features),
            scored,
        ),
    ]
    if run.find("cluster"):
        found += Clusters(features).drawings()
    for i, record in enumerate(r for r in clamps if "doses" in r):
        name = f"clamp-{record['features'][0]}-{i + 1}"
        measured = " on " + sizes if (sizes := dose_sizes(record)) else ""
        caption = f"{len(record['doses'])} doses{measured}. Bands: 95 % over rows or prompts. Controls of equal length: a random direction, a random feature of like density."
        found.append(Drawing(name, "Dose and response", partial(dose_curves, record), caption))
    return found


def training_figure(features: Features, dark: bool):
    path = features.run.folder("train") / "metrics.jsonl"
    rows = read_lines(path) if path.exists() else []  # a published SAE was trained elsewhere
    steps, checks = [r for r in rows if "l0" in r], [r for r in rows if "val_fvu" in r]
    if not steps or not checks:
        return None
    column = lambda table, name: np.array([r[name] for r in table], dtype=float)
    best = features.run.manifest("train").summary["best_step"]
    curves = [column(steps, name) for name in ("step", "fvu", "l0", "dead")] + [
        column(checks, name) for name in ("step", "val_fvu")
    ]
    return training_figures.training_curves(*curves, best, dark)


def sweep_drawing(run: Run, control: Run | None, compared: list[Run], dark: bool):
    """L0 and FVU of this run, of those that it is compared with and of the control; None where there is nothing to compare it with."""
    if not compared:
        return None
    others = [(r.name, r) for r in compared] + ([("untrained subject", control)] if control else [])
    points = []
    for name, r in [(run.name, run), *others]:
        summary = r.find("evaluate").summary if r.find("evaluate") else r.manifest("train").summary
        points.append((name, summary["l0"], summary.get("fvu", summary.get("val_fvu"))))
    return training_figures.sweep_figure(points, dark)


def sweep_caption(run: Run, control: Run | None, compared: list[Run]) -> str:
    """How many runs there are, and on how many tokens each is measured."""
    runs = [run, *compared, *([control] if control else [])]
    tokens = [
        f"{found.summary['tokens']:,}"
        for r in runs
        if (found := r.find("evaluate")) and "tokens" in found.summary
    ]
    return (
        f"n = {len(runs)} runs; FVU on {' / '.join(dict.fromkeys(tokens)) or 'the'} tokens of the test split"
        + ("." if tokens else " of each.")
    )


def density_figure(features: Features, dark: bool):
    density = features.postings.n_firings / features.postings.n_tokens
    return training_figures.density_histogram(density, dark) if (density > 0).any() else None


def scores_figure(features: Features, control: Run | None, dark: bool):
    own = simulation_scores(features.run)
    if own is None or not own["value"].notna().any():
        return None
    other = simulation_scores(control) if control else None
    live = features.run.manifest("score/rules/simulation").summary["live"]
    column = lambda table, name: table[name].to_numpy(float)
    return score_figures.score_curves(
        column(own, "value"),
        column(own, "null"),
        None if other is None else column(other, "value"),
        live,
        dark,
    )


def kinds_figure(features: Features, dark: bool):
    own = simulation_scores(features.run)
    if own is None or not own["value"].notna().any():
        return None
    labels = features.labels[features.labels["set"] == "rules"].set_index("feature")["kind"]
    grouped = own[own["value"].notna()].groupby(own["feature"].map(labels))["value"]
    kinds = [(str(kind), values.to_numpy()) for kind, values in grouped if len(values) >= 5]
    return (
        score_figures.scores_by_kind([k for k, _ in kinds], [v for _, v in kinds], dark)
        if kinds
        else None
    )


def simulation_scores(run: Run) -> pd.DataFrame | None:
    unit = "score/rules/simulation"
    return pd.read_parquet(run.folder(unit) / "scores.parquet") if run.find(unit) else None


def score_density_figure(features: Features, dark: bool):
    own = simulation_scores(features.run)
    if own is None or not own["value"].notna().any():
        return None
    density = features.postings.n_firings[own["feature"].to_numpy(int)] / features.postings.n_tokens
    return score_figures.scores_by_density(density, own["value"].to_numpy(float), dark)


# ------------------------------------------------------------ groups


class Clusters:
    """What the cluster and title units say, read once for all of their figures."""

    def __init__(self, features: Features):
        self.features = features
        self.summary = features.run.manifest("cluster").summary
        folder = features.run.folder("cluster")
        self.groups, self.proof = (
            read_json(folder / "groups.json"),
            read_json(folder / "proof.json"),
        )
        self.last = len(self.summary["layers"]) - 1
        self.table = features.clusters[features.clusters["status"] != "dead"]

    @cached_property
    def titles(self) -> dict[tuple[int, int], str]:
        """Titles that say something: neither unstable nor mixed."""
        return {
            key: title
            for key, title in self.features.layered_titles.items()
            if title and not title.startswith("mixed")
        }

    def drawings(self) -> list[Drawing]:
        s = self.summary
        n = f"n = {s['live']:,} live features"
        clouds = f"{len(self.proof['nulls'])} Gaussian clouds, {len(self.proof['columns'])} with shuffled columns, {len(self.proof['uniform'])} uniform"
        pairs = next((e for e in reversed(self.proof["firing"]["layers"]) if e), None)
        shuffles = (
            ""
            if pairs is None
            else f" n = {pairs['n_features']:,} features, {len(pairs['shuffled'])} shuffles within tenths of the densities."
        )
        return [
            Drawing(
                "map", "Decoder directions, grouped and named", self.map, f"{n}. {s['verdict']}"
            ),
            Drawing(
                "tree",
                "Groups within groups",
                self.tree,
                f"{n}; {' > '.join(map(str, s['layers']))} groups.",
            ),
            Drawing(
                "groups",
                "Sizes of the groups, and how much of each comes back",
                self.sizes,
                f"{n}; {s['groups']} groups in the finest layer.",
            ),
            Drawing(
                "nulls", "The same method on clouds without groups", self.nulls, f"{n}; {clouds}."
            ),
            Drawing(
                "together",
                "Firing together within and between groups",
                self.together,
                f"Sampled tokens.{shuffles}",
            ),
        ]

    def map(self, dark: bool):
        s, table = self.summary, self.table
        caption = Caption(
            s["live"], s["dead"], tuple(s["layers"]), s["noise"], s["isolated"], s["recall"], tuple(s["null_groups"]), s["kept"], s["ari_subsamples"],
            {"none": "No more structure than one cloud.", "unstable": "Most groups do not come back in subsamples."}.get(s["verdict_kind"], ""),
        )  # fmt: skip
        x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
        hue = np.full(len(table), -1)
        for group in self.groups:
            if group["layer"] == 0:
                hue[table["layer_0"].to_numpy() == group["group"]] = group["family"]
        return cluster_map(
            x, y, hue, table["group"].to_numpy() >= 0, self.named(x, y), caption, dark
        )

    def named(self, x: np.ndarray, y: np.ndarray) -> list[Group]:
        """Groups of the coarsest and of the finest layer as the map wants them."""
        place, out = {int(feature): i for i, feature in enumerate(self.table.index)}, []
        for group in self.groups:
            layer = group["layer"]
            if layer not in (0, self.last):
                continue
            members = np.flatnonzero(self.table[f"layer_{layer}"].to_numpy() == group["group"])
            rank = 0 if layer == 0 and self.last > 0 else 1
            anchor = middle(x, y, members) if rank == 0 else place[group["medoid"]]
            title = self.titles.get((layer, group["group"]), "")
            out.append(Group(title, rank, members, anchor, group["family"] if layer == 0 else -1))
        return out

    def tree(self, dark: bool):
        return (
            group_figures.tree_figure(self.groups, self.titles, self.summary["live"], dark)
            if self.groups
            else None
        )

    def sizes(self, dark: bool):
        return (
            group_figures.sizes_figure(self.groups, self.titles, self.last, dark)
            if self.groups
            else None
        )

    def nulls(self, dark: bool):
        p = self.proof
        if not p["sizes"] or not p["nulls"]:
            return None
        clouds = {
            "Gaussian, same mean and covariance": p["nulls"],
            "columns shuffled": p["columns"],
            "uniform": p["uniform"],
        }
        share = self.summary["grouped"] / self.summary["live"]
        read = lambda get: {kind: [get(f) for f in found] for kind, found in clouds.items()}
        measures = [
            ("cohesion (decides)", p["cohesion"], read(lambda f: f["cohesion"])),
            ("groups of the finest layer", self.summary["groups"], read(lambda f: f["groups"][-1])),
            ("share of features in one", share, read(lambda f: f["grouped"][-1])),
            ("share isolated", p["isolated"], read(lambda f: f["isolated"])),
        ]
        return group_figures.nulls_figure(measures, dark)

    def together(self, dark: bool):
        return group_figures.together_figure(self.proof["firing"]["layers"], dark)

"""Figures of the units `cluster` and `title`: map, tree, sizes, null clouds, co-activation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from matplotlib.figure import Figure

from autointerp.clusters.unit import read_proof, read_records
from autointerp.features import Features
from autointerp.titles.unit import read_titles
from figures.plots.clusters import Titles, nulls_figure, sizes_figure, together_figure
from figures.plots.map import Look
from figures.plots.tree import tree_figure
from figures.report.cluster_text import tell_families
from figures.report.map_drawing import MapDrawing

LEAST_NAMED = 1 / 3  # share of the clusters with a name from which the tree is drawn
CLOUDS = {  # name of a kind of null cloud in figures -> entry of proof.json
    "Gaussian, same mean and covariance": "nulls",
    "columns shuffled": "columns",
    "uniform": "uniform",
}


class ClusterDrawings:
    """Everything to draw of the units `cluster` and `title`, which are read once."""

    def __init__(self, features: Features):
        self.features, self.run = features, features.run
        self.summary = features.run.manifest("cluster").summary
        self.records = read_records(self.run)
        self.proof = read_proof(self.run) or {}
        self.last = len(self.summary["layers"]) - 1

    @cached_property
    def titles(self) -> Titles:
        """Titles that say something: neither empty (unstable) nor mixed."""
        titles = read_titles(self.run).items()
        return {key: title for key, title in titles if title and not title.startswith("mixed")}

    def table(self) -> list[tuple[str, str, Callable[[bool], Figure | None], str]]:
        """(name, alternative text, function that draws it, caption) of every figure."""
        s, proof = self.summary, self.proof
        n = f"n = {s['alive']:,} alive features"
        levels = " > ".join(map(str, s["layers"]))
        clouds = (
            f"{len(proof['nulls'])} Gaussian clouds, {len(proof['columns'])} with shuffled "
            f"columns, {len(proof['uniform'])} uniform"
        )
        tested = next((e for e in reversed(proof["firing"]["layers"]) if e), None)
        shuffles = ""
        if tested is not None:
            shuffles = (
                f" n = {tested['n_features']:,} features, {len(tested['shuffled'])} shuffles "
                "within tenths of the densities."
            )
        sizes = "Sizes of the clusters, and how much of each comes back"
        of_sizes = f"{n}; {s['groups']} clusters in the finest level."
        nulls = "The same method on clouds without clusters"
        together = "Firing together within and between clusters"
        return [
            (
                "map",
                "Decoder directions, clustered and named",
                self.draw_map,
                f"{n}. {tell_families(s)}",
            ),
            ("tree", "Clusters within clusters", self.draw_tree, f"{n}; {levels} clusters."),
            ("clusters", sizes, self.draw_sizes, of_sizes),
            ("nulls", nulls, self.draw_nulls, f"{n}; {clouds}."),
            ("together", together, self.draw_together, f"Sampled tokens.{shuffles}"),
        ]

    def draw_map(self, dark: bool = False) -> Figure:
        return MapDrawing(self.features).draw(look=Look(dark))

    # ------------------------------------------------------------ sizes and proof

    def draw_tree(self, dark: bool = False) -> Figure | None:
        """None where under a third of the clusters have a name: nameless boxes say nothing."""
        named = sum((r["layer"], r["group"]) in self.titles for r in self.records)
        if not self.records or named < LEAST_NAMED * len(self.records):
            return None
        return tree_figure(self.records, self.titles, self.summary["alive"], dark)

    def draw_sizes(self, dark: bool = False) -> Figure | None:
        if not self.records:
            return None
        typical = {
            (r["layer"], r["group"]): f"around {self.features.label(r['medoid'])}"
            for r in self.records
            if r.get("medoid") is not None and self.features.label(r["medoid"])
        }
        return sizes_figure(self.records, typical | self.titles, self.last, dark)

    def draw_nulls(self, dark: bool = False) -> Figure | None:
        """None where no null cloud was tried, or nothing was found in the real directions."""
        p, s = self.proof, self.summary
        if not p["sizes"] or not p["nulls"]:
            return None
        share = s["grouped"] / s["alive"]
        measures = [
            ("cohesion (decides)", p["cohesion"], self._of_clouds("cohesion")),
            ("clusters of the finest level", s["groups"], self._of_clouds("groups", finest=True)),
            ("share of features in one", share, self._of_clouds("grouped", finest=True)),
            ("share isolated", p["isolated"], self._of_clouds("isolated")),
        ]
        return nulls_figure(measures, dark)

    def _of_clouds(self, measure: str, finest: bool = False) -> dict[str, list[float]]:
        """{kind of cloud: the measure of each cloud}; `finest` takes the last level's value."""
        values = {}
        for name, entry in CLOUDS.items():
            found = [cloud[measure] for cloud in self.proof[entry]]
            values[name] = [value[-1] for value in found] if finest else found
        return values

    def draw_together(self, dark: bool = False) -> Figure | None:
        return together_figure(self.proof["firing"]["layers"], dark)

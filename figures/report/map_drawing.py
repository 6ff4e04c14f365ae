"""Draw the map of a run: its features as points, coloured by what is asked for, with names."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from autointerp.clusters.family_kinds import ALTERNATIVES, PARTS, SYNONYMS
from autointerp.clusters.unit import level_column, read_records
from autointerp.features import Features
from core.errors import UsageError
from figures.plots.map import PRINT, README, Look, MapText, Name, cluster_map, find_middle
from figures.plots.map_colours import Categories, Values, spread_hues
from figures.report.cluster_text import tell_families

COLOURS = ("family", "cluster", "kind", "label", "score", "coverage", "density")  # a flag too
KINDS = {  # kind of a family -> what the key calls it
    SYNONYMS: "synonyms",
    ALTERNATIVES: "alternatives",
    PARTS: "parts of a phrase",
}
MOST_KINDS = 9  # colours of the palette


class MapDrawing:
    """The map of a run, its tables read once. Raises NotReady before `cluster`."""

    def __init__(self, features: Features):
        self.features, self.run = features, features.run
        self.summary = features.run.manifest("cluster").summary
        clusters = features.clusters
        assert clusters is not None  # the manifest was there
        self.table = clusters[clusters["status"] != "dead"].reset_index()
        self.points = self.table[["x", "y"]].to_numpy(float)
        self.family = self.table["family"].to_numpy(int)

    def draw(self, colour: str = "family", look: Look | None = None) -> Figure:
        """The map, its points coloured by one of COLOURS. Raises UsageError for another one."""
        isolated = (self.table["status"] == "isolated").to_numpy()
        return cluster_map(
            self.points,
            self.family >= 0 if (self.family >= 0).any() else self._in_cluster(),
            isolated,
            self.colours(colour),
            self.names,
            self.text(int(isolated.sum())),
            look or Look(),
        )

    # ------------------------------------------------------------ colours

    def colours(self, colour: str) -> Categories | Values:
        """What the points' colours mean. Raises UsageError where the run cannot say it."""
        if colour == "family":
            return self._families() if (self.family >= 0).any() else self._clusters()
        if colour == "cluster":
            return self._clusters()
        if colour == "kind":
            of_family = self.features.families["kind"].to_dict()
            kinds = [of_family.get(f, "") for f in self.family.tolist()]
            return name_categories(kinds, KINDS, "no family, or none of these")
        if colour == "label":
            first = self.features.labels.drop_duplicates("feature").set_index("feature")["kind"]
            kinds = first.reindex(self.table["feature"]).astype(object).fillna("").tolist()
            if not any(kinds):
                raise missing(colour, f"label {self.run.name}")
            return name_categories(kinds, {}, "no label")
        return self._values(colour)

    def _families(self) -> Categories:
        """Near families have different colours."""
        middles = [self.points[find_middle(self.points, m)] for m in self._members]
        hues = spread_hues(np.array(middles).reshape(-1, 2), MOST_KINDS)
        return Categories(np.where(self.family >= 0, hues[self.family], -1))

    def _clusters(self) -> Categories:
        """The hues of the coarsest clusters."""
        hue = np.full(len(self.table), -1)
        for record in read_records(self.run):
            if record["layer"] == 0:
                inside = self.table[level_column(0)].to_numpy() == record["group"]
                hue[inside] = record["hue"]
        return Categories(hue)

    def _values(self, colour: str) -> Values:
        if colour not in COLOURS:
            raise UsageError(
                f"The map has no colour {colour!r}.", f"Use one of: {', '.join(COLOURS)}."
            )
        every = self.features.table().set_index("feature").loc[self.table["feature"]]
        values = every[colour].to_numpy(float)
        if not np.isfinite(values).any():
            kind = "coverage" if colour == "coverage" else "simulation"
            raise missing(colour, f"score {self.run.name} --kind {kind}")
        if colour == "density":
            return Values(values, "share of tokens on which the feature fires", log=True)
        name = "score of its label" if colour == "score" else "share of its activation named"
        return Values(values, name, none="none" if np.isnan(values).any() else "")

    def _in_cluster(self) -> np.ndarray:
        return np.asarray(self.table["group"].to_numpy() >= 0)

    # ------------------------------------------------------------ names and text

    @cached_property
    def _members(self) -> list[np.ndarray]:
        """The points of each family."""
        order = np.argsort(self.family, kind="stable")
        starts = np.searchsorted(self.family[order], np.arange(self.family.max() + 2))
        return [order[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]

    @cached_property
    def names(self) -> list[Name]:
        """The named families; where there are none, the named clusters of the finest level."""
        families = self.features.families
        known = families[families["title"].astype(bool)]
        if len(known):
            return [
                Name(row["title"], self._members[row["family"]], bool(row["solid"]))
                for row in known.to_dict("records")
            ]
        titles, last = self.features.titles, max((k for k, _ in self.features.titles), default=0)
        group = self.table["group"].to_numpy()
        return [
            Name(title, np.flatnonzero(group == cluster))
            for (level, cluster), title in titles.items()
            if level == last and title and not title.startswith("mixed")
        ]

    def text(self, n_isolated: int) -> MapText:
        """The heading, the verdict in a sentence, and what the map is worth."""
        s, settings = self.summary, self.run.settings
        heading = f"{s['alive']:,} features of {Path(settings.subject).name} at {settings.site}"
        others = []
        if any(not name.solid for name in self.names):
            others.append("Names in grey: the family does not come back.")
        if s["recall"] is not None:
            others.append(f"The map keeps {s['recall']:.0%} of each feature's 15 nearest.")
        strip = f"{n_isolated:,} isolated features: no direction is nearer to theirs than chance"
        return MapText(heading, (tell_families(s), *others), strip)


def choose_look(dark: bool, large: bool, contours: bool) -> Look:
    """How the map is drawn, `large` for print or for a readme."""
    return Look(dark, PRINT if large else README, contours)


def name_categories(values: list[str], known: dict[str, str], none: str) -> Categories:
    """Categories of texts, the most frequent first; an empty text is none."""
    counts = pd.Series([v for v in values if v]).value_counts()
    names = [str(name) for name in (known or counts.index[:MOST_KINDS])]
    number = {name: i for i, name in enumerate(names)}
    of = np.array([number.get(value, -1) for value in values])
    return Categories(of, tuple(known.get(name, name) for name in names), none)


def missing(colour: str, command: str) -> UsageError:
    """The error where a run has nothing to colour by."""
    return UsageError(
        f"The run has no {colour} to colour the map by.", f"Type: python main.py {command}"
    )

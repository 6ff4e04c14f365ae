"""What the stages said of all features, as tables: labels, scores, clusters, titles, failures."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from autointerp.card import Card, Cards
from autointerp.clusters.coactivation import count_together
from autointerp.clusters.unit import (
    Level,
    read_clusters,
    read_families,
    read_levels,
    read_relations,
)
from autointerp.controls import find_controls
from autointerp.evidence import Evidence
from autointerp.labels import unit as label_unit
from autointerp.labels.notes import read_notes
from autointerp.lookup import Lookup
from autointerp.scores import unit as score_unit
from autointerp.titles.unit import read_family_names, read_titles
from core.errors import UsageError
from core.run import Run
from core.training.unit import read_directions

OVERVIEW = ["feature", "label", "coverage", "gain", "score", "density", "cluster"]
FAILURE_COLUMNS = ["feature", "unit", "kind", "message"]
FAMILY_COLUMNS = ["family", "size", "kind", "comes_back", "jaccard", "medoid", "title", "solid"]
SEARCHED_TOKENS = 5  # promoted tokens of a feature that `find` searches


class Features:
    """What the committed units of a run say, by feature. Each table is read when it is first used.

    A table of a unit that does not exist has no rows. Raises NotReady when the run has no index.
    """

    def __init__(self, run: Run):
        self.run = run
        self.evidence = Evidence(run)
        self.tokens, self.postings = self.evidence.tokens, self.evidence.postings

    # ------------------------------------------------------------ tables of stages

    @cached_property
    def labels(self) -> pd.DataFrame:
        """feature, set, text, confidence, kind, evidence of all label sets.

        What people wrote comes first, rules last, so that the first row of a feature is its best
        label.
        """
        return label_unit.read_all_labels(self.run)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """feature, set, kind, value, low, high, null, n_tokens, n_documents, undefined and auroc of
        all label sets and kinds of score, coverage and simulation first."""
        return score_unit.read_all_scores(self.run)

    @cached_property
    def references(self) -> dict[str, np.ndarray]:
        """{name of a control: (F,) what its labels cover at the density of each feature}."""
        controls, density = find_controls(self.run), self.evidence.density
        found = {control.name: control.coverage_at(density) for control in controls}
        return {name: values for name, values in found.items() if not np.isnan(values).all()}

    @cached_property
    def failures(self) -> pd.DataFrame:
        """feature, unit, kind, message of every attempt to label or score that gave no value."""
        tables = {}
        for label_set in label_unit.list_sets(self.run):
            tables[label_unit.unit_of(label_set)] = label_unit.read_failures(self.run, label_set)
        for unit in score_unit.list_units(self.run):
            tables[score_unit.unit_of(*unit)] = score_unit.read_failures(self.run, *unit)
        parts = [table.assign(unit=unit) for unit, table in tables.items() if len(table)]
        if not parts:
            return pd.DataFrame({c: [] for c in FAILURE_COLUMNS})
        return pd.concat(parts, ignore_index=True)[FAILURE_COLUMNS]

    @cached_property
    def clusters(self) -> pd.DataFrame | None:
        """The cluster stage's table by feature, with the `title` of each cluster of the finest
        level; None before `cluster`."""
        table = read_clusters(self.run)
        if table is None:
            return None
        finest = max((level for level, _ in self.titles), default=0)
        names = {c: title for (level, c), title in self.titles.items() if level == finest}
        table = table.set_index("feature")
        return table.assign(title=[names.get(int(c), "") for c in table["group"]])

    @cached_property
    def titles(self) -> dict[tuple[int, int], str]:
        """{(level, cluster): title}; a title is empty where the cluster is unstable."""
        return read_titles(self.run)

    @cached_property
    def families(self) -> pd.DataFrame:
        """family, size, kind, comes_back, jaccard, medoid, title and solid of every family, by its
        number; without rows before `cluster`. A title is empty where members share nothing.
        """
        table, names = read_families(self.run), read_family_names(self.run)
        if table is None:
            return pd.DataFrame(columns=FAMILY_COLUMNS).set_index("family", drop=False)
        table = table.set_index("family", drop=False)
        if names is None or len(names) != len(table):  # not named yet, or those of an earlier unit
            return table.assign(title="", solid=False)[FAMILY_COLUMNS]
        names = names.set_index("family").reindex(table.index)
        named = table.assign(title=names["title"], solid=names["solid"].astype(bool))
        return named[FAMILY_COLUMNS]

    @cached_property
    def family_of(self) -> np.ndarray:
        """(F,) the family of every feature, -1 for none."""
        of_feature = np.full(self.evidence.n_features, -1)
        if self.clusters is not None:
            of_feature[self.clusters.index] = self.clusters["family"]
        return of_feature

    def members(self, family: int) -> list[int]:
        """The features of a family; of -1, those in none. Raises UsageError for an unknown one."""
        n = len(self.families)
        if not -1 <= family < n:
            there = f"There are {n}, 0 to {n - 1}." if n else "The run has none."
            run = self.run.name
            raise UsageError(
                f"There is no family {family}. {there}",
                f"See which family a feature is in: python main.py show {run} 0",
            )
        return np.flatnonzero(self.family_of == family).tolist()

    @cached_property
    def levels(self) -> list[Level]:
        """The levels of clusters, coarsest first; none before `cluster`."""
        return read_levels(self.run, self.evidence.n_features, self.titles)

    @cached_property
    def relations(self) -> pd.DataFrame:
        """kind, feature, other, strength, cosine, phi and counts of duplicates, probable splitting
        and probable absorption."""
        return read_relations(self.run)

    # ------------------------------------------------------------ one feature, or two

    @cached_property
    def lookup(self) -> Lookup:
        """What the stages said of one feature, as plain rows."""
        return Lookup(self)

    @cached_property
    def cards(self) -> Cards:
        """The assembly of all that is known of one feature."""
        return Cards(self)

    def card(self, feature: int, counts: dict[str, int] | None = None, split: str = "all") -> Card:
        """Return all that is known of one feature; see `Cards.make`."""
        return self.cards.make(feature, counts, split)

    def label(self, feature: int) -> str:
        """Return the text of the feature's best label, or an empty text."""
        return self.lookup.label_of(feature)

    def pair(self, a: int, b: int) -> dict[str, Any]:
        """Return how two features relate, as `pair --json` prints it.

        It holds the exact counts of their firings over all tokens (see
        `coactivation.count_together`), the cosine of their directions and their relations. Raises
        UsageError when one does not exist.
        """
        directions = read_directions(self.run)
        x, y = (np.asarray(directions[self.evidence.check(f)], np.float64) for f in (a, b))
        cosine = float(x @ y) / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-12)
        related = self.lookup.related_to(a)
        return {
            "a": a,
            "b": b,
            "labels": {"a": self.label(a), "b": self.label(b)},
            **count_together(self.postings, a, b),
            "cosine": cosine,
            "related": [r for r in related if {r["feature"], r["other"]} == {a, b}],
        }

    # ------------------------------------------------------------ all features

    def table(self, label_set: str = "") -> pd.DataFrame:
        """Return one row a feature: feature, label, coverage, gain, score, null, density, cluster,
        x, y.

        `label` is that of `label_set`, or the best one; `coverage` is the share of the feature's
        activation that it names, `gain` that less the most that a control reaches at like density,
        `score` and `null` are its simulation score (NaN where there is none), `cluster` is that of
        the finest level (-1 for none), `x` and `y` are the place on the map (NaN for none).
        """
        every = pd.RangeIndex(self.evidence.n_features, name="feature")
        labels = self.labels if not label_set else self.labels[self.labels["set"] == label_set]
        first = labels.drop_duplicates("feature").set_index("feature").reindex(every)
        of_label = pd.MultiIndex.from_arrays([every, first["set"]])
        coverage, scores = (
            self.scores[self.scores["kind"] == kind]
            .set_index(["feature", "set"])
            .reindex(columns=["value", "null"])
            .reindex(of_label)
            .astype(float)
            for kind in (score_unit.COVERAGE, "simulation")
        )
        columns = ["group", "x", "y"]
        places = pd.DataFrame(columns=columns) if self.clusters is None else self.clusters[columns]
        places = places.reindex(every).astype(float)
        covered = coverage["value"].to_numpy()
        chance = np.full((1, len(every)), np.nan)
        if self.references:
            chance = np.stack(list(self.references.values()))
        return pd.DataFrame(
            {
                "feature": every,
                "label": first["text"].astype(object).fillna("").tolist(),
                "coverage": covered,
                "gain": covered - np.fmax.reduce(chance),
                "score": scores["value"].to_numpy(),
                "null": scores["null"].to_numpy(),
                "density": self.evidence.density,
                "cluster": places["group"].fillna(-1).astype(int).to_numpy(),
                "x": places["x"].to_numpy(),
                "y": places["y"].to_numpy(),
            }
        )

    def overview(self, label_set: str = "") -> pd.DataFrame:
        """Return the columns OVERVIEW of all features; see `table`."""
        return self.table(label_set)[OVERVIEW]

    def find(self, words: str) -> pd.DataFrame:
        """Return the rows of `overview` whose labels, family, promoted tokens or notes hold
        the words.

        Where no feature holds all of them, those that hold most are returned. Rows come by score,
        the highest first. Raises UsageError without a word.
        """
        wanted = words.lower().split()
        if not wanted:
            raise UsageError(
                "There is nothing to search for.", 'Give some words: find RUN "days of the week"'
            )
        texts = [" ".join(parts).lower() for parts in read_searched_texts(self)]
        hits = np.array([sum(w in text for w in wanted) for text in texts])
        rows = self.overview()[(hits > 0) & (hits == hits.max(initial=0))]
        return rows.sort_values("score", ascending=False, kind="stable")


def read_searched_texts(features: Features) -> list[list[str]]:
    """Return the labels, notes, family names and most promoted tokens of every feature."""
    texts: list[list[str]] = [[] for _ in range(features.evidence.n_features)]
    columns = (features.labels[c].tolist() for c in ("feature", "text"))
    for feature, text in zip(*columns, strict=True):
        texts[feature].append(text)
    for note in read_notes(features.run.path):
        if 0 <= note["feature"] < len(texts):
            texts[note["feature"]].append(note["text"])
    names = features.families["title"].to_dict()
    for feature, parts in enumerate(texts):
        parts.append(names.get(int(features.family_of[feature]), ""))
        for effects in (features.evidence.measured(feature), features.evidence.promoted(feature)):
            parts += [effect.token for effect in effects[:SEARCHED_TOKENS]]
    return texts

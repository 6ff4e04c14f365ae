"""What the stages said of one feature, as rows of plain values: labels, neighbours, clusters."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.clusters.unit import read_neighbours, read_partners
from autointerp.scores.unit import (
    COVERAGE,
    COVERAGE_VALUES,
    STRATUM_COLUMNS,
    read_all_misses,
)
from autointerp.tables import RowIndex

if TYPE_CHECKING:
    from autointerp.features import Features

LABEL_FIELDS = ["text", "set", "kind", "confidence", "evidence"]
SCORE_FIELDS = ["kind", "value", "low", "high", "null", "n_documents", "undefined"]
COVERAGE_FIELDS = [*COVERAGE_VALUES, *(f"null_{name}" for name in COVERAGE_VALUES)]
STRATUM_FIELDS = ["strong", *STRATUM_COLUMNS]
FURTHER_FIELDS = {  # kind of score -> columns that only it has
    COVERAGE: COVERAGE_FIELDS,
    **dict.fromkeys(("simulation", "detection", "fuzzing", "intruder"), STRATUM_FIELDS),
}
ALL_FURTHER = list(dict.fromkeys([*COVERAGE_FIELDS, *STRATUM_FIELDS]))
RELATION_FIELDS = ["kind", "feature", "other", "strength"]
MOST = 6  # neighbours, and partners, of a feature
Row = dict[str, Any]  # plain values, as JSON holds them


class Lookup:
    """Finds one feature's rows in the tables of `features`, each of which is read and indexed once.

    Searching a frame for each of 100,000 cards would take most of their time.
    """

    def __init__(self, features: Features):
        self.features, self.run = features, features.run

    def prepare(self) -> None:
        """Index all tables, so that processes forked later do not repeat it."""
        for name in ("_texts", "_rows", "_neighbours", "_partners", "_clusters"):
            getattr(self, name)
        self.features.levels, self.features.references  # noqa: B018 - read once

    # ------------------------------------------------------------ labels and scores

    def label_of(self, feature: int) -> str:
        """Return the text of the best label, or an empty text."""
        return self._texts.get(feature, "")

    def labels_of(self, feature: int) -> list[Row]:
        """Return the labels of all sets, best first, each with its `scores`."""
        scores, labels = self._rows["scores"].of(feature), []
        for label in self._rows["labels"].of(feature):
            own = [score for score in scores if score["set"] == label["set"]]
            labels.append(label | {"scores": [self._score_of(feature, score) for score in own]})
        return labels

    def _score_of(self, feature: int, score: Row) -> Row:
        """A score without its set, and what only its kind has: strata, or gains over controls."""
        further = FURTHER_FIELDS.get(score["kind"].removesuffix("-hard"), [])
        row = {name: score[name] for name in [*SCORE_FIELDS, *further]}
        if score["kind"] != COVERAGE:
            return row
        references = self.features.references
        gains = {
            name: None if score["value"] is None else score["value"] - float(chance[feature])
            for name, chance in references.items()
        }
        return row | {"estimated": bool(score["estimated"]), "gains": gains}

    def failures_of(self, feature: int) -> list[Row]:
        """Return unit, kind, message of the attempts that gave no value."""
        return self._rows["failures"].of(feature)

    def misses_of(self, feature: int) -> list[Row]:
        """Return set, ordinal, stratum of the places where labels in free words were wrong."""
        return self._rows["misses"].of(feature)

    # ------------------------------------------------------------ other features

    def neighbours_of(self, feature: int, count: int = MOST) -> list[Row]:
        """Return feature, cosine, label of the nearest directions; none before `cluster`."""
        pairs = zip(*(column[feature].tolist() for column in self._neighbours), strict=True)
        rows = [{"feature": i, "cosine": c} for i, c in pairs if i >= 0]
        return [row | {"label": self.label_of(row["feature"])} for row in rows[:count]]

    def partners_of(self, feature: int, count: int = MOST) -> list[Row]:
        """Return feature, phi, shared, label of those that fire most on the same tokens.

        `shared` counts sampled tokens. There are none before `cluster`.
        """
        triples = zip(*(column[feature].tolist() for column in self._partners), strict=True)
        rows = [{"feature": i, "phi": p, "shared": n} for i, p, n in triples if i >= 0]
        return [row | {"label": self.label_of(row["feature"])} for row in rows[:count]]

    def related_to(self, feature: int) -> list[Row]:
        """Return kind, feature, other, strength of the relations that the feature is part of.

        These are duplicates, probable splitting and probable absorption; in absorption `feature` is
        the parent.
        """
        return self._rows["relations"].of(feature)

    def cluster_of(self, feature: int) -> Row | None:
        """Return group, title, status at the finest level; None where `cluster` has no row."""
        return self._clusters.get(feature)

    def family_of(self, feature: int) -> Row | None:
        """Return family, title, solid, kind and members (feature, label) of its family, if any."""
        known, family = self.features, int(self.features.family_of[feature])
        if family < 0 or family not in known.families.index:
            return None
        about = known.families.loc[family]
        members = [{"feature": f, "label": known.label(f)} for f in known.members(family)]
        return {
            "family": family,
            "title": about["title"],
            "solid": bool(about["solid"]),
            "kind": about["kind"],
            "members": members,
        }

    def clusters_of(self, feature: int) -> list[Row]:
        """Return layer (level), group (cluster), title of its clusters, coarsest first."""
        numbered = enumerate(self.features.levels)
        rows = [(i, int(level.cluster[feature]), level.titles) for i, level in numbered]
        return [{"layer": i, "group": c, "title": t.get(c, "")} for i, c, t in rows if c >= 0]

    # ------------------------------------------------------------ indexed tables

    @cached_property
    def _texts(self) -> dict[int, str]:
        """{feature: text of its best label}."""
        first = self.features.labels.drop_duplicates("feature")
        return dict(zip(first["feature"].tolist(), first["text"].tolist(), strict=True))

    @cached_property
    def _rows(self) -> dict[str, RowIndex]:
        known = self.features
        return {
            "labels": RowIndex(known.labels, LABEL_FIELDS),
            "scores": RowIndex(known.scores, ["set", "estimated", *SCORE_FIELDS, *ALL_FURTHER]),
            "failures": RowIndex(known.failures, ["unit", "kind", "message"]),
            "misses": RowIndex(read_all_misses(self.run), ["set", "ordinal", "stratum"]),
            "relations": RowIndex(known.relations, RELATION_FIELDS, ("feature", "other")),
        }

    @cached_property
    def _neighbours(self) -> tuple[np.ndarray, ...]:
        return read_neighbours(self.run) or make_empty(self.features.evidence.n_features, 2)

    @cached_property
    def _partners(self) -> tuple[np.ndarray, ...]:
        return read_partners(self.run) or make_empty(self.features.evidence.n_features, 3)

    @cached_property
    def _clusters(self) -> dict[int, Row]:
        """{feature: group, title, status} of the features that `cluster` looked at."""
        table = self.features.clusters
        if table is None:
            return {}
        columns = ["group", "title", "status"]
        rows = zip(*(table[c].tolist() for c in columns), strict=True)
        numbered = zip(table.index.tolist(), rows, strict=True)
        return {feature: dict(zip(columns, row, strict=True)) for feature, row in numbered}


def make_empty(n_features: int, n_columns: int) -> tuple[np.ndarray, ...]:
    """Return `n_columns` columns (F, 0) of rows without an entry."""
    return (np.zeros((n_features, 0)),) * n_columns

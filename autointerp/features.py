"""The one place that assembles all that is known of a feature: terminal, report and export read it from here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from autointerp.clusters.coactivation import count_together
from autointerp.evidence import DENSE, RARE_DOCUMENTS, Firings, histogram, strata
from autointerp.examples import Examples
from autointerp.labels.notes import read_notes
from autointerp.scores.mistakes import Failing
from autointerp.tables import RowIndex
from core.errors import UsageError
from core.files import read_array, read_json
from core.firings.postings import Postings
from core.records import SPLITS, FeatureStats, Snippet
from core.run import Run
from core.text.tokens import Tokens

SHOWN = {"top": 5, "strata": 1, "near_miss": 2}
SCORE_FIELDS = ["kind", "value", "low", "high", "null", "n_documents", "undefined"]
MISSES_OF = (
    "simulation",
    "fuzzing",
    "detection",
)  # kinds of score that keep where free words were wrong, most exact first


@dataclass(frozen=True)
class Level:
    """One layer of groups: the group of every feature (F,), -1 for none; the title and the colour's number of each group."""

    group: np.ndarray
    titles: dict[int, str]
    families: dict[int, int]


class Features:
    """Everything that the committed units of a run say, by feature. Units that do not exist yet are simply not there."""

    def __init__(self, run: Run):
        self.run = run
        self.tokens = Tokens(run.folder("capture"))
        self.postings = Postings(run.folder("index"), run.folder("capture"))
        self.examples = Examples(self.postings, self.tokens)

    def check(self, feature: int) -> int:
        if not 0 <= feature < self.postings.n_features:
            raise UsageError(
                f"There is no feature {feature}.",
                f"Run {self.run.name} has features 0 to {self.postings.n_features - 1}.",
            )
        return feature

    # ------------------------------------------------------------ tables

    @cached_property
    def labels(self) -> pd.DataFrame:
        """feature, set, text, confidence, kind, evidence of all label sets, rules last, so that a better labeller's text comes first."""
        parts = [
            self._table(unit, "labels.parquet").assign(set=unit.split("/")[1])
            for unit in self._units("label/")
        ]
        columns = ["feature", "set", "text", "confidence", "kind", "evidence"]
        if not parts:
            return pd.DataFrame({c: [] for c in columns})
        rank = {"hand": 0, "rules": 2}
        table = pd.concat(parts, ignore_index=True).reindex(
            columns=columns
        )  # a set that older code made has no count of its evidence
        table["evidence"] = table["evidence"].fillna(0).astype(int)
        return table.sort_values(
            "set", key=lambda s: s.map(lambda name: rank.get(name, 1)), kind="stable"
        )

    @cached_property
    def scores(self) -> pd.DataFrame:
        """feature, set, kind, value, low, high, null, n_tokens, n_documents, undefined, auroc of all score sets and kinds, simulation first."""
        units = sorted(self._units("score/"), key=lambda unit: "/simulation" not in unit)
        parts = [self._table(unit, "scores.parquet") for unit in units]
        return (
            pd.concat(parts, ignore_index=True)
            if parts
            else pd.DataFrame({"feature": [], "set": [], "kind": [], "value": []})
        )

    @cached_property
    def clusters(self) -> pd.DataFrame | None:
        """The cluster stage's table by feature, with the title of each group where there is one."""
        if self.run.find("cluster") is None:
            return None
        table = self._table("cluster", "features.parquet").set_index("feature")
        return table.assign(title=[self.titles.get(int(g), "") for g in table["group"]])

    @cached_property
    def layered_titles(self) -> dict[tuple[int, int], str]:
        """{(layer, group): title}; empty where the group is unstable or nothing was named yet."""
        if self.run.find("title") is None:
            return {}
        table = self._table("title", "titles.parquet")
        if "layer" not in table:  # made before groups had layers
            return {}
        return {
            (int(layer), int(g)): title
            for layer, g, title in zip(table["layer"], table["group"], table["title"], strict=True)
        }

    @cached_property
    def titles(self) -> dict[int, str]:
        """{group: title} of the finest layer."""
        last = max((layer for layer, _ in self.layered_titles), default=0)
        return {g: title for (layer, g), title in self.layered_titles.items() if layer == last}

    @cached_property
    def relations(self) -> pd.DataFrame:
        """kind, feature, other, strength, cosine, phi and counts of duplicates, probable splitting and absorption; no rows before `relate`."""
        columns = ["kind", "feature", "other", "strength", "cosine", "phi", "shared"]
        return (
            self._table("relate", "relations.parquet")
            if self.run.find("relate")
            else pd.DataFrame({c: [] for c in columns})
        )

    @cached_property
    def failures(self) -> pd.DataFrame:
        """feature, unit, kind, message of everything that was tried for a label or a score and gave none."""
        units = [
            unit
            for unit in self._units("label/") + self._units("score/")
            if (self.run.folder(unit) / "failures.parquet").exists()
        ]
        parts = [self._table(unit, "failures.parquet").assign(unit=unit) for unit in units]
        columns = ["feature", "unit", "kind", "message"]
        return (
            pd.concat(parts, ignore_index=True)[columns]
            if parts
            else pd.DataFrame({c: [] for c in columns})
        )

    @cached_property
    def layers(self) -> list[Level]:
        """The layers of groups, broad to fine; none before `cluster`."""
        if self.clusters is None:
            return []
        table, records = (
            self.clusters.reindex(range(self.postings.n_features)),
            read_json(self.run.folder("cluster") / "groups.json"),
        )
        out = []
        for layer in sorted(int(c.removeprefix("layer_")) for c in table if c.startswith("layer_")):
            titles = {g: title for (i, g), title in self.layered_titles.items() if i == layer}
            families = {g["group"]: g["family"] for g in records if g["layer"] == layer}
            out.append(
                Level(table[f"layer_{layer}"].fillna(-1).astype(int).to_numpy(), titles, families)
            )
        return out

    @cached_property
    def effects(self) -> pd.DataFrame | None:
        if (
            self.run.find("effects") is None
            or not (self.run.path / "effects" / "effects.parquet").exists()
        ):
            return None
        return self._table("effects", "effects.parquet").set_index("feature")

    def _units(self, prefix: str) -> list[str]:
        return [unit for unit in self.run.committed() if unit.startswith(prefix)]

    def _table(self, unit: str, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.run.folder(unit) / name)

    # ------------------------------------------------------------ one feature

    def stats(self, feature: int, firings: Firings | None = None) -> FeatureStats:
        where, values = firings or self.postings.firings(self.check(feature))
        documents = np.flatnonzero(np.diff(np.searchsorted(where, self._document_offsets)))
        scored = int((self.tokens.split[documents] == SPLITS.index("test")).sum())
        density = len(where) / self.postings.n_tokens
        status = (
            "dead"
            if not len(where)
            else "dense"
            if density > DENSE
            else "rare"
            if scored < RARE_DOCUMENTS
            else "alive"
        )
        return FeatureStats(
            feature,
            status,
            density,
            len(where),
            len(documents),
            float(values.max()) if len(values) else 0.0,
        )

    @cached_property
    def _document_offsets(self) -> np.ndarray:
        return np.asarray(self.tokens.document_offsets, np.int64)

    def histogram(self, feature: int, bins: int = 30) -> tuple[np.ndarray, np.ndarray]:
        """(counts (bins,), edges (bins + 1,)) of the non-zero activations."""
        return histogram(self.postings.firings(feature)[1], bins)

    def neighbours(self, feature: int, count: int = 6) -> list[tuple[int, float]]:
        """(feature, cosine) of the nearest decoder directions among live features; empty before `cluster`."""
        columns = (column[feature].tolist() for column in self._beside["neighbours"])
        return [(i, c) for i, c in zip(*columns, strict=True) if i >= 0][:count]

    @cached_property
    def _beside(self) -> dict[str, list[np.ndarray]]:
        """Columns (F, k) of each feature's nearest directions and of its partners; none of them before `cluster`."""
        names = {
            "neighbours": ("neighbours", "cosines"),
            "partners": ("partners", "partners_phi", "partners_shared"),
        }
        folder = self.run.path / "cluster"
        there = {
            kind: self.run.find("cluster") is not None and (folder / f"{files[0]}.npy").exists()
            for kind, files in names.items()
        }
        nothing = np.zeros((self.postings.n_features, 0))
        return {
            kind: [read_array(folder / f"{name}.npy") if there[kind] else nothing for name in files]
            for kind, files in names.items()
        }

    def path(self, feature: int) -> list[dict]:
        """layer, group, title of the groups that the feature is in, coarsest first."""
        here = [(i, layer, int(layer.group[feature])) for i, layer in enumerate(self.layers)]
        return [
            {"layer": i, "group": g, "title": layer.titles.get(g, "")}
            for i, layer, g in here
            if g >= 0
        ]

    def partners(self, feature: int, count: int = 6) -> list[dict]:
        """feature, phi, shared (sampled tokens) of those that fire most on the same tokens; empty before `cluster`."""
        columns = (column[feature].tolist() for column in self._beside["partners"])
        rows = [
            {"feature": i, "phi": p, "shared": n}
            for i, p, n in zip(*columns, strict=True)
            if i >= 0
        ]
        return [row | {"label": self.label(row["feature"])} for row in rows[:count]]

    def related(self, feature: int) -> list[dict]:
        """Duplicates, probable splitting and absorption that the feature is part of: kind, feature (the parent, in absorption), other, strength."""
        return self._rows["relations"].of(feature)

    def pair(self, a: int, b: int) -> dict:
        """Exact counts of two features' firings over every token (see coactivation.together), the cosine of their directions, how they are related."""
        directions = read_array(self.run.folder("train") / "directions.npy")
        x, y = (np.asarray(directions[self.check(f)], np.float64) for f in (a, b))
        cosine = float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12))
        both = [r for r in self.related(a) if {r["feature"], r["other"]} == {a, b}]
        labels = {"a": self.label(a), "b": self.label(b)}
        return {
            "a": a,
            "b": b,
            "labels": labels,
            **count_together(self.postings, a, b),
            "cosine": cosine,
            "related": both,
        }

    def label(self, feature: int) -> str:
        """The first label's text, or an empty string."""
        rows = self._rows["labels"].of(feature)
        return rows[0]["text"] if rows else ""

    @cached_property
    def _rows(self) -> dict[str, RowIndex]:
        """The rows of the tables by feature."""
        return {
            "labels": RowIndex(self.labels, ["text", "set", "kind", "confidence", "evidence"]),
            "scores": RowIndex(self.scores, ["set", *SCORE_FIELDS]),
            "failures": RowIndex(self.failures, ["unit", "kind", "message"]),
            "misses": RowIndex(self.misses, ["set", "ordinal", "stratum"]),
            "relations": RowIndex(
                self.relations, ["kind", "feature", "other", "strength"], ("feature", "other")
            ),
        }

    def card(self, feature: int, counts: dict[str, int] | None = None, split: str = "all") -> dict:
        """All that is known of a feature, as `show --json` prints it. `counts` says how many snippets of each stratum, and how many of
        each kind of place where a label fails (`failing`), for the label of every set."""
        return self._card(
            feature,
            self.postings.firings(self.check(feature)),
            counts,
            split,
            read_notes(self.run.path),
        )

    def cards(
        self, counts: dict[str, int], start: int = 0, end: int | None = None
    ) -> Iterator[dict]:
        """The cards of features `start` to `end`, from one walk over the index."""
        notes = read_notes(self.run.path)
        for first, block in self.postings.blocks(start, end):
            for feature, firings in enumerate(block, first):
                yield self._card(feature, firings, counts, "all", notes)

    def prepare(self, counts: dict[str, int]) -> None:
        """Make what all cards share: before processes part, so that none makes it again."""
        for name in ("_rows", "_beside", "_groups", "_effects", "layers"):
            getattr(self, name)
        if counts.get("failing"):
            self._failing.prepare()

    def _card(
        self,
        feature: int,
        firings: Firings,
        counts: dict[str, int] | None,
        split: str,
        notes: list[dict],
    ) -> dict:
        stats = self.stats(feature, firings)
        rng = np.random.default_rng([self.run.settings.seed, feature])
        wanted = dict(SHOWN if counts is None else counts)
        failing, labels = wanted.pop("failing", 0), self._labels_of(feature)
        snippets = [
            (snippet, {})
            for snippet in self.examples.snippets(feature, split, wanted, rng, firings)
        ]
        if failing:
            snippets += self._where_labels_fail(feature, firings, labels, failing)
        group = self._groups.get(feature)
        counted, edges = histogram(firings[1])
        return {
            "feature": feature, "status": stats.status, "density": stats.density, "n_firings": stats.n_firings,
            "n_documents": stats.n_documents, "max": stats.max,
            "labels": labels,
            "promoted": self._effects_of(feature, "promoted"), "suppressed": self._effects_of(feature, "suppressed"),
            "neighbours": [{"feature": i, "cosine": c, "label": self.label(i)} for i, c in self.neighbours(feature)],
            "cluster": None if group is None else {"group": int(group["group"]), "title": group["title"]},
            "groups": self.path(feature), "partners": self.partners(feature), "related": self.related(feature),
            "isolated": group is not None and group["status"] == "isolated",
            "histogram": {"counts": counted.tolist(), "edges": edges.tolist()}, "strata": strata(firings[1]),
            "notes": [n for n in notes if n["feature"] == feature],
            "failures": self._rows["failures"].of(feature),
            "snippets": [
                {"stratum": s.stratum, "split": s.split, "document": self.tokens.names[s.document], "start": s.start, "peak": s.peak,
                 "tokens": list(s.tokens), "activations": list(s.activations)} | whose
                for s, whose in snippets
            ],
        }  # fmt: skip

    def _where_labels_fail(
        self, feature: int, firings: Firings, labels: list[dict], count: int
    ) -> list[tuple[Snippet, dict]]:
        """(snippet, {"set": whose label fails there}), set after set; a text that two sets share only once."""
        rows, first = (
            self._rows["misses"].of(feature),
            {label["text"]: label["set"] for label in reversed(labels)},
        )
        out = []
        for text, name in reversed(first.items()):
            kept = [row for row in rows if row["set"] == name]
            out += [
                (snippet, {"set": name})
                for snippet in self._failing.snippets(feature, firings, text, count, kept)
            ]
        return out

    @cached_property
    def misses(self) -> pd.DataFrame:
        """feature, ordinal, stratum, told, set: where labels in free words were wrong when they were scored, token by token first."""
        units = [
            u
            for kind in MISSES_OF
            for u in self._units("score/")
            if u.endswith(f"/{kind}") and (self.run.folder(u) / "misses.parquet").exists()
        ]
        parts = [
            self._table(unit, "misses.parquet").assign(set=unit.split("/")[1]) for unit in units
        ]
        return (
            pd.concat(parts, ignore_index=True)
            if parts
            else pd.DataFrame({c: [] for c in ("feature", "ordinal", "stratum", "told", "set")})
        )

    @cached_property
    def _failing(self) -> Failing:
        return Failing(self.examples, self.run.settings.seed)

    @cached_property
    def _groups(self) -> dict[int, dict]:
        """{feature: group, title, status} of those that `cluster` looked at."""
        return (
            {}
            if self.clusters is None
            else self.clusters[["group", "title", "status"]].to_dict("index")
        )

    def _labels_of(self, feature: int) -> list[dict]:
        scores = self._rows["scores"].of(feature)
        of_set = lambda name: [
            {k: v for k, v in score.items() if k != "set"}
            for score in scores
            if score["set"] == name
        ]
        return [
            label | {"scores": of_set(label["set"])} for label in self._rows["labels"].of(feature)
        ]

    def _effects_of(self, feature: int, side: str) -> list[dict]:
        texts, logits = self._effects[side].get(feature, ((), ()))
        return [
            {"token": text, "logit": float(value)}
            for text, value in zip(texts, logits, strict=True)
        ]

    @cached_property
    def _effects(self) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """{side: {feature: (texts, logits)}} of promoted and suppressed tokens."""
        table = self.effects
        sides = ("promoted", "suppressed")
        if table is None:
            return {side: {} for side in sides}
        return {
            side: dict(
                zip(
                    table.index.tolist(),
                    zip(table[side], table[f"{side}_logit"], strict=True),
                    strict=True,
                )
            )
            for side in sides
        }

    # ------------------------------------------------------------ many features

    def overview(self, label_set: str = "") -> pd.DataFrame:
        """feature, label, score, density, cluster of every feature; the label of `label_set`, or the first one there is."""
        labels = self.labels if not label_set else self.labels[self.labels["set"] == label_set]
        first = labels.drop_duplicates("feature").set_index("feature")
        table = pd.DataFrame(
            {
                "feature": range(self.postings.n_features),
                "density": self.postings.n_firings / self.postings.n_tokens,
            }
        )
        texts = first["text"].to_dict()
        table["label"] = [texts.get(f, "") for f in table["feature"]]
        simulated = (
            self.scores[self.scores["kind"] == "simulation"] if len(self.scores) else self.scores
        )
        keyed = simulated.set_index(["feature", "set"])["value"]
        table["score"] = [
            keyed.get((f, s), np.nan)
            for f, s in zip(table["feature"], table["feature"].map(first["set"]), strict=True)
        ]
        table["cluster"] = (
            -1
            if self.clusters is None
            else table["feature"].map(self.clusters["group"]).fillna(-1).astype(int)
        )
        return table[["feature", "label", "score", "density", "cluster"]]

    def find(self, words: str) -> pd.DataFrame:
        """Features whose labels, promoted tokens or notes hold the words, most words first, then by score."""
        wanted = [w for w in words.lower().split() if w]
        if not wanted:
            raise UsageError(
                "There is nothing to search for.", 'Give some words: find RUN "days of the week"'
            )
        table = self.overview()
        known: dict[int, list[str]] = {int(f): [] for f in table["feature"]}
        for row in self.labels.itertuples():
            known[row.feature].append(row.text)
        for note in read_notes(self.run.path):
            known[note["feature"]].append(note["text"])
        for feature, promoted in {} if self.effects is None else self.effects["promoted"].items():
            known[feature] += promoted[:5].tolist()
        hits = np.array(
            [sum(w in " ".join(parts).lower() for w in wanted) for parts in known.values()]
        )
        return (
            table.assign(hits=hits)[hits > 0]
            .sort_values(["hits", "score"], ascending=[False, False], kind="stable")
            .drop(columns="hits")
        )


# ---------------------------------------------------------------- notes

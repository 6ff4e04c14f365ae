"""What every kind of score shares: what it is given, the shape of what it gives back, and the figures of its summary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd

from autointerp.examples import Examples
from autointerp.llm.session import Asker
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores import mistakes as misses
from autointerp.scores.panels import Panel
from autointerp.settings import ScoreSettings
from autointerp.statistics import bootstrap_median, matched_null
from core.firings.postings import Postings
from core.records import Failure, Score
from core.run import Run
from core.text.tokens import Tokens


class LiveSubject(Protocol):
    """What scores ask of the subject itself (`core.live`)."""

    def maxima(self, texts: list[str]) -> np.ndarray:
        """The largest activation (texts, F) of every feature in each text."""

    def clamped_texts(self, features: list[int], times: float) -> dict[int, list[str]]:
        """For each feature, continuations of neutral prefixes while it is held at `times` its maximum."""


@dataclass(frozen=True)
class Context:
    """The labels of one set, the null of each, and the run they are about."""

    run: Run
    settings: ScoreSettings
    labels: pd.Series  # feature -> text
    kinds: pd.Series  # feature -> kind of label
    postings: Postings
    tokens: Tokens
    asker: Asker | None = None  # for labels that do not predict by themselves
    live: LiveSubject | None = None  # for kinds that need more than what is stored
    panels: dict[int, Panel] = field(
        default_factory=dict
    )  # drawn so far, for the kinds that share them

    @property
    def seed(self) -> int:
        return self.run.settings.seed

    @property
    def set(self) -> str:
        return self.settings.set

    @cached_property
    def examples(self) -> Examples:
        return Examples(self.postings, self.tokens)

    @cached_property
    def corpus(self) -> Annotations:
        return Annotations.from_tokens(self.tokens)

    @cached_property
    def others(self) -> dict[int, str]:
        """For each labelled feature the label of another one of like density, out of the whole set: its null."""
        return null_labels(self.labels, self.postings.n_firings / self.postings.n_tokens, self.seed)

    @cached_property
    def parsed(self) -> dict[str, rules.Rule | None]:
        """The rule that each text of the set says, None where it is in free words."""
        return {text: rules.read_rule(text) for text in {*self.labels, ""}}

    def prepared(self) -> Context:
        """Itself, when all that is computed once has been: before processes part."""
        for name in ("examples", "corpus", "others", "parsed"):
            getattr(self, name)
        self.examples.pool("test")
        return self

    def texts(self, feature: int) -> list[str]:
        """The feature's label and its null, where there is one."""
        return [text for text in (self.labels[feature], self.others[feature]) if text]


@dataclass(frozen=True)
class Scored:
    """What one kind of score made of the features that it was asked about: a row or more each, and why some have no value."""

    scores: list[Score]
    failures: list[Failure]
    columns: dict[str, list] = field(
        default_factory=dict
    )  # beyond those of Score, in the order of `scores`
    summary: dict = field(default_factory=dict)
    misses: list[misses.Row] = field(default_factory=list)  # where free words were wrong

    def table(self) -> pd.DataFrame:
        frame = pd.DataFrame([vars(s) for s in self.scores], columns=list(Score.__annotations__))
        return frame.assign(**self.columns).astype(
            dict.fromkeys(("value", "low", "high", "null"), float)
        )


def null_labels(labels: pd.Series, density: np.ndarray, seed: int) -> dict[int, str]:
    """For each feature the label of another one of like density, out of all labels of the set; "" when there is no other."""
    every = labels.index.to_numpy()
    partner = matched_null(density[every], np.random.default_rng([seed, 1]))
    return {int(f): labels.iloc[p] if p >= 0 else "" for f, p in zip(every, partner, strict=True)}


def undefined_score(
    context: Context, kind: str, feature: int, reason: str, n_tokens: int = 0, n_documents: int = 0
) -> Score:
    return Score(feature, context.set, kind, None, reason, None, None, None, n_tokens, n_documents)


def summary(
    table: pd.DataFrame,
    failures: list[Failure],
    live: int,
    seed: int,
    chance: float,
    kinds: pd.Series,
) -> dict:
    """Key figures of the scores of one kind: the median over scored features with its interval; the share above both nulls (another feature's
    label, and `chance`, what "always no" reaches) is of all `live` features that the labeller was asked about, so that its failures count
    as not above. `kinds` gives each feature's kind of label, by which medians are given too."""
    scored = table[table["value"].notna()]
    median, low, high = bootstrap_median(
        scored["value"].to_numpy(float), np.random.default_rng(seed)
    )
    above = int((scored["value"] > scored["null"].fillna(chance).clip(lower=chance)).sum())
    by_kind = (
        scored["value"].astype(float).groupby(scored["feature"].map(kinds)).agg(["size", "median"])
    )
    return {
        "median": round_or_none(median), "low": round_or_none(low), "high": round_or_none(high),
        "null_median": round_or_none(float(scored["null"].median())) if len(scored) else None, "always_no": chance,
        "n": len(scored), "live": live, "share_above_null": round(above / max(1, live), 4),
        "with_interval": int(scored["low"].notna().sum()),
        "by_kind_of_label": {str(k): {"n": int(r["size"]), "median": round_or_none(r["median"])} for k, r in by_kind.iterrows()},
        "failures": dict(Counter(f.kind for f in failures)),
    }  # fmt: skip


def round_or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def rank_correlations(tables: dict[str, pd.DataFrame], kind: str) -> dict[str, dict]:
    """Spearman's correlation of `kind` with every other kind, over the features that both have a value for (at least 10)."""
    values = {
        name: t[t["value"].notna()]
        .drop_duplicates("feature")
        .set_index("feature")["value"]
        .astype(float)
        for name, t in tables.items()
    }
    out = {}
    for name, other in values.items():
        both = values[kind].index.intersection(other.index)
        if name != kind and len(both) >= 10:
            a, b = values[kind][both].rank(), other[both].rank()
            if a.nunique() > 1 and b.nunique() > 1:
                out[name] = {"rho": round_or_none(float(np.corrcoef(a, b)[0, 1])), "n": len(both)}
    return out

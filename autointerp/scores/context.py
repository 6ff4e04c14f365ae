"""What all kinds of score share: their input, their output, and the key figures of a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from autointerp.examples import Examples
from autointerp.llm.session import Asker
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores.panels import Panel
from autointerp.scores.unit import Miss, score_table
from autointerp.settings import ScoreSettings
from autointerp.statistics import bootstrap_median, matched_null
from core.firings.postings import Postings
from core.records import Failure, Score, Undefined
from core.run import Run
from core.text.tokens import Tokens
from core.workers import Engine

LEAST_COMMON = 10  # features that two kinds of score must share to be correlated


@dataclass(frozen=True)
class Effort:
    """How many windows of held-out text a label is tried on."""

    top: int  # simulation: windows around the largest activations
    strata: int  # simulation: windows from each of the five quantile strata of activations
    random: int  # simulation: windows anywhere
    windows: int  # detection, fuzzing: windows that fire, random silent ones, hard silent ones


EFFORTS = {"quick": Effort(5, 3, 15, 10), "standard": Effort(10, 6, 30, 20)}


class LiveSubject(Protocol):
    """What scores need of the loaded subject and SAE (`core.clamps.live`)."""

    def maxima(self, texts: list[str]) -> np.ndarray:
        """Return the largest activation (texts, F) of every feature in each text, SAE units."""

    def clamped_texts(self, features: list[int], times: float) -> dict[int, list[str]]:
        """Return for each feature the continuations of neutral prefixes with that feature clamped.

        The clamp is `times` the feature's largest activation.
        """


@dataclass(frozen=True)
class Context:
    """The labels of one set, and the run that they describe."""

    run: Run
    settings: ScoreSettings
    labels: pd.Series  # feature -> text
    kinds: pd.Series  # feature -> kind of label
    postings: Postings
    tokens: Tokens
    asker: Asker | None = None  # for labels in free words
    live: LiveSubject | None = None  # for kinds that need the loaded model
    panels: dict[int, Panel] = field(default_factory=dict)  # drawn once, shared by two kinds

    @property
    def seed(self) -> int:
        return self.run.settings.seed

    @property
    def label_set(self) -> str:
        return self.settings.labels

    @property
    def effort(self) -> Effort:
        return EFFORTS[self.settings.effort]

    @cached_property
    def examples(self) -> Examples:
        return Examples(self.postings, self.tokens)

    @cached_property
    def annotations(self) -> Annotations:
        return Annotations.from_tokens(self.tokens)

    @cached_property
    def others(self) -> dict[int, str]:
        """The null label of each labelled feature: see `null_labels`."""
        return null_labels(self.labels, self.postings.n_firings / self.postings.n_tokens, self.seed)

    @cached_property
    def rule_of(self) -> dict[str, rules.Rule | None]:
        """The rule that each text of the set states, and its strong reading; None for free text."""
        texts = {*self.labels, ""}
        return {text: rules.read_rule(text) for text in texts | set(map(rules.without_weak, texts))}

    @property
    def engine(self) -> Engine:
        """Where features are drawn and scored that need no LLM."""
        return Engine.choose(self.settings, self.run, auto="processes")

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"asker": None, "live": None, "panels": {}}  # as workers need it

    def prepare(self) -> Context:
        """Compute what is computed once, before workers start; returns itself."""
        for name in ("examples", "annotations", "others", "rule_of"):
            getattr(self, name)
        self.examples.pool("test")
        return self

    def texts(self, feature: int) -> list[str]:
        """Return the feature's label, its strong reading where it has a weak part, and its null.

        The null is the label of another feature; there may be none.
        """
        own = self.labels[feature]
        texts = dict.fromkeys((own, self.strong(feature), self.others[feature]))
        return [text for text in texts if text]

    def strong(self, feature: int) -> str:
        """Return the feature's label without its parts for weak firings."""
        return rules.without_weak(self.labels[feature])

    def is_free(self, feature: int) -> bool:
        """Whether the feature's label is in free words, so that only an LLM can predict from it."""
        return self.rule_of[self.labels[feature]] is None


@dataclass(frozen=True)
class Scored:
    """The result of one kind of score: one or more rows a feature, and why some have no value."""

    scores: list[Score]
    failures: list[Failure]
    columns: dict[str, list] = field(default_factory=dict)  # further columns of `scores`
    summary: dict[str, Any] = field(default_factory=dict)
    misses: list[Miss] = field(default_factory=list)  # mistakes of labels in free words

    def table(self) -> pd.DataFrame:
        return score_table(self.scores, self.columns)


def null_labels(labels: pd.Series, density: np.ndarray, seed: int) -> dict[int, str]:
    """Return for each labelled feature the label of another feature of similar density.

    `density` (F,) is the share of tokens on which each feature fires. The text is empty where the
    set has no other label.
    """
    every = labels.index.to_numpy()
    partner = matched_null(density[every], np.random.default_rng([seed, 1]))
    return {int(f): labels.iloc[p] if p >= 0 else "" for f, p in zip(every, partner, strict=True)}


def undefined_score(
    context: Context,
    kind: str,
    feature: int,
    undefined: Undefined,
    n_tokens: int = 0,
    n_documents: int = 0,
) -> Score:
    """Return a score without a value."""
    name = context.label_set
    return Score(feature, name, kind, None, undefined, None, None, None, n_tokens, n_documents)


def list_failures(scores: Sequence[Score]) -> list[Failure]:
    """Return a failure for every score without a value."""
    return [
        Failure("score", s.feature, s.undefined.kind, str(s.undefined))
        for s in scores
        if s.undefined
    ]


# ---------------------------------------------------------------- key figures


def summarise(
    table: pd.DataFrame,
    failures: Sequence[Failure],
    alive: int,
    seed: int,
    chance: float,
    kinds: pd.Series,
) -> dict[str, Any]:
    """Return the key figures of the scores of one kind.

    `alive` counts the features that the labeller was asked about, those without a label too:
    `share_above_null` is a share of them, so a failure counts as not above. A score counts as above
    when it exceeds both its null and `chance`, which a label that says nothing reaches. `kinds` is
    the kind of each feature's label. The interval of the median is a bootstrap's over features.
    """
    scored = table[table["value"].notna()]
    values = scored["value"].astype(float)
    median, low, high = bootstrap_median(values.to_numpy(float), np.random.default_rng(seed))
    above = int((scored["value"] > scored["null"].fillna(chance).clip(lower=chance)).sum())
    by_kind = values.groupby(scored["feature"].map(kinds)).agg(["size", "median"])
    return {
        "median": round_or_none(median),
        "low": round_or_none(low),
        "high": round_or_none(high),
        "null_median": round_or_none(float(scored["null"].median())) if len(scored) else None,
        "always_no": chance,
        "n": len(scored),
        "alive": alive,
        "share_above_null": round(above / max(1, alive), 4),
        "with_interval": int(scored["low"].notna().sum()),
        "by_kind_of_label": {
            str(kind): {"n": int(row["size"]), "median": round_or_none(row["median"])}
            for kind, row in by_kind.iterrows()
        },
        "failures": dict(Counter(f.kind for f in failures)),
    }


def round_or_none(value: float) -> float | None:
    """Return `value` rounded to four digits, or None for NaN."""
    return None if np.isnan(value) else round(float(value), 4)


def rank_correlations(tables: dict[str, pd.DataFrame], kind: str) -> dict[str, dict[str, Any]]:
    """Return Spearman's correlation of `kind` with every other kind.

    It is computed over the features for which both have a value; kinds that share fewer than
    LEAST_COMMON features, or are constant on them, are left out. `tables` are score tables.
    """
    values = {}
    for name, table in tables.items():
        scored = table[table["value"].notna()].drop_duplicates("feature")
        values[name] = scored.set_index("feature")["value"].astype(float)
    out = {}
    for name, other in values.items():
        both = values[kind].index.intersection(other.index)
        if name != kind and len(both) >= LEAST_COMMON:
            a, b = values[kind][both].rank(), other[both].rank()
            if a.nunique() > 1 and b.nunique() > 1:
                out[name] = {"rho": round_or_none(float(np.corrcoef(a, b)[0, 1])), "n": len(both)}
    return out

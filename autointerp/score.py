"""Stage `score`, kind `simulation`: a label's text predicts the feature's activations on held-out text.

One seeded sample of windows of the score split for each feature, the same for every labeller: 10 top, 6 from each of five quantile
strata and 30 random ones, as many as exist. The score is Pearson's r over all their tokens, sign kept (Bills et al. 2023). Its null
is the label of another feature of like density on the same tokens. Rule labels, and any text written in their language, are
simulated by the rule; other labels by an LLM, which sees each window's tokens and the label, nothing else.

A feature that fires in fewer than 5 score documents is `too_rare`; a label that predicts the same everywhere has no correlation.
Both are counted among the failures; shares are over all live features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from autointerp import rules
from autointerp.contexts import Corpus
from autointerp.examples import Examples
from autointerp.features import RARE_DOCUMENTS
from autointerp.postings import Postings, lookup
from autointerp.prompts import SIMULATE_PROMPT
from autointerp.selection import parse_features
from autointerp.settings import ScoreSettings
from autointerp.statistics import MIN_DOCUMENTS, bootstrap_median, correlation, document_sums, interval, matched_null
from core.corpus import Tokens
from core.files import write_table
from core.progress import progress
from core.records import Failure, Manifest, Score
from core.run import Run

VERSION = 1
KIND = "simulation"

Predict = Callable[[str, int], np.ndarray | str]  # (label text, feature whose sample it is) -> predictions, or the kind of failure


@dataclass(frozen=True)
class Sample:
    """The tokens on which one feature's labels are scored: ordinals ascending, activations and document of each."""

    feature: int
    ordinals: np.ndarray
    activations: np.ndarray
    documents: np.ndarray
    n_documents: int  # in which the feature fires, within the sample
    n_copied: int

    @property
    def rare(self) -> bool:
        return self.n_documents < RARE_DOCUMENTS


def score(run: Run, settings: ScoreSettings, redo: bool = False) -> Manifest:
    labels_unit, unit = f"label/{settings.set}", f"score/{settings.set}/{KIND}"
    labels = pd.read_parquet(run.folder(labels_unit) / "labels.parquet").set_index("feature")["text"]
    old, wanted = existing(run, unit, redo), set(parse_features(settings.features, labels.index))
    missing = sorted(wanted - set(old["feature"]))
    work = run.begin(unit, VERSION, settings, ["index", labels_unit], redo, extend=bool(missing) and len(old) > 0)
    if work is None:
        return run.manifest(unit)
    tokens = Tokens(run.folder("capture"))
    postings = Postings(run.folder("index"), run.folder("capture"))
    samples = list(draw_samples(postings, tokens, missing, settings, run.settings.seed))
    density = postings.n_firings / postings.n_tokens
    others = null_labels(missing, labels, density, run.settings.seed)
    scores, failures = score_samples(samples, labels, others, make_predictor(run, settings, tokens, samples, labels, others), settings.set)
    table = pd.concat([old, pd.DataFrame([asdict(s) for s in scores])], ignore_index=True) if len(old) else pd.DataFrame([asdict(s) for s in scores])
    write_table(work.folder / "scores.parquet", typed(table).sort_values("feature"))
    write_table(work.folder / "failures.parquet", pd.DataFrame([asdict(f) for f in failures], columns=list(Failure.__annotations__)))
    asked_for = len(labels) + len(pd.read_parquet(run.folder(labels_unit) / "failures.parquet"))  # all live ones, unless a sample was labelled
    by_llm = {} if labels.map(rules.is_rule).all() else {"prompt": SIMULATE_PROMPT}
    return work.commit(by_llm | summary(table, failures, asked_for, sum(s.n_copied for s in samples), run.settings.seed))


def existing(run: Run, unit: str, redo: bool) -> pd.DataFrame:
    """The committed scores that stay, empty when there are none or they are all to be made anew."""
    manifest = None if redo else run.find(unit)
    return pd.read_parquet(run.path / unit / "scores.parquet") if manifest else pd.DataFrame({"feature": []})


def typed(table: pd.DataFrame) -> pd.DataFrame:
    floats = {name: float for name in ("value", "low", "high", "null")}
    return table.astype(floats)


def draw_samples(postings: Postings, tokens: Tokens, features: list[int], settings: ScoreSettings, seed: int) -> Iterator[Sample]:
    """One sample a feature, seeded by the feature alone, so that every labeller is scored on the same tokens."""
    examples = Examples(postings, tokens)
    counts = {"top": settings.top, "strata": settings.strata, "random": settings.random}
    for feature in progress(features, "sample", unit="feat"):
        firings = postings.firings(feature)
        drawn = examples.draw(firings, "score", counts, np.random.default_rng([seed, feature]))
        ordinals = examples.covered(drawn.ordinals)
        ordinals = ordinals[~examples.copied[ordinals]]
        activations, documents = lookup(*firings, ordinals), tokens.document_of(ordinals)
        firing_documents = len(np.unique(documents[activations > 0]))
        yield Sample(feature, ordinals, activations, documents, firing_documents, drawn.n_copied)


def null_labels(features: list[int], labels: pd.Series, density: np.ndarray, seed: int) -> dict[int, str]:
    """For each feature the label of another one of like density, out of all labels of the set."""
    every = labels.index.to_numpy()
    partner = matched_null(density[every], np.random.default_rng([seed, 1]))
    chosen = {int(f): labels.iloc[p] if p >= 0 else "" for f, p in zip(every, partner, strict=True)}
    return {f: chosen[f] for f in features}


def make_predictor(run: Run, settings: ScoreSettings, tokens: Tokens, samples: list[Sample], labels: pd.Series, others: dict[int, str]) -> Predict:
    """Rules predict by themselves; texts that are not rules go to the LLM, all in one batch before anything is scored."""
    corpus = Corpus.from_tokens(tokens)
    ordinals = {s.feature: s.ordinals for s in samples}
    free = [(text, s) for s in samples if not s.rare for text in (labels[s.feature], others[s.feature]) if text and not rules.is_rule(text)]
    simulated = {}
    if free:
        from autointerp.simulate import simulate

        simulated = simulate(run, settings, tokens, free)

    def predict(text: str, feature: int):
        if not rules.is_rule(text):
            return simulated[text, feature]
        return rules.predict(rules.parse(text), corpus, ordinals[feature])

    return predict


def score_samples(samples: list[Sample], labels: pd.Series, others: dict[int, str], predict: Predict, name: str) -> tuple[list[Score], list[Failure]]:
    scores, failures = [], []
    for sample in progress(samples, "score", unit="feat"):
        if sample.rare:
            reason = f"fires in {sample.n_documents} documents of the score sample; {RARE_DOCUMENTS} are needed"
            scores.append(_undefined(sample, name, "too_rare: " + reason))
            failures.append(Failure("score", sample.feature, "too_rare", reason))
            continue
        predicted = predict(labels[sample.feature], sample.feature)
        if isinstance(predicted, str):
            scores.append(_undefined(sample, name, predicted))
            failures.append(Failure("score", sample.feature, predicted, "no simulation could be read"))
            continue
        scored = score_one(sample, predicted, predict(others[sample.feature], sample.feature) if others[sample.feature] else None, name)
        if scored.value is None:
            failures.append(Failure("score", sample.feature, scored.undefined.split(":")[0], scored.undefined))
        scores.append(scored)
    return scores, failures


def score_one(sample: Sample, predicted: np.ndarray, by_other: np.ndarray | str | None, name: str) -> Score:
    """The score of predictions (n,) on a sample; NaN predictions are tokens whose simulation failed, and are left out."""
    known = ~np.isnan(predicted)
    sums = document_sums(predicted[known], sample.activations[known], sample.documents[known])
    value = float(correlation(sums.sum(0)))
    null = None
    if isinstance(by_other, np.ndarray):
        known_null = ~np.isnan(by_other)
        found = float(correlation(document_sums(by_other[known_null], sample.activations[known_null], sample.documents[known_null]).sum(0)))
        null = 0.0 if np.isnan(found) else found  # a constant prediction explains nothing
    if np.isnan(value):
        what = "label" if np.ptp(predicted[known]) == 0 else "activation"
        return _undefined(sample, name, f"constant: the {what} is the same on every token of the sample")
    span = interval(sums) if sample.n_documents >= MIN_DOCUMENTS else None
    low, high = span or (None, None)
    return Score(sample.feature, name, KIND, value, "", low, high, null, int(known.sum()), sample.n_documents)


def _undefined(sample: Sample, name: str, reason: str) -> Score:
    return Score(sample.feature, name, KIND, None, reason, None, None, None, len(sample.ordinals), sample.n_documents)


def summary(table: pd.DataFrame, failures: list[Failure], live: int, n_copied: int, seed: int) -> dict:
    """Key figures: the median over scored features with its interval; the share above the null is of all `live` features that the
    labeller was asked about, so that its failures count as not above."""
    scored = table[table["value"].notna()]
    median, low, high = bootstrap_median(scored["value"].to_numpy(float), np.random.default_rng(seed))
    above = int((scored["value"] > scored["null"].fillna(0.0)).sum())
    number = lambda v: None if np.isnan(v) else round(v, 4)
    return {
        "median": number(median), "low": number(low), "high": number(high),
        "null_median": number(float(scored["null"].median())) if len(scored) else None,
        "n": len(scored), "live": live, "share_above_null": round(above / max(1, live), 4),
        "with_interval": int(scored["low"].notna().sum()), "copied_firings_left_out": n_copied,
        "failures": dict(Counter(f.kind for f in failures)),
    }  # fmt: skip

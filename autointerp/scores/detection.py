"""Kinds `detection` and `fuzzing`: can one tell from the label in which windows, and on which tokens, the feature fires?

    detection   would the feature fire somewhere in this window                      (Paulo et al. 2024)
    fuzzing     the same, when the tokens it fires on are marked, or others are

Each is asked of windows in which the feature fires against random windows in which it does not (`detection`, `fuzzing`) and against windows in which
its rivals fire and it does not (`detection-hard`, `fuzzing-hard`); see `panels`. The value is the balanced accuracy, the mean of the shares of firing and of
silent windows that are told right; `auroc` stands beside it. "Always no" has .5 in both. A rule answers with its largest prediction in the window,
or on the marked tokens; other labels by an LLM, which rates each text from 0 to 9 and is taken to say yes from 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from autointerp.llm.probe import logprob_tokens
from autointerp.llm.session import ATTEMPTS, AnswerFormat, Asker
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores import prompts
from autointerp.scores.context import Context, Scored, summary, undefined_score
from autointerp.scores.mistakes import of_panel
from autointerp.scores.panels import FIRES, HARD, LEAST, RANDOM, Panel, draw_panel
from autointerp.scores.rivals import Rivals
from autointerp.statistics import MIN_PANEL, auroc, balanced_interval
from core.files import read_array
from core.parallel import in_workers
from core.progress import progress
from core.records import Failure, Score

KINDS = ("detection", "fuzzing")
CHANCE = 0.5
YES = 0.5  # ratings of at least this mean that it fires
PER_REQUEST = 15  # windows
CHUNK = 16
RATE = AnswerFormat("rate", max_tokens=512, usual_tokens=90, logprobs=True)

Ratings = dict[
    tuple[str, int], np.ndarray
]  # (label text, feature) -> (w,) 0..1, NaN where nothing was said


def score_panels(context: Context, features: list[int], kind: str) -> Scored:
    """Two scores a feature, against random windows and against hard ones."""
    marked = kind == "fuzzing"
    panels = draw_panels(context, features)
    corpus = context.corpus
    jobs = [(text, p) for p in panels if not p.failure for text in context.texts(p.feature)]
    ratings: Ratings = {
        (t, p.feature): rate_by_rule(context.parsed[t], corpus, p, marked)
        for t, p in jobs
        if context.parsed[t] is not None
    }
    free = [(t, p) for t, p in jobs if context.parsed[t] is None]
    told = {}
    if free:
        by_llm, n_failed = rate_by_llm(context.asker, context, free, marked)
        ratings |= by_llm
        told = {
            "prompt": prompts.DETECT_PROMPT,
            "windows": sum(len(p.starts) for _, p in free),
            "windows_failed": n_failed,
        }
    own = lambda panel: ratings[context.labels[panel.feature], panel.feature]
    by_free_words = [
        p for p in panels if not p.failure and context.parsed[context.labels[p.feature]] is None
    ]
    wrong = [
        row
        for p in by_free_words
        for row in of_panel(p, own(p), YES, context.postings.firings(p.feature))
    ]
    scores, extra, failures = [], {"auroc": [], "null_auroc": []}, []
    for panel in panels:
        for name, silent in ((kind, RANDOM), (f"{kind}-hard", HARD)):
            score, area, null_area = score_one(context, panel, name, silent, ratings)
            scores.append(score)
            extra["auroc"].append(area)
            extra["null_auroc"].append(null_area)
            if score.value is None and silent == RANDOM:
                failures.append(
                    Failure("score", panel.feature, score.undefined.split(":")[0], score.undefined)
                )
    return Scored(scores, failures, extra, told, wrong)


def hard_summary(table: pd.DataFrame, live: int, seed: int, kinds: pd.Series) -> dict:
    """The summary of the scores against hard windows, and the median areas of both."""
    hard = table[table["kind"].str.endswith("-hard")]
    easy = table[~table["kind"].str.endswith("-hard")]
    found = summary(hard, [], live, seed, CHANCE, kinds)
    area = lambda t: None if t["auroc"].isna().all() else round(float(t["auroc"].median()), 4)
    kept = ("median", "low", "high", "null_median", "n", "share_above_null")
    return {
        "auroc_median": area(easy),
        "hard": {k: found[k] for k in kept} | {"auroc_median": area(hard)},
    }


def draw_panels(context: Context, features: list[int]) -> list[Panel]:
    """The panel of each feature; drawn once for both kinds."""
    missing = [f for f in features if f not in context.panels]
    if missing:
        directions = read_array(context.run.folder("train") / "directions.npy", mapped=False)
        rivals = Rivals.build(context.postings, context.examples, directions, context.seed)
        draw = partial(
            draw_panel, context.prepared().examples, rivals, context.settings.windows, context.seed
        )
        for panel in progress(
            in_workers(draw, missing, chunk=CHUNK), "panels", total=len(missing), unit="feat"
        ):
            context.panels[panel.feature] = panel
    return [context.panels[f] for f in features]


# ---------------------------------------------------------------- rating


def rate_by_rule(rule: rules.Rule, corpus: Annotations, panel: Panel, marked: bool) -> np.ndarray:
    """How surely the rule says yes (w,) of each window, or of its marked tokens: by its largest prediction there, 0 when it predicts nothing."""
    parts = (
        panel.marks
        if marked
        else [np.arange(a, b) for a, b in zip(panel.starts, panel.ends, strict=True)]
    )
    predicted = rules.predict(rule, corpus, np.concatenate(parts))
    largest = np.maximum.reduceat(predicted, np.r_[0, np.cumsum([len(p) for p in parts])[:-1]])
    return np.where(largest > 0, YES + largest * (1 - YES), 0.0)


def rate_by_llm(
    asker: Asker, context: Context, jobs: list[tuple[str, Panel]], marked: bool
) -> tuple[Ratings, int]:
    """({(text, feature): ratings}, windows without one). Windows are shuffled, so that their place tells nothing; a request whose answer leaves some out is
    made once more."""
    panels = {(text, panel.feature): panel for text, panel in jobs}
    ratings = {key: np.full(len(panel.starts), np.nan) for key, panel in panels.items()}
    left = [(key, part) for key, panel in panels.items() for part in shuffled(panel, context.seed)]
    for attempt in range(ATTEMPTS):
        questions = [
            prompts.detect_messages(
                key[0], [text_of(context, panels[key], i, marked) for i in part], marked
            )
            for key, part in left
        ]
        again = []
        for (key, part), (_, reply) in zip(
            left, asker.ask(questions, attempt, RATE) if left else (), strict=True
        ):
            found = prompts.parse_ratings(reply.text, len(part), logprob_tokens(reply))
            ratings[key][part] = np.where(np.isnan(found), ratings[key][part], found)
            if reply.raw and np.isnan(ratings[key][part]).any():
                again.append((key, part))
        left = again
    return ratings, int(sum(np.isnan(r).sum() for r in ratings.values()))


def shuffled(panel: Panel, seed: int) -> list[np.ndarray]:
    """The windows' indices in random order, in parts for one request each."""
    order = np.random.default_rng([seed, panel.feature, 4]).permutation(len(panel.starts))
    return np.array_split(order, -(-len(order) // PER_REQUEST))


def text_of(context: Context, panel: Panel, window: int, marked: bool) -> str:
    start, end = int(panel.starts[window]), int(panel.ends[window])
    texts = [context.tokens.vocabulary[i] for i in np.asarray(context.tokens.ids[start:end])]
    return prompts.marked_text(
        texts, set((panel.marks[window] - start).tolist()) if marked else set()
    )


# ---------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Separation:
    """How well ratings tell firing windows from silent ones."""

    balanced: float
    auroc: float
    low: float
    high: float
    n_documents: int  # of the side that has fewer


def tell_apart(ratings: np.ndarray, fires: np.ndarray, documents: np.ndarray) -> Separation | None:
    """Balanced accuracy, area and interval over the windows (w,) that have a rating; None when under half of those that fire, or of those
    that do not, have one. An interval counts documents, not windows, so that two windows of one document are no more than one."""
    known = ~np.isnan(ratings)
    sides = [known & fires, known & ~fires]
    if any(
        2 * side.sum() < whole.sum() or not side.any()
        for side, whole in zip(sides, (fires, ~fires), strict=True)
    ):
        return None
    hits, passes = (ratings[sides[0]] >= YES).mean(), (ratings[sides[1]] < YES).mean()
    counts = [len(set(documents[side].tolist())) for side in sides]
    low, high = balanced_interval(float(hits), counts[0], float(passes), counts[1])
    return Separation(
        float(hits + passes) / 2,
        auroc(ratings[sides[0]], ratings[sides[1]]),
        low,
        high,
        min(counts),
    )


def score_one(
    context: Context, panel: Panel, name: str, silent: int, ratings: Ratings
) -> tuple[Score, float, float]:
    """(score against the windows of sort `silent`, area under the ROC curve, the null's area); NaN areas where there are none."""
    feature, nothing = panel.feature, float("nan")
    chosen = (panel.sorts == FIRES) | (panel.sorts == silent)
    counted = int((panel.ends - panel.starts)[chosen].sum()), panel.count(FIRES)
    if panel.failure:
        return (
            undefined_score(context, name, feature, ": ".join(panel.failure), *counted),
            nothing,
            nothing,
        )
    if panel.count(silent) < LEAST:
        return (
            undefined_score(
                context,
                name,
                feature,
                f"no_rivals: {panel.count(silent)} documents where they fire and it does not",
                *counted,
            ),
            nothing,
            nothing,
        )
    by_text = lambda text: (
        tell_apart(
            ratings[text, feature][chosen], panel.sorts[chosen] == FIRES, panel.documents[chosen]
        )
        if text
        else None
    )
    told, other = by_text(context.labels[feature]), by_text(context.others[feature])
    if told is None:
        return (
            undefined_score(
                context,
                name,
                feature,
                "unparsable: no rating of over half of the windows",
                *counted,
            ),
            nothing,
            nothing,
        )
    span = (told.low, told.high) if told.n_documents >= MIN_PANEL else (None, None)
    null = None if other is None else other.balanced
    return (
        Score(feature, context.set, name, told.balanced, "", *span, null, *counted),
        told.auroc,
        nothing if other is None else other.auroc,
    )

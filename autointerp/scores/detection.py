"""Scores `detection` and `fuzzing`: can one tell from the label in which windows the feature fires?

    detection   would the feature fire somewhere in this window                  (Paulo et al. 2024)
    fuzzing     the same, with tokens marked: those on which it fires, or others

Both are asked of windows in which the feature fires against random windows in which it is silent
(rows of kind `detection`, `fuzzing`), and against windows in which a rival fires and it is silent
(`detection-hard`, `fuzzing-hard`); see `panels`. The value is the balanced accuracy: the mean of
the share of firing windows and of silent windows that are told right. `auroc` stands beside it.
"Always no" reaches 0.5 in both. `top`, `half` and `all` are the balanced accuracies with the firing
windows of the top tenth, the upper half and all of the firings, each window weighted by the firings
that it stands for; `strong` is the value of the label without its parts for weak firings.

A rule answers with its largest prediction in the window, or on the marked tokens. For other labels
an LLM rates each window from 0 to 9; from 5 on it says yes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from autointerp.examples import STRATA as QUANTILES
from autointerp.llm.probe import logprob_tokens
from autointerp.llm.replies import Reply
from autointerp.llm.session import AnswerFormat, Asker, ask_until_read
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores import prompts
from autointerp.scores.context import (
    Context,
    Scored,
    list_failures,
    round_or_none,
    summarise,
    undefined_score,
)
from autointerp.scores.mistakes import find_panel_misses
from autointerp.scores.panels import FIRES, HARD, LEAST, RANDOM, Panel, draw_panel
from autointerp.scores.rivals import Rivals
from autointerp.scores.strata import SILENT, Values
from autointerp.scores.unit import STRATA, STRATUM_COLUMNS, Miss
from autointerp.statistics import MIN_PANEL, auroc, balanced_interval
from core.parallel import map_in_workers
from core.progress import progress
from core.records import Score, Undefined
from core.training.unit import read_directions

CHANCE = 0.5
YES = 0.5  # a mean rating of at least this says that the feature fires
PER_REQUEST = 15  # windows
CHUNK = 16  # features handed to a worker at a time
RATE = AnswerFormat("rate", max_tokens=512, usual_tokens=90, logprobs=True)
NAN = float("nan")

# (label text, feature) -> ratings (w,) of its panel's windows, 0 to 1, NaN where there is none
Ratings = dict[tuple[str, int], np.ndarray]
Row = tuple[Score, Values]  # score, values of COLUMNS
COLUMNS = ("auroc", "null_auroc", *STRATUM_COLUMNS, "strong")


def score_panels(context: Context, features: list[int], kind: str) -> Scored:
    """Score each feature against random windows and against hard windows: two rows a feature."""
    marked = kind == "fuzzing"
    panels = draw_panels(context, features)
    ratings, info = rate_panels(context, panels, marked)
    rows: list[Row] = []
    against_random: list[Score] = []
    for panel in panels:
        rows.append(score_one(context, panel, kind, RANDOM, ratings))
        against_random.append(rows[-1][0])
        rows.append(score_one(context, panel, f"{kind}-hard", HARD, ratings))
    columns = {name: [values.get(name, NAN) for _, values in rows] for name in COLUMNS}
    failures = list_failures(against_random)
    misses = _list_misses(context, panels, ratings)
    return Scored([row[0] for row in rows], failures, columns, info, misses)


def hard_summary(table: pd.DataFrame, alive: int, seed: int, kinds: pd.Series) -> dict[str, Any]:
    """Return the key figures of the scores against hard windows, and the median areas of both.

    The arguments are those of `summarise`; `table` holds the rows of both kinds.
    """
    is_hard = table["kind"].str.endswith("-hard")
    figures = summarise(table[is_hard], [], alive, seed, CHANCE, kinds)
    kept = ("median", "low", "high", "null_median", "n", "share_above_null")
    hard = {name: figures[name] for name in kept}
    return {
        "auroc_median": _median_area(table[~is_hard]),
        "hard": hard | {"auroc_median": _median_area(table[is_hard])},
    }


def _median_area(table: pd.DataFrame) -> float | None:
    return round_or_none(float(table["auroc"].median()))


def draw_panels(context: Context, features: list[int]) -> list[Panel]:
    """Return the panel of each feature; panels are drawn once and kept in the context."""
    missing = [f for f in features if f not in context.panels]
    if missing:
        directions = read_directions(context.run, mapped=False)
        rivals = Rivals.build(context.postings, context.examples, directions, context.seed)
        examples, windows = context.prepare().examples, context.effort.windows
        draw = partial(draw_panel, examples, rivals, windows, context.seed)
        drawn = map_in_workers(draw, missing, context.engine, CHUNK)
        for panel in progress(drawn, "panels", total=len(missing), unit="feat"):
            context.panels[panel.feature] = panel
    return [context.panels[f] for f in features]


# ---------------------------------------------------------------- rating


def rate_panels(
    context: Context, panels: list[Panel], marked: bool
) -> tuple[Ratings, dict[str, Any]]:
    """Rate all panels by the label and the null label of their features.

    Returns (ratings, entries for the manifest's summary). Rules rate by themselves; the other
    labels are rated by the LLM, all in one batch.
    """
    jobs = [(text, p) for p in panels if not p.undefined for text in context.texts(p.feature)]
    ratings: Ratings = {}
    free = []
    for text, panel in jobs:
        rule = context.rule_of[text]
        if rule is None:
            free.append((text, panel))
        else:
            rated = rate_by_rule(rule, context.annotations, panel, marked)
            ratings[text, panel.feature] = rated
    if not free:
        return ratings, {}
    assert context.asker is not None, "score opens a session where labels are in free words"
    by_llm = rate_by_llm(context.asker, context, free, marked)
    info = {
        "prompt": prompts.DETECT_PROMPT,
        "windows": sum(len(p.starts) for _, p in free),
        "windows_failed": int(sum(np.isnan(r).sum() for r in by_llm.values())),
    }
    return ratings | by_llm, info


def rate_by_rule(
    rule: rules.Rule, annotations: Annotations, panel: Panel, marked: bool
) -> np.ndarray:
    """Return a rating (w,) of each window by the rule's largest prediction there.

    `marked` looks at the marked tokens alone. Any prediction is a yes; none is 0.
    """
    bounds = zip(panel.starts, panel.ends, strict=True)
    parts = panel.marks if marked else [np.arange(start, end) for start, end in bounds]
    predicted = rules.predict(rule, annotations, np.concatenate(parts))
    firsts = np.r_[0, np.cumsum([len(p) for p in parts])[:-1]]
    largest = np.maximum.reduceat(predicted, firsts)
    return np.where(largest > 0, YES + largest * (1 - YES), 0.0)


def rate_by_llm(
    asker: Asker, context: Context, jobs: list[tuple[str, Panel]], marked: bool
) -> Ratings:
    """Return the LLM's ratings of each panel by a label text.

    Windows are shown in random order, so that their place tells nothing. A request whose answer
    leaves some of its windows out is made once more.
    """
    panels = {(text, panel.feature): panel for text, panel in jobs}
    parts = [
        (key, windows)
        for key, panel in panels.items()
        for windows in shuffle_windows(panel, context.seed)
    ]

    def read(number: int, reply: Reply) -> np.ndarray:
        return prompts.parse_ratings(reply.text, len(parts[number][1]), logprob_tokens(reply))

    questions = {}
    for number, (key, windows) in enumerate(parts):
        texts = [write_window(context, panels[key], i, marked) for i in windows]
        questions[number] = prompts.detect_messages(key[0], texts, marked)
    ask = partial(asker.ask, form=RATE)
    answers = ask_until_read(questions, read, ask, _merge_ratings, _all_rated)
    ratings = {key: np.full(len(panel.starts), np.nan) for key, panel in panels.items()}
    for number, rated in answers.values.items():
        key, windows = parts[number]
        ratings[key][windows] = rated
    return ratings


def _merge_ratings(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(new), old, new)


def _all_rated(ratings: np.ndarray) -> bool:
    return not np.isnan(ratings).any()


def shuffle_windows(panel: Panel, seed: int) -> list[np.ndarray]:
    """Return the indices of the windows in random order, in parts for one request each."""
    order = np.random.default_rng([seed, panel.feature, 4]).permutation(len(panel.starts))
    return np.array_split(order, -(-len(order) // PER_REQUEST))


def write_window(context: Context, panel: Panel, window: int, marked: bool) -> str:
    """Return the text of one window as the prompt shows it."""
    start, end = int(panel.starts[window]), int(panel.ends[window])
    texts = list(context.tokens.spell(start, end))
    marks = set((panel.marks[window] - start).tolist()) if marked else set()
    return prompts.marked_text(texts, marks)


# ---------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Separation:
    """How well ratings separate firing windows from silent ones."""

    balanced: float  # balanced accuracy
    auroc: float
    low: float  # 95 % interval of `balanced`
    high: float
    n_documents: int  # of the side that has fewer


def measure_separation(
    ratings: np.ndarray, fires: np.ndarray, documents: np.ndarray
) -> Separation | None:
    """Measure how well ratings (w,) separate the windows `fires` (w,) from the others.

    None when fewer than half of the windows of either side have a rating. The interval counts
    `documents` (w,), so that two windows of one document count no more than one.
    """
    known = ~np.isnan(ratings)
    rated = [known & fires, known & ~fires]
    for side, whole in zip(rated, (fires, ~fires), strict=True):
        if 2 * side.sum() < whole.sum() or not side.any():
            return None
    hits, passes = (ratings[rated[0]] >= YES).mean(), (ratings[rated[1]] < YES).mean()
    counts = [len(set(documents[side].tolist())) for side in rated]
    low, high = balanced_interval(float(hits), counts[0], float(passes), counts[1])
    area = auroc(ratings[rated[0]], ratings[rated[1]])
    return Separation(float(hits + passes) / 2, area, low, high, min(counts))


def separate_strata(ratings: np.ndarray, quantiles: np.ndarray, documents: np.ndarray) -> Values:
    """Return the balanced accuracy by stratum of the firing windows (w,), with intervals.

    Each firing window stands for the firings of its fifth (see `examples`), so that rare strong
    ones do not count more than the index says. `quantiles` are those of a Panel. Empty where the
    windows without a rating leave nothing to compare.
    """
    known = ~np.isnan(ratings)
    silent = known & (quantiles == SILENT)
    weights = weigh_windows(np.where(known, quantiles, SILENT))
    out: Values = {}
    if not silent.any():
        return out
    passes, n_silent = float((ratings[silent] < YES).mean()), len(set(documents[silent].tolist()))
    for name, least in STRATA.items():
        inside = weights * (quantiles >= least)
        if inside.sum() <= 0:
            continue
        hits = float(np.average(ratings >= YES, weights=inside))
        n_documents = len(set(documents[inside > 0].tolist()))
        counted = min(n_documents, inside.sum() ** 2 / (inside @ inside))
        out[name] = (hits + passes) / 2
        if min(n_documents, n_silent) >= LEAST:
            span = balanced_interval(hits, counted, passes, n_silent)
            out[f"low_{name}"], out[f"high_{name}"] = span
    return out


def weigh_windows(quantiles: np.ndarray) -> np.ndarray:
    """Return for each window (w,) the share of the firings that it stands for; 0 for silent ones.

    The windows of one fifth of the firings share what the fifth holds.
    """
    weights = np.zeros(len(quantiles))
    for _, low, high in QUANTILES:
        inside = (quantiles >= low) & (quantiles < high)
        weights[inside] = (high - low) / max(1, int(inside.sum()))
    return weights


def score_one(context: Context, panel: Panel, name: str, silent: int, ratings: Ratings) -> Row:
    """Return the score, of kind `name`, against the windows of sort `silent`, and more columns.

    The areas under the ROC curve are those of the label and of the null label.
    """
    feature, label_set = panel.feature, context.label_set
    used = (panel.sorts == FIRES) | (panel.sorts == silent)
    n_tokens, n_documents = int((panel.ends - panel.starts)[used].sum()), panel.count(FIRES)
    fires, documents = panel.sorts[used] == FIRES, panel.documents[used]

    def separation_by(text: str) -> Separation | None:
        if not text:
            return None
        return measure_separation(ratings[text, feature][used], fires, documents)

    undefined, own = _why_undefined(panel, silent), None
    if undefined is None:
        own = separation_by(context.labels[feature])
    if own is None:
        undefined = undefined or Undefined("unparsable", "no rating of over half of the windows")
        score = undefined_score(context, name, feature, undefined, n_tokens, n_documents)
        return score, {}
    null_text = context.others[feature]
    other, strong = separation_by(null_text), separation_by(context.strong(feature))
    quantiles = panel.quantiles[used]
    values = separate_strata(ratings[context.labels[feature], feature][used], quantiles, documents)
    if null_text:
        of_null = separate_strata(ratings[null_text, feature][used], quantiles, documents)
        values |= {f"null_{stratum}": of_null[stratum] for stratum in STRATA if stratum in of_null}
    values |= {"auroc": own.auroc} | ({"null_auroc": other.auroc} if other else {})
    values |= {"strong": strong.balanced} if strong else {}
    low, high = (own.low, own.high) if own.n_documents >= MIN_PANEL else (None, None)
    null = other.balanced if other else None
    score = Score(
        feature, label_set, name, own.balanced, None, low, high, null, n_tokens, n_documents
    )
    return score, values


def _why_undefined(panel: Panel, silent: int) -> Undefined | None:
    """Return why the panel has no score against the windows of sort `silent`, or None."""
    if panel.undefined is None and panel.count(silent) < LEAST:
        reason = f"{panel.count(silent)} documents where they fire and it does not"
        return Undefined("no_rivals", reason)
    return panel.undefined


def _list_misses(context: Context, panels: list[Panel], ratings: Ratings) -> list[Miss]:
    """Return the mistakes of the labels in free words."""
    out: list[Miss] = []
    for panel in panels:
        if panel.undefined is None and context.is_free(panel.feature):
            own = ratings[context.labels[panel.feature], panel.feature]
            firings = context.postings.firings(panel.feature)
            out += find_panel_misses(panel, own, YES, firings)
    return out

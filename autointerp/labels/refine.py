"""Refine labels: a label meets its own mistakes on the val split, may be rewritten, and the better
of the two stays.

Revising an explanation with counterexamples is the idea of Bills et al. (2023, "Language models can
explain neurons in language models", section on revisions). Here the counterexamples are windows of
val: those in which the feature fires and the label, as a rater reads it, does not say so, and those
in which it is silent and the label says that it fires. One half of the windows gives the mistakes
that are shown, the other half decides which label is better, so that a label that only learnt its
mistakes by heart does not win. No window is of the test split.

A round asks at most three questions a label: rate the label, rewrite it, rate the new one. Answers
that are kept are not asked for again, and a label without a mistake asks for nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from autointerp.evidence import Evidence
from autointerp.labels import prompt as prompts
from autointerp.llm.probe import logprob_tokens
from autointerp.llm.replies import Reply
from autointerp.llm.session import AnswerFormat, Asker, Unread, ask_until_read
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.scores.detection import RATE, YES
from autointerp.scores.prompts import detect_messages, marked_text, parse_ratings
from core.records import Label, Snippet

FIRING = {"top": 4, "strata": 2}  # windows of val in which the feature fires
SILENT = {"near_miss": 3, "random": 16}  # windows in which it does not
MISTAKES = 4  # of each kind that are shown
LEAST = 3  # windows of each kind in a half; with fewer a label stays as it is
REVISED = AnswerFormat("refine", max_tokens=1024, usual_tokens=35, schema=prompts.LABEL_SCHEMA)
REVISE = (
    "Your label was tried on other texts. {lines}\nWrite a better label: it must hold for what was "
    "missed and for what was right, and not for the false alarms; or repeat it. What weak firings "
    "alone share may stand at its end, after `weak:`. Answer with the same JSON."
)


@dataclass(frozen=True)
class Trial:
    """Windows of val for one feature; every second one of each kind decides."""

    windows: list[Snippet]
    fires: np.ndarray  # (w,) bool
    decides: np.ndarray  # (w,) bool; the mistakes in the others are shown

    @classmethod
    def draw(cls, evidence: Evidence, feature: int) -> Trial:
        """Draw the windows of one feature, the same whenever they are drawn."""
        rng = np.random.default_rng([evidence.run.settings.seed, feature, 11])
        drawn = evidence.examples.snippets(feature, "val", FIRING | SILENT, rng)
        distinct = list({snippet.tokens: snippet for snippet in drawn}.values())
        fires = np.array([max(s.activations, default=0.0) > 0 for s in distinct], bool)
        decides = np.zeros(len(distinct), bool)
        for kind in (fires, ~fires):
            decides[np.flatnonzero(kind)[1::2]] = True
        return cls(distinct, fires, decides)

    @property
    def is_enough(self) -> bool:
        """Whether both halves hold windows of both kinds."""
        sides = [f & d for f in (self.fires, ~self.fires) for d in (self.decides, ~self.decides)]
        return min(int(side.sum()) for side in sides) >= LEAST

    def accuracy(self, ratings: np.ndarray) -> float:
        """The balanced accuracy of ratings (w,) on the windows that decide; 0 without ratings."""
        sides = []
        for fires in (True, False):
            inside = self.decides & (self.fires == fires) & ~np.isnan(ratings)
            if not inside.any():
                return 0.0
            sides.append(float(((ratings[inside] >= YES) == fires).mean()))
        return sum(sides) / 2

    def mistakes(self, ratings: np.ndarray) -> tuple[list[int], list[int], list[int]]:
        """(missed, false alarms, right firings), of the windows that are shown, worst first."""
        shown = np.flatnonzero(~self.decides & ~np.isnan(ratings))
        strength = np.array([max(s.activations, default=0.0) for s in self.windows])
        by_strength = shown[np.argsort(-strength[shown], kind="stable")].tolist()
        missed = [i for i in by_strength if self.fires[i] and ratings[i] < YES]
        right = [i for i in by_strength if self.fires[i] and ratings[i] >= YES]
        alarms = [i for i in shown.tolist() if not self.fires[i] and ratings[i] >= YES]
        alarms.sort(key=lambda i: -ratings[i])
        return missed[:MISTAKES], alarms[:MISTAKES], right[:MISTAKES]


def refine(
    evidence: Evidence,
    questions: Mapping[int, list[dict]],
    labels: list[Label],
    asker: Asker,
    rounds: int,
) -> tuple[list[Label], dict[str, Any]]:
    """Refine labels in so many rounds; returns (labels, entries for the manifest's summary).

    `questions` are the conversations that the labels answered, by feature.
    """
    trials = {label.feature: Trial.draw(evidence, label.feature) for label in labels}
    current = {label.feature: label for label in labels}
    first = rate_labels(asker, current, trials)
    ratings = dict(first)
    changed: set[int] = set()
    for _ in range(rounds):
        asked = {
            f: revise_messages(questions[f], current[f], trials[f], ratings[f])
            for f in current
            if f in ratings and any(trials[f].mistakes(ratings[f])[:2])
        }
        written = ask_until_read(asked, _read_revision, partial(asker.ask, form=REVISED))
        tried = {
            f: replace(current[f], text=text, confidence=covers, reply_key=written.reply_keys[f])
            for f, (text, covers) in written.values.items()
            if text != current[f].text
        }
        rated = rate_labels(asker, tried, trials)
        for f, found in rated.items():
            if trials[f].accuracy(found) > trials[f].accuracy(ratings[f]):
                current[f], ratings[f] = tried[f], found
                changed.add(f)
    return [current[label.feature] for label in labels], {
        "refined": len(changed),
        "val_accuracy": _mean_accuracy(trials, first),
        "val_accuracy_refined": _mean_accuracy(trials, ratings),
    }


def _mean_accuracy(trials: dict[int, Trial], ratings: dict[int, np.ndarray]) -> float | None:
    values = [trials[f].accuracy(found) for f, found in ratings.items()]
    return round(float(np.mean(values)), 4) if values else None


def count_requests(n_labels: int, rounds: int) -> str:
    """What refining asks for at most, in words."""
    most = n_labels * (1 + 2 * rounds)
    return f"refine: at most {most:,} further requests, {1 + 2 * rounds} a label"


def _read_revision(_: int, reply: Reply) -> tuple[str, float] | Unread:
    read = reply.error or prompts.parse_label(reply.text)
    return Unread(read) if isinstance(read, str) else read


def revise_messages(
    question: list[dict], label: Label, trial: Trial, ratings: np.ndarray
) -> list[dict]:
    """The conversation that led to a label, and its mistakes."""
    said = json.dumps({"label": label.text, "covers": label.confidence}, ensure_ascii=False)
    headings = ("It fires, and the label misses it:", "It is silent, and the label says it fires:",
                "It fires, and the label says so:")  # fmt: skip
    lines = []
    for heading, places in zip(headings, trial.mistakes(ratings), strict=True):
        if places:
            lines += [heading, *(_marked(trial.windows[i]) for i in places)]
    asked = REVISE.replace("{lines}", "\n".join(lines))
    return [
        *question,
        {"role": "assistant", "content": said},
        {"role": "user", "content": asked},
    ]


def _marked(snippet: Snippet) -> str:
    """A window with the tokens between << and >> on which the feature fires at all."""
    marks = {i for i, activation in enumerate(snippet.activations) if activation > 0}
    return marked_text(list(snippet.tokens), marks)


# ---------------------------------------------------------------- rating


def rate_labels(
    asker: Asker, labels: Mapping[int, Label], trials: Mapping[int, Trial]
) -> dict[int, np.ndarray]:
    """Ratings (w,), 0 to 1, of each label's windows; rules rate by themselves.

    Features with too few windows, and labels that nobody could rate, have no entry.
    """
    able = {f: label for f, label in labels.items() if trials[f].is_enough}
    ratings = {
        f: rate_by_rule(rule, trials[f])
        for f, label in able.items()
        if (rule := rules.read_rule(label.text)) is not None
    }
    asked = {
        f: detect_messages(
            label.text, [marked_text(list(s.tokens), set()) for s in trials[f].windows], False
        )
        for f, label in able.items()
        if f not in ratings
    }

    def read(feature: int, reply: Reply) -> np.ndarray | Unread:
        count = len(trials[feature].windows)
        found = parse_ratings(reply.text, count, logprob_tokens(reply))
        return Unread("unparsable") if np.isnan(found).all() else found

    return ratings | ask_until_read(asked, read, partial(asker.ask, form=RATE)).values


def rate_by_rule(rule: rules.Rule, trial: Trial) -> np.ndarray:
    """1 for each window in which the rule predicts anything, else 0."""
    rated = []
    for snippet in trial.windows:
        annotations = Annotations.from_text(list(snippet.tokens))
        predicted = rules.predict(rule, annotations, np.arange(len(annotations)))
        rated.append(float(predicted.max(initial=0.0) > 0))
    return np.array(rated)

"""Score `generation`: do texts written from the label make the feature fire more than other texts?

The input side of Gur-Arieh et al. 2025. An LLM writes texts from the label, and the live subject
reads them. The value is the area under the ROC curve of maximal activations: the share of pairs of
a text written from the label and a text written from another label of the set in which the
feature's own text has the larger maximum, ties counted half. A label that makes no difference
reaches 0.5. The column `success` is the original paper's criterion: a larger mean over the
feature's own texts, so that a tie at 0 fails. The null is the value for the texts of another
feature's label. At least two labels must have been written from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from autointerp.llm.messages import last_object
from autointerp.llm.repair import note_repair
from autointerp.llm.session import AnswerFormat, Unread, ask_until_read, read_whole
from autointerp.scores.context import Context, Scored, list_failures, undefined_score
from autointerp.scores.prompts import GENERATE_PROMPT, generate_messages
from autointerp.statistics import auroc
from core.errors import UsageError
from core.records import Score, Undefined

KIND = "generation"
CHANCE = 0.5
TEXTS = 5  # asked for, from each label
NAN = float("nan")
WRITE = AnswerFormat(
    "write",
    max_tokens=1024,
    usual_tokens=200,
    schema={
        "type": "object",
        "properties": {"texts": {"type": "array", "items": {"type": "string"}}},
        "required": ["texts"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True)
class Reading:
    """The texts (t,) that were written from labels, as the subject reads them."""

    maxima: np.ndarray  # (t, F) largest activation of every feature in each text, SAE units
    owner: np.ndarray  # (t,) the feature from whose label a text was written
    writer: dict[str, int]  # label text -> the last feature from whose label texts were written


def score_generation(context: Context, features: list[int]) -> Scored:
    """Score the labels of `features`; raises UsageError without an LLM."""
    if context.asker is None or context.live is None:
        raise UsageError(
            "Texts can only be written by an LLM.", f"Name one: --kind {KIND} --llm-url URL"
        )
    questions = {f: generate_messages(context.labels[f], TEXTS) for f in features}
    ask = partial(context.asker.ask, form=WRITE)
    answers = ask_until_read(questions, read_whole(parse_texts), ask)
    written = dict(sorted(answers.values.items()))
    every = [text for texts in written.values() for text in texts]
    maxima = context.live.maxima(every) if every else np.zeros((0, context.postings.n_features))
    owner = np.repeat(np.array(list(written), np.int64), [len(t) for t in written.values()])
    reading = Reading(maxima, owner, {context.labels[f]: f for f in written})
    scores, success = [], []
    for feature in features:
        score, is_success = score_one(context, feature, reading, answers.failures)
        scores.append(score)
        success.append(is_success)
    share = round(float(np.nansum(success)) / max(1, len(features)), 4)
    info = {"prompt": GENERATE_PROMPT, "success": share}
    return Scored(scores, list_failures(scores), {"success": success}, info)


def parse_texts(text: str | None) -> list[str] | None:
    """Return the texts of an answer, at most TEXTS; None when it holds none."""
    texts = (last_object(text, "texts") or {}).get("texts")
    if isinstance(texts, str):
        note_repair()
        texts = [texts]
    if isinstance(texts, dict):
        note_repair()
        texts = list(texts.values())
    if not isinstance(texts, list):
        return None
    texts = [t.get("text") if isinstance(t, dict) else t for t in texts]
    return [t for t in texts if isinstance(t, str) and t.strip()][:TEXTS] or None


def score_one(
    context: Context, feature: int, reading: Reading, failures: Mapping[int, Unread]
) -> tuple[Score, float]:
    """Return (score, whether the mean over the feature's own texts is larger); NaN if undefined."""
    if feature in failures:
        undefined = Undefined(failures[feature].kind, "no texts could be read")
        return undefined_score(context, KIND, feature, undefined), NAN
    maxima, owner = reading.maxima[:, feature], reading.owner
    own, others = maxima[owner == feature], maxima[owner != feature]
    if not len(others):
        undefined = Undefined("no_neutral", "no other label was written from")
        return undefined_score(context, KIND, feature, undefined), NAN
    partner = reading.writer.get(context.others[feature])
    null = None
    if partner not in (None, feature):
        by_null, rest = owner == partner, (owner != partner) & (owner != feature)
        area = auroc(maxima[by_null], maxima[rest])
        null = None if np.isnan(area) else area
    value, name = auroc(own, others), context.label_set
    score = Score(feature, name, KIND, value, None, None, None, null, len(own), 0)
    return score, float(own.mean() > others.mean())

"""Kind `generation`: do texts written from the label make the feature fire more than other texts do?

An LLM writes texts from the label (Gur-Arieh et al. 2025, the input side); the live subject reads them. The value is the share of pairs, one text written
from the label and one written from another label of the set, in which the own text has the larger maximal activation, ties counted half: .5
for a label that makes no difference. `success` is the originals' criterion, a larger mean over own texts, and a tie at 0 fails. The null is the same for the
texts of another feature's label. At least two labels must have been written from.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from autointerp.llm.messages import final_part, json_at
from autointerp.llm.session import AnswerFormat, asked_twice
from autointerp.scores.context import Context, Scored, undefined_score
from autointerp.scores.prompts import GENERATE_PROMPT, generate_messages
from autointerp.statistics import auroc
from core.errors import UsageError
from core.records import Failure, Score

KIND = "generation"
CHANCE = 0.5
TEXTS = 5
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


def score_generation(context: Context, features: list[int]) -> Scored:
    if context.asker is None or context.live is None:
        raise UsageError(
            "Texts can only be written by an LLM.", "Name one: --kind generation --llm-url URL"
        )
    questions = {f: generate_messages(context.labels[f], TEXTS) for f in features}
    written, failed = asked_twice(questions, parse_texts, partial(context.asker.ask, form=WRITE))
    written = dict(sorted(written.items()))
    every = [text for texts in written.values() for text in texts]
    maxima = context.live.maxima(every) if every else np.zeros((0, context.postings.n_features))
    owner = np.repeat(np.array(list(written), np.int64), [len(t) for t in written.values()])
    by_text = {
        context.labels[f]: f for f in written
    }  # a null was written from, when its own feature was asked about
    scores, success = [], []
    for feature in features:
        score, better = score_one(context, feature, maxima[:, feature], owner, by_text, failed)
        scores.append(score)
        success.append(better)
    failures = [
        Failure("score", s.feature, s.undefined.split(":")[0], s.undefined)
        for s in scores
        if s.value is None
    ]
    told = {
        "prompt": GENERATE_PROMPT,
        "success": round(float(np.nansum(success)) / max(1, len(features)), 4),
    }
    return Scored(scores, failures, {"success": success}, told)


def parse_texts(text: str | None) -> list[str] | None:
    """The texts of an answer, at most TEXTS; None when it holds none."""
    part = final_part(text or "") or ""
    for found in re.finditer(r"\{", part):
        value = json_at(part, found.start())
        if isinstance(value, dict) and isinstance(value.get("texts"), list):
            return [t for t in value["texts"] if isinstance(t, str) and t.strip()][:TEXTS] or None
    return None


def score_one(
    context: Context,
    feature: int,
    maxima: np.ndarray,
    owner: np.ndarray,
    by_text: dict[str, int],
    failed: dict[int, tuple[str, str]],
) -> tuple[Score, float]:
    """(score, whether the own texts' mean is larger) from the feature's maximal activation (texts,) in every text."""
    if feature in failed:
        return undefined_score(
            context, KIND, feature, f"{failed[feature][0]}: no texts could be read"
        ), float("nan")
    own, others = maxima[owner == feature], maxima[owner != feature]
    if not len(others):
        return undefined_score(
            context, KIND, feature, "no_neutral: no other label was written from"
        ), float("nan")
    partner = by_text.get(context.others[feature])
    null = (
        auroc(maxima[owner == partner], maxima[(owner != partner) & (owner != feature)])
        if partner not in (None, feature)
        else float("nan")
    )
    score = Score(
        feature,
        context.set,
        KIND,
        auroc(own, others),
        "",
        None,
        None,
        None if np.isnan(null) else null,
        len(own),
        0,
    )
    return score, float(own.mean() > others.mean())

"""Kind `effect`: does the label name what the feature promotes?

From the `effects` stage: by how much each token's log-probability changes, behind neutral prefixes, when the feature is clamped. The score is
the share of all other tokens of the corpus whose change is below that of the tokens that the label names (the area under the ROC curve, .5 for a label
that names tokens at random). What a label names: the quoted words of a rule, those of its fields too, or the words of a text. Its null is another feature's label under the
same clamp. A label that names no token, such as one of shapes alone, has no effect score: it is silent on outputs.

What a feature fires on and what it promotes are different things; a label of the first kind may well score .5 here.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from autointerp.rules import language as rules
from autointerp.rules.terms import LITERAL, Terms
from autointerp.scores.context import Context, Scored, undefined_score
from autointerp.statistics import auroc
from core.errors import NotReady
from core.files import read_array
from core.records import Failure, Score
from core.text.word_tree import lexeme

KIND = "effect"
CHANCE = 0.5
WORD = re.compile(r"[^\W\d_]{3,}")


def score_effect(context: Context, features: list[int]) -> Scored:
    path = context.run.folder("effects") / "clamped.npy"
    if not path.exists():
        raise NotReady(
            "The effects of clamps are not known.",
            f"Run: python main.py effects {context.run.name} --redo",
        )
    changes = read_array(path)
    used = np.flatnonzero(context.postings.token_counts[: changes.shape[1]])
    known: dict[str, list[int]] = defaultdict(list)
    for token in used.tolist():
        known[lexeme(context.tokens.vocabulary[token])].append(token)
    scores = [
        score_one(context, np.asarray(changes[f], np.float32), used, known, f) for f in features
    ]
    return Scored(
        scores,
        [
            Failure("score", s.feature, s.undefined.split(":")[0], s.undefined)
            for s in scores
            if s.value is None
        ],
    )


def score_one(
    context: Context,
    change: np.ndarray,
    used: np.ndarray,
    known: dict[str, list[int]],
    feature: int,
) -> Score:
    value, other = (
        auroc_of_tokens(change, used, tokens_named(text, context.parsed[text], known))
        for text in (context.labels[feature], context.others[feature])
    )
    if np.isnan(value):
        return undefined_score(
            context,
            KIND,
            feature,
            "names_no_token: the label names no token of the corpus",
            len(used),
        )
    return Score(
        feature,
        context.set,
        KIND,
        value,
        "",
        None,
        None,
        None if np.isnan(other) else other,
        len(used),
        0,
    )


def auroc_of_tokens(change: np.ndarray, used: np.ndarray, tokens: list[int]) -> float:
    """How far the tokens' changes lie above those of the other used tokens: 0.5 is no more than any; NaN without tokens."""
    others = np.zeros(len(change), bool)
    others[used] = True
    others[tokens] = False
    return auroc(change[tokens], change[others])


def tokens_named(text: str, rule: rules.Rule | None, known: dict[str, list[int]]) -> list[int]:
    """Ids of the tokens that a label names, whatever it says of them."""
    if rule is not None:
        words = [
            literal
            for predicate in rule.predicates
            for terms in parts(predicate)
            for literal in words_of(terms)
        ]
    else:
        quoted = [found[1:-1] for found in LITERAL.findall(text)]
        words = quoted or [
            form for word in WORD.findall(text) for form in {word, word.lower(), word.capitalize()}
        ]
    return sorted({token for word in words for token in known.get(word, ())})


def parts(predicate: rules.Predicate) -> list[Terms]:
    return [terms for _, terms in rules.slots(predicate)] + (
        [predicate.within[1]] if predicate.within else []
    )


def words_of(terms: Terms) -> list[str]:
    """The words that terms name: quoted ones, and those that stand for a field."""
    return [*terms.literals, *(word for field in terms.fields for word in field)]

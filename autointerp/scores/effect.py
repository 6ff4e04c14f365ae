"""Score `effect`: does the label name tokens that the feature promotes?

The `effects` stage measures by how much the log-probability of each token changes, after neutral
prefixes, when the feature is clamped. The score is the area under the ROC curve: the share of pairs
of a token that the label names and another token of the corpus in which the named token has the
larger change. 0.5 is the value of a label that names tokens at random. A rule names its quoted
words and the words of its groups; a text in free words names its words. The null is another
feature's label under the same clamp. A label that names no token, such as one of shapes alone, has
no score.

What a feature fires on and what it promotes are different things: a label that is right about where
the feature fires may well score 0.5 here.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from autointerp.rules import language as rules
from autointerp.rules.terms import LITERAL, Terms
from autointerp.scores.context import Context, Scored, list_failures, undefined_score
from autointerp.statistics import auroc
from core.effects.unit import read_changes
from core.errors import NotReady
from core.records import Score, Undefined
from core.text.word_tree import lexeme

KIND = "effect"
CHANCE = 0.5
WORD = re.compile(r"[^\W\d_]{3,}")


def score_effect(context: Context, features: list[int]) -> Scored:
    """Score the labels of `features`; raises NotReady when no clamp was measured."""
    changes = read_changes(context.run)  # (F, V) change of log-probability
    if changes is None:
        raise NotReady(
            "The effects of clamps are not known.",
            f"Run: python main.py effects {context.run.name} --redo",
        )
    used = np.flatnonzero(context.postings.token_counts[: changes.shape[1]])
    tokens_of: dict[str, list[int]] = defaultdict(list)
    for token in used.tolist():
        tokens_of[lexeme(context.tokens.vocabulary[token])].append(token)
    scores = [
        score_one(context, np.asarray(changes[f], np.float32), used, tokens_of, f) for f in features
    ]
    return Scored(scores, list_failures(scores))


def score_one(
    context: Context,
    change: np.ndarray,
    used: np.ndarray,
    tokens_of: dict[str, list[int]],
    feature: int,
) -> Score:
    """Score one label from the changes (V,) of log-probabilities under the feature's clamp.

    `used` are the tokens (u,) that stand in the corpus, `tokens_of` the used tokens of each lexeme.
    """
    value, null = (
        auroc_of_tokens(change, used, find_named_tokens(text, context.rule_of[text], tokens_of))
        for text in (context.labels[feature], context.others[feature])
    )
    if np.isnan(value):
        undefined = Undefined("names_no_token", "the label names no token of the corpus")
        return undefined_score(context, KIND, feature, undefined, len(used))
    null_or_none = None if np.isnan(null) else null
    name = context.label_set
    return Score(feature, name, KIND, value, None, None, None, null_or_none, len(used), 0)


def auroc_of_tokens(change: np.ndarray, used: np.ndarray, tokens: list[int]) -> float:
    """Return how far the changes of `tokens` lie above those of the other used tokens.

    0.5 is no difference; NaN without tokens.
    """
    others = np.zeros(len(change), bool)
    others[used] = True
    others[tokens] = False
    return auroc(change[tokens], change[others])


def find_named_tokens(
    text: str, rule: rules.Rule | None, tokens_of: dict[str, list[int]]
) -> list[int]:
    """Return the tokens that a label names, whatever it says of them, ascending."""
    words: list[str] = []
    if rule is not None:
        for predicate in rule.predicates:
            for terms in list_terms(predicate):
                words += list_words(terms)
    else:
        words = [literal[1:-1] for literal in LITERAL.findall(text)]
        if not words:
            for word in WORD.findall(text):
                words += {word, word.lower(), word.capitalize()}
    return sorted({token for word in words for token in tokens_of.get(word, ())})


def list_terms(predicate: rules.Predicate) -> list[Terms]:
    """Return the terms of a predicate, those of its `within` too."""
    terms = [terms for _, terms in rules.slots(predicate)]
    return [*terms, predicate.within[1]] if predicate.within else terms


def list_words(terms: Terms) -> list[str]:
    """Return the words that terms name: the quoted ones, and those that stand for a group."""
    return [*terms.literals, *(word for words in terms.similar for word in words)]

"""Where a label fails on documents that its labeller never saw: strong firings that it does not predict, and tokens it predicts in vain.

A label in the language of rules predicts by itself. What an LLM predicted from a label in free words was looked at when it was scored, and its worst
mistakes were kept (`misses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from autointerp import rules
from autointerp.contexts import Corpus
from autointerp.examples import Examples, ascending
from autointerp.postings import lookup
from core.records import Snippet

STRONGEST = 400  # firings among which missed ones are sought
SAMPLE, PLACES = 5_000, 500  # tokens anywhere, and places of the feature's own token, among which false alarms are sought


class Failing:
    """Finds them for one feature after another; the corpus that rules are matched on is built once."""

    def __init__(self, examples: Examples, seed: int):
        self.examples, self.seed = examples, seed

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus.from_tokens(self.examples.tokens)

    @cached_property
    def sample(self) -> np.ndarray:
        pool = self.examples.pool("score")
        return np.sort(np.random.default_rng(self.seed).choice(pool, min(SAMPLE, len(pool)), replace=False))

    def prepare(self) -> None:
        """Make what all features share."""
        self.corpus, self.sample  # noqa: B018 - made once

    def snippets(self, feature: int, firings: tuple[np.ndarray, np.ndarray], text: str, count: int, kept: Sequence[dict] = ()) -> list[Snippet]:
        """At most `count` snippets of each of the strata `missed` (strongest first) and `false_alarm`; of a label that is no rule those of `kept`, rows
        with ordinal and stratum, worst first."""
        rule = rules.read_rule(text)
        if rule is None:
            missed, alarms = ([row["ordinal"] for row in kept if row["stratum"] == stratum][:count] for stratum in ("missed", "false_alarm"))
        else:
            missed, alarms = self._missed(rule, firings, count), self._false_alarms(rule, feature, firings, count)
        strata = ["missed"] * len(missed) + ["false_alarm"] * len(alarms)
        return self.examples.cut(feature, firings, np.r_[missed, alarms].astype(np.int64), strata, [0.0] * len(strata))

    def _missed(self, rule, firings, count: int) -> np.ndarray:
        where, values, _ = self.examples.firings_in(firings, "score")
        strongest = np.sort(ascending(values)[-STRONGEST:])
        where, values = where[strongest], values[strongest]
        unseen = rules.predict(rule, self.corpus, where) == 0
        return self.examples.spaced(where[unseen], ascending(values[unseen]), count)

    def _false_alarms(self, rule, feature: int, firings, count: int) -> np.ndarray:
        """Tokens that a strong part of the rule matches and on which the feature is silent, the same ones every time."""
        rng = np.random.default_rng([self.seed, feature])
        own = self.examples.silent_places(*firings, "score")
        own = rng.choice(own, min(PLACES, len(own)), replace=False) if len(own) else own
        tried = np.union1d(self.sample, own)
        tried = tried[lookup(*firings, tried) == 0]
        alarms = tried[rules.predict(rule, self.corpus, tried) >= 1]
        return self.examples.spaced(alarms, rng.permutation(len(alarms)), count)

"""Kind `simulation-corpus`: the same correlation as `simulation`, over every held-out token, for labels that predict without an LLM.

`simulation` looks at windows chosen so that firings of every size are well represented; here tokens stand as often as they do in text,
and a feature is silent on most of them. The two are different measures and are never compared with each other.

A rule's matches are looked up, not computed token by token: the postings of its rarest words give the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.rules import language as rules
from autointerp.rules.annotations import CONTEXT_BITS, Annotations
from autointerp.scores.context import Context, Scored, undefined_score
from autointerp.statistics import MIN_DOCUMENTS, correlation, interval
from core.parallel import in_workers
from core.progress import progress
from core.records import Failure, Score

KIND = "simulation-corpus"
SHIFTS = {"here": 0, "after 1": 1, "after 2": 2, "after 3": 3, "before": -1}
CHUNK = 16
FEW = 1000  # lexemes: of more, all tokens are looked at


@dataclass(frozen=True)
class HeldOut:
    """All tokens that are scored, and the places of every lexeme in the test split."""

    corpus: Annotations
    scored: np.ndarray  # (n,) bool: in the test split and no copy
    documents: np.ndarray  # (n,) document of each token
    sizes: np.ndarray  # (documents,) scored tokens of each
    order: np.ndarray  # ordinals of the test split, copies too, sorted by lexeme
    offsets: np.ndarray  # (L + 1,)

    @classmethod
    def build(cls, context: Context) -> HeldOut:
        corpus, tokens = context.corpus, context.tokens
        scored = np.zeros(len(corpus), bool)
        scored[context.examples.pool("test")] = True
        documents = np.repeat(
            np.arange(len(tokens.names), dtype=np.int32), np.diff(tokens.document_offsets)
        )
        inside = np.flatnonzero(tokens.in_split("test"))
        counts = np.bincount(corpus.codes[inside], minlength=len(corpus.lexemes))
        sizes = np.bincount(documents[scored], minlength=len(tokens.names))
        return cls(
            corpus,
            scored,
            documents,
            sizes,
            inside[np.argsort(corpus.codes[inside], kind="stable")],
            np.r_[0, np.cumsum(counts)],
        )

    def matches(self, predicate: rules.Predicate) -> np.ndarray:
        """Scored ordinals, in any order, on which the predicate holds."""
        choices = [
            (relation, codes)
            for relation, terms in rules.slots(predicate)
            if relation in SHIFTS and len(codes := self._codes(terms)) <= FEW
        ]
        found = [self._places(relation, codes) for relation, codes in choices]
        candidates = min(found, key=len) if found else self._in_contexts(predicate.contexts)
        candidates = candidates[self.scored[candidates]]
        return candidates[rules.matches(predicate, self.corpus, candidates)]

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        ordinals = np.flatnonzero(self.scored)
        return ordinals, self.corpus.contexts[ordinals]

    def _in_contexts(self, contexts: tuple[tuple[str, bool], ...]) -> np.ndarray:
        """Scored ordinals with all these contexts, for a predicate that names no few words."""
        ordinals, bits = self._all
        asked = sum(int(CONTEXT_BITS[name]) for name, _ in contexts)
        wanted = sum(int(CONTEXT_BITS[name]) for name, holds in contexts if holds)
        return ordinals[(bits & np.uint16(asked)) == wanted]

    def _codes(self, terms: rules.Terms) -> np.ndarray:
        return np.flatnonzero(self.corpus.members(terms))

    def _places(self, relation: str, codes: np.ndarray) -> np.ndarray:
        """Ordinals whose token in `relation` to them is one of the codes; some may lie in another row."""
        parts = [self.order[self.offsets[code] : self.offsets[code + 1]] for code in codes]
        places = (np.concatenate(parts) if parts else np.zeros(0, np.int64)) + SHIFTS[relation]
        return places[(places >= 0) & (places < len(self.corpus))]

    def predict(self, rule: rules.Rule) -> tuple[np.ndarray, np.ndarray]:
        """(ordinals ascending, predictions float32) where the rule predicts anything."""
        parts = [self.matches(p) for p in rule.predicates]
        levels = [
            np.full(len(at), rules.WEAK if p.weak else 1.0, np.float32)
            for p, at in zip(rule.predicates, parts, strict=True)
        ]
        at, level = (
            np.concatenate([*parts, np.zeros(0, np.int64)]),
            np.concatenate([*levels, np.zeros(0, np.float32)]),
        )
        order = np.lexsort((-level, at))
        at, level = at[order], level[order]
        first = np.r_[True, at[1:] != at[:-1]] if len(at) else np.zeros(0, bool)
        return at[first], level[first]

    def sums(
        self, predicted: tuple[np.ndarray, np.ndarray], where: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """Sums (documents, 6) of `statistics`, for sparse predictions and firings (ordinals ascending and scored)."""
        at, p = predicted
        count = partial(np.bincount, minlength=len(self.sizes))
        a = values.astype(np.float64)
        common, in_p, in_a = np.intersect1d(at, where, assume_unique=True, return_indices=True)
        product = count(self.documents[common], p[in_p] * a[in_a])
        ours, theirs = self.documents[at], self.documents[where]
        columns = [
            self.sizes,
            count(ours, p),
            count(theirs, a),
            count(ours, p.astype(float) ** 2),
            count(theirs, a * a),
            product,
        ]
        return np.stack(columns, axis=1)[self.sizes > 0].astype(np.float64)


def score_corpus(context: Context, features: list[int]) -> Scored:
    """A score for each feature whose label is a rule; the others are passed over, because an LLM cannot read the whole corpus."""
    free = [f for f in features if context.parsed[context.labels[f]] is not None]
    held_out = HeldOut.build(context)
    made = in_workers(partial(score_feature, context.prepared(), held_out), free, chunk=CHUNK)
    scores: list[Score] = list(progress(made, "corpus", total=len(free), unit="feat"))
    failures = [
        Failure("score", s.feature, s.undefined.split(":")[0], s.undefined)
        for s in scores
        if s.value is None
    ]
    return Scored(
        scores,
        failures,
        summary={
            "held_out_tokens": int(held_out.sizes.sum()),
            "passed_over": len(features) - len(free),
        },
    )


def score_feature(context: Context, held_out: HeldOut, feature: int) -> Score:
    where, values, _ = context.examples.firings_in(context.postings.firings(feature), "test")
    n_documents = len(np.unique(held_out.documents[where]))
    n_tokens = int(held_out.sizes.sum())
    if n_documents < RARE_DOCUMENTS:
        reason = f"too_rare: fires in {n_documents} held-out documents; {RARE_DOCUMENTS} are needed"
        return undefined_score(context, KIND, feature, reason, n_tokens, n_documents)
    sums = held_out.sums(held_out.predict(context.parsed[context.labels[feature]]), where, values)
    value = float(correlation(sums.sum(0)))
    if np.isnan(value):
        return undefined_score(
            context,
            KIND,
            feature,
            "constant: the label is the same on every held-out token",
            n_tokens,
            n_documents,
        )
    other = context.parsed[context.others[feature]]
    null = (
        float(correlation(held_out.sums(held_out.predict(other), where, values).sum(0)))
        if other
        else None
    )
    span = interval(sums) if n_documents >= MIN_DOCUMENTS else None
    low, high = span or (None, None)
    return Score(
        feature,
        context.set,
        KIND,
        value,
        "",
        low,
        high,
        null if null is None else float(np.nan_to_num(null)),
        n_tokens,
        n_documents,
    )

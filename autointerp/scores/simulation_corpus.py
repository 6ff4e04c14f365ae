"""Score `simulation-corpus`: the correlation of `simulation` over every held-out token, for rules.

`simulation` looks at windows chosen so that firings of every size are well represented. Here tokens
are as frequent as in text, and a feature is silent on most of them. The two are different measures
and are never compared with each other.

The matches of a rule are looked up, not computed token by token: the postings of its rarest words
give the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.rules import language as rules
from autointerp.rules.annotations import CONTEXT_BITS, Annotations
from autointerp.scores.context import Context, Scored, list_failures, undefined_score
from autointerp.statistics import MIN_DOCUMENTS, correlation, interval
from core.parallel import map_in_workers
from core.progress import progress
from core.records import Score, Undefined

KIND = "simulation-corpus"
SHIFTS = {"here": 0, "after 1": 1, "after 2": 2, "after 3": 3, "before": -1}
CHUNK = 16  # features handed to a worker at a time
FEW = 1000  # lexemes; terms with more are not looked up


@dataclass(frozen=True)
class HeldOut:
    """The scored tokens of a capture (n tokens), and where each lexeme (L) stands among them."""

    annotations: Annotations
    scored: np.ndarray  # (n,) bool: in the test split, and no copy of train text
    documents: np.ndarray  # (n,) document of each token
    sizes: np.ndarray  # (documents,) scored tokens of each document
    order: np.ndarray  # ordinals of the test split, copies too, sorted by lexeme
    offsets: np.ndarray  # (L + 1,) where each lexeme begins in `order`

    @classmethod
    def build(cls, context: Context) -> HeldOut:
        """Sort the held-out tokens by lexeme."""
        annotations, tokens = context.annotations, context.tokens
        scored = np.zeros(len(annotations), bool)
        scored[context.examples.pool("test")] = True
        n_documents = len(tokens.names)
        lengths = np.diff(tokens.document_offsets)
        documents = np.repeat(np.arange(n_documents, dtype=np.int32), lengths)
        inside = np.flatnonzero(tokens.in_split("test"))
        codes = annotations.codes[inside]
        counts = np.bincount(codes, minlength=len(annotations.lexemes))
        sizes = np.bincount(documents[scored], minlength=n_documents)
        order = inside[np.argsort(codes, kind="stable")]
        return cls(annotations, scored, documents, sizes, order, np.r_[0, np.cumsum(counts)])

    def matches(self, predicate: rules.Predicate) -> np.ndarray:
        """Return the scored ordinals on which the predicate holds, in any order."""
        looked_up = [
            self._places(relation, codes)
            for relation, terms in rules.slots(predicate)
            if relation in SHIFTS and len(codes := self._codes(terms)) <= FEW
        ]
        by_context = () if looked_up else (self._in_contexts(predicate.contexts),)
        candidates = min([*looked_up, *by_context], key=len)
        candidates = candidates[self.scored[candidates]]
        return candidates[rules.matches(predicate, self.annotations, candidates)]

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        """All scored ordinals and their context bits."""
        ordinals = np.flatnonzero(self.scored)
        return ordinals, self.annotations.contexts[ordinals]

    def _in_contexts(self, contexts: tuple[tuple[str, bool], ...]) -> np.ndarray:
        """Return the scored ordinals in all these contexts."""
        ordinals, bits = self._all
        asked = sum(int(CONTEXT_BITS[name]) for name, _ in contexts)
        wanted = sum(int(CONTEXT_BITS[name]) for name, holds in contexts if holds)
        return ordinals[(bits & np.uint16(asked)) == wanted]

    def _codes(self, terms: rules.Terms) -> np.ndarray:
        return np.flatnonzero(self.annotations.members(terms))

    def _places(self, relation: str, codes: np.ndarray) -> np.ndarray:
        """Return the ordinals whose token in `relation` to them has one of the codes.

        Some of these tokens may lie in another row; `rules.matches` drops them.
        """
        parts = [self.order[self.offsets[code] : self.offsets[code + 1]] for code in codes]
        places = (np.concatenate(parts) if parts else np.zeros(0, np.int64)) + SHIFTS[relation]
        return places[(places >= 0) & (places < len(self.annotations))]

    def predict(self, rule: rules.Rule) -> tuple[np.ndarray, np.ndarray]:
        """Return (ordinals ascending, predictions float32) where the rule predicts anything."""
        ordinals, levels = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for predicate in rule.predicates:
            ordinals.append(self.matches(predicate))
            strength = rules.WEAK if predicate.weak else 1.0
            levels.append(np.full(len(ordinals[-1]), strength, np.float32))
        at, level = np.concatenate(ordinals), np.concatenate(levels)
        order = np.lexsort((-level, at))
        at, level = at[order], level[order]
        strongest = np.r_[True, at[1:] != at[:-1]] if len(at) else np.zeros(0, bool)
        return at[strongest], level[strongest]

    def sums(
        self, predicted: tuple[np.ndarray, np.ndarray], where: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """Return the sums per document (documents, 6) of `statistics`.

        `predicted` are sparse predictions as `predict` returns them; the feature fires at `where`
        (ordinals ascending and scored) with activations `values`.
        """
        at, p = predicted
        count = partial(np.bincount, minlength=len(self.sizes))
        a = values.astype(np.float64)
        common, in_p, in_a = np.intersect1d(at, where, assume_unique=True, return_indices=True)
        product = count(self.documents[common], p[in_p] * a[in_a])
        of_p, of_a = self.documents[at], self.documents[where]
        columns = [
            self.sizes,
            count(of_p, p),
            count(of_a, a),
            count(of_p, p.astype(float) ** 2),
            count(of_a, a * a),
            product,
        ]
        return np.stack(columns, axis=1)[self.sizes > 0].astype(np.float64)


def score_corpus(context: Context, features: list[int]) -> Scored:
    """Score the labels that are rules. Others are skipped: no LLM can read the whole corpus."""
    with_rule = [f for f in features if not context.is_free(f)]
    held_out = HeldOut.build(context)
    score = partial(score_one, context.prepare(), held_out)
    scored = map_in_workers(score, with_rule, context.engine, CHUNK)
    scores: list[Score] = list(progress(scored, "corpus", total=len(with_rule), unit="feat"))
    summary = {
        "held_out_tokens": int(held_out.sizes.sum()),
        "passed_over": len(features) - len(with_rule),
    }
    return Scored(scores, list_failures(scores), summary=summary)


def score_one(context: Context, held_out: HeldOut, feature: int) -> Score:
    """Score the rule of one feature over every held-out token."""
    where, values, _ = context.examples.firings_in(context.postings.firings(feature), "test")
    n_documents = len(np.unique(held_out.documents[where]))
    n_tokens = int(held_out.sizes.sum())
    rule, null_rule = (
        context.rule_of[text] for text in (context.labels[feature], context.others[feature])
    )
    assert rule is not None, "score_corpus skips labels in free words"
    if n_documents < RARE_DOCUMENTS:
        why = f"fires in {n_documents} held-out documents; {RARE_DOCUMENTS} are needed"
        undefined = Undefined("too_rare", why)
        return undefined_score(context, KIND, feature, undefined, n_tokens, n_documents)
    sums = held_out.sums(held_out.predict(rule), where, values)
    value = float(correlation(sums.sum(0)))
    if np.isnan(value):
        undefined = Undefined("constant", "the label is the same on every held-out token")
        return undefined_score(context, KIND, feature, undefined, n_tokens, n_documents)
    null = None
    if null_rule is not None:  # a constant prediction explains nothing: NaN becomes 0
        by_null = held_out.sums(held_out.predict(null_rule), where, values)
        null = float(np.nan_to_num(correlation(by_null.sum(0))))
    span = interval(sums) if n_documents >= MIN_DOCUMENTS else None
    low, high = span or (None, None)
    name = context.label_set
    return Score(feature, name, KIND, value, None, low, high, null, n_tokens, n_documents)

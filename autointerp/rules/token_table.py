"""Tokens that rules are fitted on, as integer views: the precision of a candidate is one look-up.

A view holds for each token the code of the lexeme in one relation to it (itself, the one before,
the first of its line, ...), so one `bincount` yields the activation mass and the count of every
literal. An *option* is a condition on one slot: a relation, a window, the text or the contexts.
Several options make a predicate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from autointerp.rules.annotations import CONTEXTS, RELATIONS, Annotations
from autointerp.rules.lexemes import STOP_WORDS
from autointerp.rules.word_groups import WordGroups
from core.text.tokens import Tokens, sample_tokens

N_GROUPS = 8  # groups of documents; activation mass that comes from one group alone is discounted
WINDOWS = {"within 8": 8}
TOPICAL = 0.25  # share of the rows, at most, that hold a word that names a topic
MANY = 200  # words of an option above which all tokens are scanned


@dataclass(frozen=True)
class Option:
    """A condition on one slot: words and groups of words, or a context.

    For a context, `values` is (its number, whether it holds).
    """

    slot: str  # a relation, a window, "text", or a context's phrase
    kind: str  # words, context
    values: tuple[int, ...] = ()  # lexeme codes
    groups: tuple[int, ...] = ()  # of WordGroups

    @property
    def n_terms(self) -> int:
        """Number of alternatives that a label prints."""
        return len(self.values) + len(self.groups) if self.kind == "words" else 1


@dataclass(frozen=True)
class GroupSums:
    """Sums over tokens by code and group of documents, of the m codes that stand among them."""

    codes: np.ndarray  # (m,) ascending
    sums: np.ndarray  # (N_GROUPS, m + 1); the last column is 0, for every other code
    n_codes: int

    @cached_property
    def place(self) -> np.ndarray:
        """(L + 1,) the column of each code."""
        place = np.full(self.n_codes, len(self.codes))
        place[self.codes] = np.arange(len(self.codes))
        return place

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Sums (N_GROUPS, k) of any codes (k,)."""
        return self.sums[:, self.place[codes]]

    def total(self) -> np.ndarray:
        """Sums (L + 1,) over all groups."""
        total = np.zeros(self.n_codes)
        total[self.codes] = self.sums.sum(0)[:-1]
        return total


@dataclass(frozen=True)
class TokenTable:
    """N tokens of one split, in order.

    An *index* counts the tokens of the table, an ordinal those of the annotations.
    """

    annotations: Annotations
    ordinals: np.ndarray  # (N,) int64
    views: dict[str, np.ndarray]  # relation -> (N,) int64 codes, L where the row has no such token
    contexts: np.ndarray  # (N,) int64 bits
    words: WordGroups
    shapes: WordGroups  # the shapes alone
    rows: np.ndarray  # (N,) int64 number of the token's row
    row_table: csr_matrix  # (L, R) of ones: the rows that hold each word that can be a topic
    bits: np.ndarray  # (2 ** contexts, contexts) float64, 0 or 1
    groups: np.ndarray  # (N,) int64 group of the token's document
    places: np.ndarray  # (n,) int32 index of each annotated token, -1 outside the table
    until_same: np.ndarray  # (n,) int32 distance to the lexeme's next occurrence
    _cache: dict = field(default_factory=dict)  # lists and counts, made at their first use

    @classmethod
    def build(
        cls, tokens: Tokens, words: WordGroups, split: str, max_tokens: int, seed: int
    ) -> TokenTable:
        """At most `max_tokens` tokens of `split`, in whole documents drawn by the seed."""
        annotations = words.annotations
        ordinals = sample_tokens(tokens, split, max_tokens, seed)
        views = {}
        for relation in RELATIONS:
            where = annotations.related(relation, ordinals)
            codes = np.where(where >= 0, annotations.codes[where], len(annotations.lexemes))
            views[relation] = codes.astype(np.int64)
        bits = (np.arange(1 << len(CONTEXTS))[:, None] >> np.arange(len(CONTEXTS))) & 1
        places = np.full(len(annotations), -1, np.int32)
        places[ordinals] = np.arange(len(ordinals))
        of_document = np.random.default_rng(seed).integers(0, N_GROUPS, len(tokens.names))
        _, rows = np.unique(ordinals - annotations.place[ordinals], return_inverse=True)
        return cls(
            annotations,
            ordinals,
            views,
            annotations.contexts[ordinals].astype(np.int64),
            words,
            words.shapes_only(),
            rows,
            _find_topics(annotations, annotations.codes[ordinals], rows),
            bits.astype(np.float64),
            of_document[tokens.document_of(ordinals)],
            places,
            _measure_until_same(annotations.codes),
        )

    def __len__(self) -> int:
        return len(self.ordinals)

    @property
    def n_codes(self) -> int:
        """Lexeme codes, with one more for the absence of a token."""
        return len(self.annotations.lexemes) + 1

    def _once(self, key: object, make: Callable[[], Any]) -> Any:
        """`make()`, computed once for each key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    # ------------------------------------------------------------ counting

    def total_counts(self, slot: str) -> np.ndarray:
        """How often each code stands in `slot` to the tokens of the table."""
        return self._once(("counts", slot), partial(self._count_all, slot))

    def _count_all(self, slot: str) -> np.ndarray:
        # In parts, because a window is many columns wide.
        parts = np.array_split(np.arange(len(self)), 1 + len(self) // 50_000)
        return sum((self.counts(slot, part) for part in parts), np.zeros(1))

    def counts(self, slot: str, at: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """How often (or with what weight) each code stands in `slot` to the tokens `at`.

        (L + 1,) for lexemes, (2 ** contexts,) for contexts.
        """
        if slot in WINDOWS:
            return self._window_counts(WINDOWS[slot], at, weights)
        if slot == "text":
            return np.r_[
                self.row_table @ np.bincount(self.rows[at], weights, self.row_table.shape[1]), 0.0
            ]
        view, size = (
            (self.contexts, len(self.bits))
            if slot == "contexts"
            else (self.views[slot], self.n_codes)
        )
        return np.bincount(view[at], weights, size)

    def _window_counts(self, width: int, at: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """`counts` for the distinct lexemes among the `width` tokens before."""
        codes = self._once(("window", width), partial(self._find_window, width))[at].ravel()
        repeated = None if weights is None else np.repeat(weights, width)
        counts = np.bincount(codes, repeated, self.n_codes)
        counts[-1] = 0
        return counts

    def _find_window(self, width: int) -> np.ndarray:
        """(N, width) int32: the codes of the distinct lexemes before each token, or L."""
        distances, out = np.arange(1, width + 1), np.empty((len(self), width), np.int32)
        for part in np.array_split(np.arange(len(self)), 1 + len(self) // 50_000):
            ordinals = self.ordinals[part]
            where = np.maximum(ordinals[:, None] - distances, 0)
            counted = (self.annotations.place[ordinals][:, None] >= distances) & (
                self.until_same[where] >= distances
            )
            out[part] = np.where(counted, self.annotations.codes[where], self.n_codes - 1)
        return out

    def sum_by_group(self, slot: str, at: np.ndarray, weights: np.ndarray) -> GroupSums:
        """Sums of `weights` over the tokens `at` by their code in a relation and their group."""
        known, numbers = self._known(slot)
        numbers = numbers[at]
        found = np.zeros(len(known), bool)
        found[numbers] = True
        present = np.flatnonzero(found)
        place, size = np.empty(len(known), np.int64), len(present) + 1
        place[present] = np.arange(len(present))
        cells = np.bincount(self.groups[at] * size + place[numbers], weights, N_GROUPS * size)
        return GroupSums(known[present], cells.reshape(N_GROUPS, size), self.n_codes)

    def _known(self, slot: str) -> tuple[np.ndarray, np.ndarray]:
        """(the codes (k,) that stand in a relation, ascending, the number (N,) of each token's)."""
        return self._once(("known", slot), lambda: np.unique(self.views[slot], return_inverse=True))

    def count_shapes(self, slot: str, counts: np.ndarray) -> np.ndarray:
        """Sums (shapes,) over the members of each shape of counts (L + 1,) in a relation."""
        known = self._known(slot)[0]
        members = self._once(("shapes", slot), lambda: self.shapes.table[:, known])
        return np.asarray(members @ counts[known])

    def sum_shapes(self, grouped: GroupSums) -> np.ndarray:
        """Sums (N_GROUPS, shapes) over the members of each shape."""
        offsets, shapes = self._once("shapes of codes", self._find_shapes)
        sizes = offsets[grouped.codes + 1] - offsets[grouped.codes]
        firsts = np.cumsum(sizes) - sizes
        entries = np.arange(sizes.sum()) + np.repeat(offsets[grouped.codes] - firsts, sizes)
        columns = np.repeat(np.arange(len(sizes)), sizes)
        cells = shapes[entries] * N_GROUPS + np.arange(N_GROUPS)[:, None]
        n_shapes = self.shapes.table.shape[0]
        weights = grouped.sums[:, columns].ravel()
        return np.bincount(cells.ravel(), weights, n_shapes * N_GROUPS).reshape(n_shapes, -1).T

    def _find_shapes(self) -> tuple[np.ndarray, np.ndarray]:
        """(offsets (L + 2,) of the codes, the shapes of each)."""
        by_code = self.shapes.table.tocsc()
        by_code.sort_indices()
        return by_code.indptr.astype(np.int64), by_code.indices.astype(np.int64)

    # ------------------------------------------------------------ matching

    def matches(self, options: list[Option]) -> np.ndarray:
        """Indices, in any order, of the tokens on which every option holds."""
        lists = [self._list(option) for option in options]
        if not lists:
            return np.arange(len(self))
        first = int(np.argmin([sum(map(len, parts)) for parts in lists]))  # the shortest
        at = np.concatenate(lists[first]) if len(lists[first]) > 1 else lists[first][0]
        if options[first].slot in WINDOWS and len(lists[first]) > 1:
            at = sort_distinct(at)
        for i, option in enumerate(options):
            if i != first:
                at = at[self.holds(option, at)]
        return at

    def holds(self, option: Option, at: np.ndarray) -> np.ndarray:
        """bool (len(at),): the option holds on these tokens."""
        if option.kind == "context":
            return ((self.contexts[at] >> option.values[0]) & 1) == option.values[1]
        if option.slot == "text":
            return self._flagged(option)[self.rows[at]]
        if option.slot in WINDOWS:
            mask = np.zeros(len(self), bool)
            for indices in self._list(option):
                mask[indices] = True
            return mask[at]
        return self._among(option, self.views[option.slot][at])

    def _among(self, option: Option, codes: np.ndarray) -> np.ndarray:
        if option.groups:
            return self._members(option)[codes]
        found = codes == option.values[0]
        for code in option.values[1:]:
            found |= codes == code
        return found

    def _members(self, option: Option) -> np.ndarray:
        """bool (L + 1,): the codes that the option names."""
        members = np.zeros(self.n_codes, bool)
        members[list(option.values)] = True
        for group in option.groups:
            members[self.words.codes(group)] = True
        return members

    def _flagged(self, option: Option) -> np.ndarray:
        """bool (R,): the rows that hold one of the option's words."""
        flagged = np.zeros(self.row_table.shape[1], bool)
        for code in option.values:
            flagged[
                self.row_table.indices[
                    self.row_table.indptr[code] : self.row_table.indptr[code + 1]
                ]
            ] = True
        return flagged

    def _list(self, option: Option) -> list[np.ndarray]:
        """Arrays of indices whose union are the tokens on which the option holds.

        They are disjoint unless the slot is a window.
        """
        if option.kind == "context":
            return [self._once(option, partial(self._scan, option))]
        if option.slot == "text":
            return [np.flatnonzero(self._flagged(option)[self.rows])]
        if option.slot in WINDOWS:
            return [
                self._once((option.slot, code), partial(self._after, code, WINDOWS[option.slot]))
                for code in option.values
            ]
        codes = np.flatnonzero(self._members(option)) if option.groups else option.values
        if len(codes) > MANY:
            return [np.flatnonzero(self._members(option)[self.views[option.slot]])]
        order, offsets = self._order(option.slot)
        return [order[offsets[code] : offsets[code + 1]] for code in codes] or [
            np.zeros(0, np.int64)
        ]

    def _order(self, slot: str) -> tuple[np.ndarray, np.ndarray]:
        """(indices sorted by the code of their view, offsets (L + 2,) of the codes)."""
        return self._once(("order", slot), partial(_sort_by_code, self.views[slot], self.n_codes))

    def _scan(self, option: Option) -> np.ndarray:
        """Indices of all tokens on which the option holds."""
        return np.flatnonzero(self.holds(option, np.arange(len(self))))

    def _after(self, code: int, width: int) -> np.ndarray:
        """Indices of the tokens that have lexeme `code` among the `width` before them."""
        order, offsets = self._order("here")
        begins, distances = order[offsets[code] : offsets[code + 1]], np.arange(1, width + 1)
        near = begins[:, None] + distances
        inside = np.minimum(near, len(self) - 1)
        adjacent = self.ordinals[inside] - self.ordinals[begins][:, None] == distances
        same_row = self.annotations.place[self.ordinals[inside]] >= distances
        return sort_distinct(near[adjacent & same_row])


def _find_topics(annotations: Annotations, codes: np.ndarray, rows: np.ndarray) -> csr_matrix:
    """(L, R) of ones: the rows that hold each word, for words that can name a topic.

    Such a word is long, no stop word, and few rows hold it.
    """
    n_rows = int(rows.max(initial=-1)) + 1
    keys = codes.astype(np.int64) * max(n_rows, 1) + rows
    code, row = np.divmod(sort_distinct(keys), max(n_rows, 1))
    word = np.array([_is_topical(text) for text in annotations.lexemes], bool)
    word &= np.bincount(code, minlength=len(word)) <= TOPICAL * n_rows
    kept = word[code]
    ones = np.ones(int(kept.sum()))
    return csr_matrix((ones, (code[kept], row[kept])), shape=(len(word), n_rows))


def _is_topical(text: str) -> bool:
    return len(text) > 3 and text.isalpha() and text.lower() not in STOP_WORDS


def sort_distinct(indices: np.ndarray) -> np.ndarray:
    """The distinct indices, ascending; many times faster here than the hashing of np.unique."""
    ordered = np.sort(indices)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def _sort_by_code(view: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices sorted by code, offsets (L + 2,) of the codes)."""
    offsets = np.r_[0, np.cumsum(np.bincount(view, minlength=n_codes))]
    return np.argsort(view, kind="stable"), offsets


def _measure_until_same(codes: np.ndarray) -> np.ndarray:
    """(n,) int32 distance of each token to the next occurrence of its lexeme."""
    order = np.argsort(codes, kind="stable")
    out = np.full(len(codes), np.iinfo(np.int32).max, np.int32)
    same = codes[order[1:]] == codes[order[:-1]]
    out[order[:-1][same]] = (order[1:] - order[:-1])[same]
    return out

"""Every group of words that a label can name besides quoting words: nodes of the subject's tree, shapes, common beginnings and ends.

The leaves below a node are consecutive, so that sums over all nodes are differences of one cumulative sum; the other groups are rows of a sparse table.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from autointerp.rules.annotations import Annotations
from autointerp.rules.lexemes import AFFIXES, SHAPES
from autointerp.rules.terms import Terms

NODES = (3, 400)  # words of a field, at least and at most
ALIKE = (4, 800)  # words that begin, end or go on alike
LONGEST = 4  # characters of a beginning or an end
NAMED = 3  # words that stand for a field
NAME_CHARACTERS = 16  # of a word that stands for a field
COSTS = {
    "field": 0.003,
    "affix": 0.004,
    "shape": 0.0025,
}  # correlation that a group must bring to be named


@dataclass(frozen=True)
class WordGroups:
    """G groups over the codes of a corpus: first the shapes, then affixes, then nodes of the tree."""

    corpus: Annotations
    affixes: list[tuple[str, str]]
    table: csr_matrix  # (shapes + affixes, L + 1) of ones
    spans: np.ndarray  # (nodes, 2)

    @classmethod
    def build(cls, corpus: Annotations) -> WordGroups:
        shapes = [
            [code for code, text in enumerate(corpus.lexemes) if test(text)]
            for test in SHAPES.values()
        ]
        affixes = common_affixes(corpus.lexemes)
        members = [*shapes, *affixes.values()]
        offsets = np.r_[0, np.cumsum([len(m) for m in members])]
        codes = np.concatenate([np.asarray(m, np.int64) for m in members])
        table = csr_matrix(
            (np.ones(len(codes)), codes, offsets), shape=(len(members), len(corpus.lexemes) + 1)
        )
        sizes = corpus.spans[:, 1] - corpus.spans[:, 0]
        return cls(
            corpus,
            list(affixes),
            table,
            corpus.spans[(sizes >= NODES[0]) & (sizes <= NODES[1])].astype(np.int64),
        )

    def shapes_only(self) -> WordGroups:
        """The shapes, by the same numbers."""
        return WordGroups(self.corpus, [], self.table[: len(SHAPES)], self.spans[:0])

    @cached_property
    def costs(self) -> np.ndarray:
        return np.repeat(
            [COSTS["shape"], COSTS["affix"], COSTS["field"]],
            [len(SHAPES), len(self.affixes), len(self.spans)],
        )

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums (..., G) over the members of each group of `values` (..., L + 1)."""
        listed = (self.table @ values.T).T
        if not len(self.spans):
            return listed
        running = np.zeros((*values.shape[:-1], len(self.corpus.leaves) + 1))
        np.cumsum(values[..., self.corpus.leaves], axis=-1, out=running[..., 1:])
        return np.concatenate(
            [listed, running[..., self.spans[:, 1]] - running[..., self.spans[:, 0]]], axis=-1
        )

    def codes(self, group: int) -> np.ndarray:
        """The members of one group."""
        if group < self.table.shape[0]:
            return self.table.indices[self.table.indptr[group] : self.table.indptr[group + 1]]
        begin, end = self.spans[group - self.table.shape[0]]
        return self.corpus.leaves[begin:end]

    def terms(self, group: int, weights: np.ndarray) -> Terms:
        """How a label says the group; a field is named by words that are heavy in `weights` (L + 1,) and have no smaller node in common."""
        if group < len(SHAPES):
            return Terms(shapes=(list(SHAPES)[group],))
        if group < self.table.shape[0]:
            return Terms(affixes=(self.affixes[group - len(SHAPES)],))
        words = self._names(self.codes(group), weights)
        return Terms(fields=(tuple(self.corpus.lexemes[code] for code in words),))

    def _names(self, codes: np.ndarray, weights: np.ndarray) -> list[int]:
        """The heaviest word on each side of the node's parting, then the heaviest of the others; long ones and white space last."""
        parted = self._parting(codes)
        clear = np.array(
            [
                len(text := self.corpus.lexemes[code]) <= NAME_CHARACTERS and not text.isspace()
                for code in codes
            ]
        )
        rank = np.where(clear, 1.0, 1e-9) * (weights[codes] + 1e-12 * np.arange(len(codes), 0, -1))
        sides = [int(np.argmax(rank[:parted])), parted + int(np.argmax(rank[parted:]))]
        rest = [
            i
            for i in np.argsort(-rank, kind="stable").tolist()
            if i not in sides and rank[i] > 1e-9
        ]
        chosen = sorted([*sides, *rest[: NAMED - 2]], key=lambda i: -rank[i])
        return [int(codes[i]) for i in chosen]

    def _parting(self, codes: np.ndarray) -> int:
        """Where the two children of the node of these consecutive leaves part, counted from its first leaf."""
        begin = int(np.flatnonzero(self.corpus.leaves == codes[0])[0])
        end = begin + len(codes)
        spans = self.corpus.spans
        left = spans[(spans[:, 0] == begin) & (spans[:, 1] < end), 1]
        right = spans[(spans[:, 1] == end) & (spans[:, 0] > begin), 0]
        return (
            int(
                left.max()
                if len(left) and (not len(right) or left.max() - begin > end - right.min())
                else right.min()
            )
            - begin
        )


def common_affixes(lexemes: list[str]) -> dict[tuple[str, str], list[int]]:
    """{(phrase of AFFIXES, characters): codes}: beginnings and ends that words share, and signs in words; of groups with the same members, the shortest."""
    begins, ends, holds = AFFIXES
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for code, text in enumerate(lexemes):
        if text.isspace():
            continue
        for size in range(1, min(LONGEST + 1, len(text))):
            if size > 1 and text[:size].isalnum():
                found[begins, text[:size]].append(code)
            if text[-size:].isalnum():
                found[ends, text[-size:]].append(code)
        for sign in {c for c in text if not c.isalnum() and not c.isspace()}:
            found[holds, sign].append(code)
        if len(text) <= LONGEST and text.isalnum():  # it begins and ends with itself
            found[ends, text].append(code)
            if len(text) > 1:
                found[begins, text].append(code)
    kept: dict[tuple[int, ...], tuple[str, str]] = {}
    for affix in sorted(found, key=lambda a: (len(a[1]), a)):
        if ALIKE[0] <= len(found[affix]) <= ALIKE[1]:
            kept.setdefault(tuple(found[affix]), affix)
    return {affix: list(members) for members, affix in kept.items()}

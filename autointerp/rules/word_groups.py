"""Groups of words that a label can name: shapes, common affixes, nodes of the subject's tree.

The leaves below a node are consecutive, so sums over all nodes are differences of one cumulative
sum; the other groups are rows of a sparse table.
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

NODE_WORDS = (3, 400)  # words below a node, at least and at most
AFFIX_WORDS = (4, 800)  # words that share an affix, at least and at most
LONGEST = 4  # characters of an affix, at most
NAMED = 3  # words that name a node
NAME_CHARACTERS = 16  # characters of a word that names a node, at most
# Correlation that a group must add to be named.
COSTS = {"similar": 0.003, "affix": 0.004, "shape": 0.0025}


@dataclass(frozen=True)
class WordGroups:
    """G groups of lexeme codes: first the shapes, then affixes, then nodes of the tree."""

    annotations: Annotations
    affixes: list[tuple[str, str]]
    table: csr_matrix  # (shapes + affixes, L + 1) of ones
    spans: np.ndarray  # (nodes, 2)

    @classmethod
    def build(cls, annotations: Annotations) -> WordGroups:
        shapes = [
            [code for code, text in enumerate(annotations.lexemes) if test(text)]
            for test in SHAPES.values()
        ]
        affixes = common_affixes(annotations.lexemes)
        members = [*shapes, *affixes.values()]
        offsets = np.r_[0, np.cumsum([len(m) for m in members])]
        codes = np.concatenate([np.asarray(m, np.int64) for m in members])
        shape = (len(members), len(annotations.lexemes) + 1)
        table = csr_matrix((np.ones(len(codes)), codes, offsets), shape=shape)
        sizes = annotations.spans[:, 1] - annotations.spans[:, 0]
        named = (sizes >= NODE_WORDS[0]) & (sizes <= NODE_WORDS[1])
        return cls(annotations, list(affixes), table, annotations.spans[named].astype(np.int64))

    def shapes_only(self) -> WordGroups:
        """The shapes alone, with the same numbers."""
        return WordGroups(self.annotations, [], self.table[: len(SHAPES)], self.spans[:0])

    @cached_property
    def costs(self) -> np.ndarray:
        """(G,) correlation that each group must add to be named."""
        counts = [len(SHAPES), len(self.affixes), len(self.spans)]
        return np.repeat([COSTS["shape"], COSTS["affix"], COSTS["similar"]], counts)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums (..., G) over the members of each group of `values` (..., L + 1)."""
        listed = (self.table @ values.T).T
        if not len(self.spans):
            return listed
        running = np.zeros((*values.shape[:-1], len(self.annotations.leaves) + 1))
        np.cumsum(values[..., self.annotations.leaves], axis=-1, out=running[..., 1:])
        below_nodes = running[..., self.spans[:, 1]] - running[..., self.spans[:, 0]]
        return np.concatenate([listed, below_nodes], axis=-1)

    def codes(self, group: int) -> np.ndarray:
        """Lexeme codes of the members of one group."""
        if group < self.table.shape[0]:
            return self.table.indices[self.table.indptr[group] : self.table.indptr[group + 1]]
        begin, end = self.spans[group - self.table.shape[0]]
        return self.annotations.leaves[begin:end]

    def terms(self, group: int, weights: np.ndarray) -> Terms:
        """The terms of a label that say the group.

        A node is named by words that are heavy in `weights` (L + 1,) and share no smaller node.
        """
        if group < len(SHAPES):
            return Terms(shapes=(list(SHAPES)[group],))
        if group < self.table.shape[0]:
            return Terms(affixes=(self.affixes[group - len(SHAPES)],))
        words = self._choose_names(self.codes(group), weights)
        return Terms(similar=(tuple(self.annotations.lexemes[code] for code in words),))

    def _choose_names(self, codes: np.ndarray, weights: np.ndarray) -> list[int]:
        """Codes of the words that name a node, heaviest first.

        They are the heaviest word below each child, then the heaviest of the others. Long words and
        white space come last.
        """
        split = self._find_split(codes)
        texts = [self.annotations.lexemes[code] for code in codes]
        clear = np.array([len(t) <= NAME_CHARACTERS and not t.isspace() for t in texts])
        rank = np.where(clear, 1.0, 1e-9) * (weights[codes] + 1e-12 * np.arange(len(codes), 0, -1))
        sides = [int(np.argmax(rank[:split])), split + int(np.argmax(rank[split:]))]
        order = np.argsort(-rank, kind="stable").tolist()
        rest = [i for i in order if i not in sides and rank[i] > 1e-9]
        names = sorted([*sides, *rest[: NAMED - 2]], key=lambda i: -rank[i])
        return [int(codes[i]) for i in names]

    def _find_split(self, codes: np.ndarray) -> int:
        """Number of leaves below the first of the two children of the node with these leaves."""
        begin = int(np.flatnonzero(self.annotations.leaves == codes[0])[0])
        end = begin + len(codes)
        spans = self.annotations.spans
        left = spans[(spans[:, 0] == begin) & (spans[:, 1] < end), 1]
        right = spans[(spans[:, 1] == end) & (spans[:, 0] > begin), 0]
        use_left = len(left) and (not len(right) or left.max() - begin > end - right.min())
        return int(left.max() if use_left else right.min()) - begin


def common_affixes(lexemes: list[str]) -> dict[tuple[str, str], list[int]]:
    """{(phrase of AFFIXES, characters): codes} of affixes that words share and signs in words.

    Of affixes with the same members, the shortest is kept.
    """
    begins, ends, holds = AFFIXES
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for code, text in enumerate(lexemes):
        if text.isspace():
            continue
        for size in range(1, min(LONGEST + 1, len(text))):
            if size > 1 and text[:size].isalnum():
                members[begins, text[:size]].append(code)
            if text[-size:].isalnum():
                members[ends, text[-size:]].append(code)
        for sign in {c for c in text if not c.isalnum() and not c.isspace()}:
            members[holds, sign].append(code)
        if len(text) <= LONGEST and text.isalnum():  # it begins and ends with itself
            members[ends, text].append(code)
            if len(text) > 1:
                members[begins, text].append(code)
    kept: dict[tuple[int, ...], tuple[str, str]] = {}
    for affix in sorted(members, key=lambda a: (len(a[1]), a)):
        if AFFIX_WORDS[0] <= len(members[affix]) <= AFFIX_WORDS[1]:
            kept.setdefault(tuple(members[affix]), affix)
    return {affix: list(codes) for codes, affix in kept.items()}

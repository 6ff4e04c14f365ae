"""Arrays that rules are matched on: each token's lexeme, shapes, contexts and related tokens.

They are computed once, for a whole capture or for one typed text. Contexts of code (in a string, in
brackets) come from one scan of each document's characters. Relations never leave the row, because
the subject did not see beyond it: the first token of a row has no token before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from autointerp.rules.lexemes import AFFIXES, SHAPE_BITS, shape_bits
from autointerp.rules.scanner import BRACKETS, COMMENT, DOCSTRING, STRING, line_heads, scan
from autointerp.rules.terms import Terms
from core.text.tokens import Tokens
from core.text.word_tree import lexeme

CONTEXTS = (
    "in a string",
    "in a docstring",
    "in a comment",
    "in brackets",
    "at the start of a line",
    "early in the text",
    "early in the document",
    "repeated",
    "in a repeated pair",
    "after a space",
    "continuing a word",
)
CONTEXT_BITS = {name: np.uint16(1 << i) for i, name in enumerate(CONTEXTS)}
SCANNED = {
    "in a string": STRING,
    "in a docstring": DOCSTRING,
    "in a comment": COMMENT,
    "in brackets": BRACKETS,
}
RELATIONS = ("here", "after 1", "after 2", "before", "line", "call")
EARLY = 16  # tokens
MEMORY = 64  # tokens of the row in which a repetition counts


@dataclass(frozen=True)
class TokenColumns:
    """The tokens of some documents, in order, one row after the other."""

    vocabulary: list[str]  # text of each token id
    ids: np.ndarray  # (n,) token ids
    starts: np.ndarray  # (n,) character offsets of each token in its document
    ends: np.ndarray  # (n,)
    row_offsets: np.ndarray  # (rows + 1,) index of the first token of each row, and n


@dataclass(frozen=True)
class Annotations:
    """Arrays over the n tokens of a capture or of one text."""

    lexemes: list[str]  # (L,) distinct, their numbers are the codes
    codes: np.ndarray  # (n,) int32
    shapes: np.ndarray  # (n,) uint32 bits of lexemes.SHAPE_BITS
    contexts: np.ndarray  # (n,) uint16 bits of CONTEXT_BITS
    place: np.ndarray  # (n,) int32 index in the row
    # (n,) int32 ordinal of the first token of the line, -1 when it is in another row
    line: np.ndarray
    # (n,) int32 ordinal of the token before the innermost open bracket, -1 without one in the row
    call: np.ndarray
    # (m,) int32 codes in the order of the subject's tree over words, empty without a tree
    leaves: np.ndarray
    spans: np.ndarray  # (m - 1, 2) leaves from, and up to but not including, below each node
    _members: dict = field(default_factory=dict)  # cache: Terms -> bool (L,)

    @classmethod
    def from_tokens(cls, tokens: Tokens) -> Annotations:
        """Annotate a whole capture: about 4 s and 26 bytes a token for 2.5 million tokens."""
        offsets = tokens.document_offsets.tolist()
        texts = (
            (tokens.text(d), slice(offsets[d], offsets[d + 1])) for d in range(len(tokens.names))
        )
        columns = TokenColumns(
            tokens.vocabulary,
            np.asarray(tokens.ids),
            np.asarray(tokens.starts),
            np.asarray(tokens.ends),
            tokens.row_offsets,
        )
        return annotate(columns, texts, tokens.word_tree)

    @classmethod
    def from_text(cls, token_texts: list[str]) -> Annotations:
        """Annotate one document in one row, given as the texts of its tokens."""
        vocabulary = sorted(set(token_texts))
        number = {text: i for i, text in enumerate(vocabulary)}
        ends = np.cumsum([len(text) for text in token_texts], dtype=np.int64)
        starts = np.r_[0, ends[:-1]] if len(ends) else ends
        ids = np.array([number[text] for text in token_texts], np.int64)
        columns = TokenColumns(vocabulary, ids, starts, ends, np.array([0, len(ids)]))
        return annotate(columns, [("".join(token_texts), slice(0, len(ids)))])

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def lexeme_codes(self) -> dict[str, int]:
        return {text: i for i, text in enumerate(self.lexemes)}

    # ------------------------------------------------------------ which lexemes terms mean

    def members(self, terms: Terms) -> np.ndarray:
        """bool (L,): the lexemes that `terms` match; all of them for `anything`."""
        if terms not in self._members:
            self._members[terms] = self._match(terms)
        return self._members[terms]

    def _match(self, terms: Terms) -> np.ndarray:
        matched = np.full(len(self.lexemes), not len(terms))
        matched[self._codes_of(terms.literals)] = True
        if terms.shapes:
            matched |= (self._lexeme_shapes & sum(SHAPE_BITS[name] for name in terms.shapes)) > 0
        for phrase, part in terms.affixes:
            has = (AFFIXES[phrase](text, part) for text in self.lexemes)
            matched |= np.fromiter(has, bool, len(self.lexemes))
        for words in terms.similar:
            matched[self.similar_codes(words)] = True
        return matched

    def _codes_of(self, words: tuple[str, ...]) -> np.ndarray:
        """Codes of the words that are lexemes."""
        codes = (self.lexeme_codes.get(word) for word in words)
        return np.array([code for code in codes if code is not None], np.int64)

    def similar_codes(self, words: tuple[str, ...]) -> np.ndarray:
        """Codes of the smallest node of the tree that holds all of the words in the tree.

        Words outside the tree stand for themselves.
        """
        known = self._codes_of(words)
        places = self._leaf_places[known]
        inside = places[places >= 0]
        if len(set(inside.tolist())) < 2:
            return known
        around = np.flatnonzero(
            (self.spans[:, 0] <= inside.min()) & (self.spans[:, 1] > inside.max())
        )
        begin, end = self.spans[around[np.argmin(self.spans[around, 1] - self.spans[around, 0])]]
        return np.r_[self.leaves[begin:end], known[places < 0]]

    @cached_property
    def _leaf_places(self) -> np.ndarray:
        """(L,) index of each lexeme among the leaves, -1 outside the tree."""
        places = np.full(len(self.lexemes), -1, np.int64)
        places[self.leaves] = np.arange(len(self.leaves))
        return places

    @cached_property
    def _lexeme_shapes(self) -> np.ndarray:
        return np.array([shape_bits(text) for text in self.lexemes], np.uint32)

    def are(self, terms: Terms, where: np.ndarray) -> np.ndarray:
        """bool: the token at each ordinal of `where` matches `terms`; undefined at -1."""
        return self.members(terms)[self.codes[where]]

    def rows_with(self, terms: Terms, ordinals: np.ndarray) -> np.ndarray:
        """bool (len(ordinals),): the row of each token holds a token that matches `terms`."""
        rows, inverse = np.unique(ordinals - self.place[ordinals], return_inverse=True)
        if not len(rows):
            return np.zeros(0, bool)
        ends = self._row_starts[np.searchsorted(self._row_starts, rows, side="right")]
        sizes = ends - rows
        firsts = np.cumsum(sizes) - sizes
        every = np.arange(sizes.sum()) - np.repeat(firsts - rows, sizes)
        return np.logical_or.reduceat(self.are(terms, every), firsts)[inverse]

    @cached_property
    def _row_starts(self) -> np.ndarray:
        """The ordinal at which each row begins, and n."""
        return np.r_[np.flatnonzero(self.place == 0), len(self)]

    # ------------------------------------------------------------ where tokens stand

    def related(self, relation: str, ordinals: np.ndarray) -> np.ndarray:
        """Ordinals int64 of the tokens in `relation` to `ordinals`; -1 where the row has none."""
        if relation == "here":
            return ordinals
        if relation == "before":
            following = np.minimum(ordinals + 1, len(self) - 1)
            return np.where((following > ordinals) & (self.place[following] > 0), following, -1)
        if relation.startswith("after"):
            return self.back(ordinals, int(relation[-1]))
        return (self.line if relation == "line" else self.call)[ordinals].astype(np.int64)

    def back(self, ordinals: np.ndarray, distance: int) -> np.ndarray:
        """The ordinals `distance` tokens before; -1 where they are not in the row."""
        return np.where(self.place[ordinals] >= distance, ordinals - distance, -1)


# ------------------------------------------------------------ annotate tokens


def annotate(
    columns: TokenColumns,
    texts: Iterable[tuple[str, slice]],
    tree: tuple[np.ndarray, np.ndarray] | None = None,
) -> Annotations:
    """Annotate tokens.

    `texts` yields each document's text and the slice of its tokens. `tree` is the subject's tree
    over words as `core.text.word_tree` stores it: (token ids (m,), spans (m - 1, 2)).
    """
    stripped = [lexeme(text) for text in columns.vocabulary]
    lexemes = sorted(set(stripped))
    number = {text: i for i, text in enumerate(lexemes)}
    by_token = np.array([number[text] for text in stripped], np.int32)
    codes = by_token[columns.ids]
    shapes = np.array([shape_bits(text) for text in lexemes], np.uint32)[codes]
    offsets, n = np.asarray(columns.row_offsets, np.int64), len(columns.ids)
    row_start = np.repeat(offsets[:-1], np.diff(offsets))
    place = (np.arange(n) - row_start).astype(np.int32)
    contexts, line, call = _annotate_documents(columns, texts)
    contexts |= np.where(place < EARLY, CONTEXT_BITS["early in the text"], np.uint16(0))
    for name, keys in (
        ("repeated", codes.astype(np.int64)),
        ("in a repeated pair", _number_pairs(codes, place)),
    ):
        contexts |= np.where(_is_repeated(keys, row_start), CONTEXT_BITS[name], np.uint16(0))
    leaves, spans = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)
    if tree is not None:
        leaves, spans = by_token[tree[0]], tree[1]
    line, call = np.where(line >= row_start, line, -1), np.where(call >= row_start, call, -1)
    return Annotations(lexemes, codes, shapes, contexts, place, line, call, leaves, spans)


def _annotate_documents(
    columns: TokenColumns, texts: Iterable[tuple[str, slice]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(context bits, line, call), each (n,), from the characters of the documents."""
    vocabulary, n = columns.vocabulary, len(columns.ids)
    contexts = np.zeros(n, np.uint16)
    line, call = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    spaces = np.array([len(text) - len(lexeme(text)) for text in vocabulary])[columns.ids]
    for text, part in texts:
        starts, ends = (column[part].astype(np.int64) for column in (columns.starts, columns.ends))
        contexts[part], line[part], call[part] = _annotate_document(
            text, starts, ends, spaces[part], part.start
        )
    return contexts, line, call


def _annotate_document(
    text: str, starts: np.ndarray, ends: np.ndarray, spaces: np.ndarray, base: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(context bits, line, call) of one document's tokens; `base` is the ordinal of the first."""
    n = len(starts)
    if not n or not text:
        return np.zeros(n, np.uint16), np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    bits, opener = scan(text)
    last = np.clip(ends - 1, 0, len(text) - 1)  # the state after the token has been read
    # a space that the tokenizer puts before a text, or between words, is not in the document
    here = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32) == ord(" ")
    spaces = np.where(here[np.minimum(starts, last)], spaces, 0)
    first = np.minimum(starts + spaces, last)
    contexts = np.zeros(n, np.uint16)
    for name, bit in SCANNED.items():
        contexts[(bits[last] & bit) > 0] |= CONTEXT_BITS[name]
    begins, heads = line_heads(text)
    head = heads[np.searchsorted(begins, np.minimum(starts, last), side="right") - 1]
    contexts[(head >= starts) & (head < ends)] |= CONTEXT_BITS["at the start of a line"]
    contexts[:EARLY] |= CONTEXT_BITS["early in the document"]
    contexts[spaces > 0] |= CONTEXT_BITS["after a space"]
    word = np.fromiter((c.isalnum() or c == "_" for c in text), bool, len(text))
    continues = (spaces == 0) & (starts > 0) & word[first] & word[np.maximum(starts - 1, 0)]
    contexts[continues] |= CONTEXT_BITS["continuing a word"]
    line = np.where(head >= 0, base + _token_at(ends, head), -1)
    bracket = opener[last]
    holder = _token_at(ends, bracket)
    holder -= (bracket >= 0) & ~word[first[holder]]  # a token such as foo( names itself
    call = np.where((bracket >= 0) & (holder >= 0), base + holder, -1)
    return contexts, line.astype(np.int32), call.astype(np.int32)


def _token_at(ends: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """The index of the token that holds each character."""
    return np.minimum(np.searchsorted(ends, characters, side="right"), len(ends) - 1)


def _number_pairs(codes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A number for each (previous, current) pair of lexemes; unique at the first token of a row."""
    before = codes.astype(np.int64)
    before[1:], before[:1] = codes[:-1], 0
    size = int(codes.max(initial=0)) + 1
    return np.where(place > 0, before * size + codes, -1 - np.arange(len(codes)))


def _is_repeated(keys: np.ndarray, row_start: np.ndarray) -> np.ndarray:
    """bool (n,): the same key stands among the MEMORY tokens before, in the same row."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    near = (order[1:] - order[:-1] <= MEMORY) & (row_start[order[1:]] == row_start[order[:-1]])
    out = np.zeros(len(keys), bool)
    out[order[1:][same & near]] = True
    return out

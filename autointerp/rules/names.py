"""A name in front of a rule: at most six words that say what its tokens have in common.

Names come from closed classes that are written down (`word_classes`), from morphology against the
words of the corpus (a plural is a word with "s" whose stem stands in the corpus too), from script,
from shapes and common endings, from the subject's tree over words, and from the place in line and
text. None comes from a language
model. A name is checked on tokens of the val split: most of the activation on what the rule matches
there lies on members of the class, several words of it carry that activation, the class is much
rarer among all tokens, and where the rule's other conditions hold the feature fires on a fair share
of its members' tokens. The rule stays what predicts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from autointerp.rules.annotations import CONTEXTS
from autointerp.rules.lexemes import SHAPES
from autointerp.rules.token_table import TokenTable
from autointerp.rules.word_classes import EXACT, LANGUAGES, word_classes

MOST = 0.7  # share of the activation on matched tokens that lies on members of a class
RARER = 3.0  # how many times rarer a class is among all tokens
NODE_RARER = 10.0  # the same for a node of the subject's tree over words: there are many nodes
SEVERAL = 1.8  # words, counted by their activation, that make a class of more than one word
FIRES = 0.25  # share of the tokens of a class on which the feature fires, where the rest holds
FILLS = 0.1  # share of the tokens of a place on which the feature fires
FOREIGN = 5.0  # words that make a class of another language: each is a piece of a word somewhere
LEAST_FIRINGS = 8  # matched tokens of val on which the feature fires; fewer prove no name
SHORTEST_WORD, LONGEST_WORD = 4, 24  # letters of a word that may have a form
SCRIPTS = {
    "CYRILLIC": "Cyrillic letters", "GREEK": "Greek letters", "CJK": "Chinese characters",
    "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana", "HANGUL": "Korean letters",
    "ARABIC": "Arabic letters", "HEBREW": "Hebrew letters", "DEVANAGARI": "Devanagari letters",
    "THAI": "Thai letters",
}  # fmt: skip
SHAPE_NAMES = {
    "a capitalised word": "capitalised words", "an ALL-CAPS word": "words in capitals",
    "a letter": "single letters", "digits": "numbers", "a quote": "quotes",
    "an opening bracket": "opening brackets", "a closing bracket": "closing brackets",
    "a sentence end": "ends of sentences", "a newline": "line breaks",
    "a blank line": "blank lines",
    "indentation": "indentation", "an operator": "operators", "punctuation": "punctuation",
    "an exception name": "names of exceptions",
}  # fmt: skip
PLACES = {
    "in a docstring": "words in docstrings", "in a comment": "words in comments",
    "in a string": "words in strings", "in brackets": "words in brackets",
    "at the start of a line": "first words of lines",
    "early in the document": "first words of documents",
    "continuing a word": "later pieces of words",
}  # fmt: skip
ENDINGS = ("tion", "sion", "ment", "ness", "able", "ible", "ity", "ism", "ist", "ous", "ive", "ful",
           "less", "ize", "ise", "ology", "ance", "ence", "ship", "hood", "ward")  # fmt: skip
BEGINNINGS = ("un", "re", "pre", "dis", "inter", "trans", "over", "under", "anti", "non", "sub",
              "super", "multi")  # fmt: skip
# name -> ({ending: what may stand in its place in the stem}, endings that are no such form)
FORMS: dict[str, Any] = {
    "plurals": ({"ies": ("y",), "es": ("",), "s": ("",)}, ("ss", "us", "is")),
    "past forms": ({"ied": ("y",), "ed": ("", "e")}, ("eed",)),
    "-ing forms": ({"ing": ("", "e")}, ("thing",)),
    "superlatives": ({"iest": ("y",), "est": ("", "e")}, ()),
    "adverbs in -ly": ({"ily": ("y",), "ly": ("", "le")}, ()),
}
NOWHERE: Mapping[str, np.ndarray | None] = {}
LEADS = {"here": "", "after 1": "after ", "before": "before "}  # relation -> beginning of a name


# ---------------------------------------------------------------- classes of words


@dataclass(frozen=True)
class NamedClasses:
    """C classes of the lexemes of a corpus, each with a name."""

    names: list[str]
    members: csr_matrix  # (C, L + 1) of ones; the last column is the absence of a token
    needed: np.ndarray  # (C,) words, counted by their activation, that make a class

    @classmethod
    def build(cls, lexemes: list[str]) -> NamedClasses:
        """The classes that hold at least two of the lexemes (L,)."""
        found = [(name, codes) for name, codes in _list_classes(lexemes) if len(codes) > 1]
        offsets = np.r_[0, np.cumsum([len(codes) for _, codes in found])].astype(np.int64)
        codes = np.array([code for _, codes in found for code in codes], np.int64)
        shape = (len(found), len(lexemes) + 1)
        table = csr_matrix((np.ones(len(codes)), codes, offsets), shape=shape)
        names = [name for name, _ in found]
        needed = [FOREIGN if name.startswith(LANGUAGES) else SEVERAL for name in names]
        return cls(names, table, np.array(needed))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """(C,) sum of `weights` (L + 1,) over the members of each class."""
        return np.asarray(self.members @ weights)

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """(C,) share of `weights` (L + 1,) that the members of each class carry."""
        return np.asarray(self.members @ weights) / max(float(weights.sum()), 1e-12)

    def count_carriers(self, weights: np.ndarray) -> np.ndarray:
        """(C,) members that carry the weights, (sum w)^2 / sum w^2; 0 where they carry none."""
        sums, squares = (np.asarray(self.members @ w) for w in (weights, weights**2))
        return np.divide(sums**2, squares, out=np.zeros(len(sums)), where=squares > 0)


def _list_classes(lexemes: list[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield (name, codes of its members) of every class."""
    lower = [text.lower() for text in lexemes]
    for name, words in word_classes().items():
        yield name, [code for code, text in enumerate(lower) if text in words]
    for name, words in EXACT.items():
        yield name, [code for code, text in enumerate(lexemes) if text in words]
    for shape, name in SHAPE_NAMES.items():
        yield name, [code for code, text in enumerate(lexemes) if SHAPES[shape](text)]
    forms: dict[str, list[int]] = {}
    known = frozenset(lexemes)
    for code, text in enumerate(lexemes):
        for name in (*forms_of(text, known), *scripts_of(text)):
            forms.setdefault(name, []).append(code)
    yield from forms.items()


def forms_of(word: str, known: frozenset[str]) -> list[str]:
    """The names of the forms that a word has, by the words of the corpus that are `known`.

    A regular form counts only where its stem is known: "cats" beside "cat", and "bus" alone is no
    plural. Only words of at least SHORTEST_WORD letters have a form.
    """
    if not word.isalpha() or len(word) < SHORTEST_WORD or len(word) > LONGEST_WORD:
        return []
    names = [f"words in -{end}" for end in ENDINGS if word.endswith(end)]
    names += [f"words in {part}-" for part in BEGINNINGS if _begins(word, part, known)]
    if word[0].isupper() and word.lower() in known:
        names.append("capitalised forms of common words" if word[1:].islower() else "")
    for name, (ends, excepted) in FORMS.items():
        for end, replacements in ends.items():
            stem = word.removesuffix(end)
            if stem == word or len(stem) < 2 or word.endswith(excepted):
                continue
            doubled = [stem[:-1]] if stem[-1] == stem[-2] and "" in replacements else []
            if known.intersection([stem + r for r in replacements] + doubled):
                names.append(name)
                break
    return [name for name in names if name]


def _begins(word: str, part: str, known: frozenset[str]) -> bool:
    return word.startswith(part) and len(word) > len(part) + 2 and word[len(part) :] in known


def scripts_of(text: str) -> list[str]:
    """The name of the script of a text that is not Latin; none for the others."""
    first = next((c for c in text if ord(c) > 0x2FF and c.isalpha()), None)
    if first is None:
        return []
    script = unicodedata.name(first, "").split(" ")[0]
    return [SCRIPTS[script]] if script in SCRIPTS else []


def _sum_below(values: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Sums (nodes,) of the values (leaves,) below each node."""
    running = np.r_[0.0, np.cumsum(values)]
    return running[spans[:, 1]] - running[spans[:, 0]]


# ---------------------------------------------------------------- the name of one rule


@dataclass(frozen=True)
class Seen:
    """What stands in one relation to the tokens of a rule, each (L + 1,) by code."""

    mass: np.ndarray  # activation on the tokens that the rule matches
    everywhere: np.ndarray  # all tokens
    fires: np.ndarray  # tokens on which the feature fires, where the rule's other conditions hold
    places: np.ndarray  # all tokens where they hold


@dataclass(frozen=True)
class Namer:
    """Names rules by what they match on one table of tokens, that of val."""

    table: TokenTable
    classes: NamedClasses

    @classmethod
    def build(cls, table: TokenTable) -> Namer:
        return cls(table, NamedClasses.build(table.annotations.lexemes))

    def name(
        self,
        matched: np.ndarray,
        activation: np.ndarray,
        relations: Sequence[str],
        rests: Mapping[str, np.ndarray | None] = NOWHERE,
    ) -> str:
        """The name of a rule, or an empty text where no class fits.

        `matched` are indices of the table's tokens that the rule matches, `activation` (N,) is the
        feature's on every token. `relations` are those that the rule's first part has a condition
        on, of LEADS; the class may be of the token there. `rests` holds for a relation the tokens
        on which the rule's other conditions hold; None, or no entry, stands for all tokens.
        """
        weights = activation[matched]
        if np.count_nonzero(weights) < LEAST_FIRINGS:
            return ""
        for relation in relations:
            view = self.table.views[relation]
            mass = np.bincount(view[matched], weights, self.table.n_codes)
            seen = Seen(
                mass,
                self.table.total_counts(relation),
                *self._count(relation, activation, rests.get(relation)),
            )
            name = self._choose_class(seen) or self._choose_node(seen)
            if name:
                return LEADS[relation] + name
        return self._choose_place(matched, activation) if "here" not in relations else ""

    def _count(
        self, relation: str, activation: np.ndarray, rest: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens of `rest` on which the feature fires, all of them), each (L + 1,) by code."""
        view, n = self.table.views[relation], self.table.n_codes
        if rest is None:
            fires = np.bincount(view[np.flatnonzero(activation)], minlength=n)
            return fires, self.table.total_counts(relation)
        codes = view[rest]
        return np.bincount(codes, activation[rest] > 0, n), np.bincount(codes, minlength=n)

    def _choose_class(self, seen: Seen) -> str:
        """The class that holds most of the activation, and says most by doing so."""
        shares = self.classes.shares(seen.mass)
        if not (shares >= MOST).any():
            return ""
        usual = self.classes.shares(seen.everywhere)
        fits = (shares >= MOST) & (shares >= RARER * usual)
        if not fits.any():
            return ""
        fits &= self.classes.count_carriers(seen.mass) >= self.classes.needed
        fits &= self.classes.sums(seen.fires) >= FIRES * self.classes.sums(seen.places)
        if not fits.any():
            return ""
        says = np.where(fits, shares * np.log(shares / np.maximum(usual, 1e-9) + 1e-9), -np.inf)
        return self.classes.names[int(np.argmax(says))]

    def _choose_node(self, seen: Seen) -> str:
        """The node of the subject's tree over words that holds most of the activation.

        It is named by the two of its words that carry most of it.
        """
        spans, leaves = self.table.words.spans, self.table.annotations.leaves
        if not len(spans):
            return ""
        mass = seen.mass
        of_mass = _sum_below(mass[leaves], spans) / mass.sum()
        if not (of_mass >= MOST).any():
            return ""
        fires, places, usual = (
            _sum_below(w[leaves], spans) for w in (seen.fires, seen.places, seen.everywhere)
        )
        usual = usual / seen.everywhere.sum()
        fits = np.flatnonzero(
            (of_mass >= MOST) & (of_mass >= NODE_RARER * usual) & (fires >= FIRES * places)
        )
        if not len(fits):
            return ""
        begin, end = spans[fits[np.argmin(spans[fits, 1] - spans[fits, 0])]]
        codes = leaves[begin:end]
        if mass[codes].sum() ** 2 < SEVERAL * (mass[codes] @ mass[codes]):
            return ""
        heaviest = codes[np.argsort(-mass[codes], kind="stable")]
        texts = [self.table.annotations.lexemes[code] for code in heaviest if mass[code] > 0]
        words = [text for text in texts if len(text) > 2 and text.isalpha()][:2]
        return f"words like {' and '.join(words)}" if len(words) == 2 else ""

    def _choose_place(self, matched: np.ndarray, activation: np.ndarray) -> str:
        """The place in line and text where most of the activation lies, and which it fills."""
        best, says, weights = "", 0.0, activation[matched]
        contexts, total = self.table.contexts[matched], weights.sum()
        for phrase, name in PLACES.items():
            bit = CONTEXTS.index(phrase)
            share = float(weights @ ((contexts >> bit) & 1)) / total
            if share < MOST:
                continue
            usual = max(float(((self.table.contexts >> bit) & 1).mean()), 1e-9)
            fires = float(((self.table.contexts[np.flatnonzero(activation)] >> bit) & 1).sum())
            fits = share >= RARER * usual and fires >= FILLS * usual * len(self.table)
            if fits and share / usual > says:
                best, says = name, share / usual
        return best

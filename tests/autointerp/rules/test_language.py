"""The rule language: what is printed is read back, and it predicts as a slow reading of its
definition does.
"""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from autointerp.rules.annotations import CONTEXT_BITS, CONTEXTS, Annotations, TokenColumns, annotate
from autointerp.rules.language import (
    WEAK,
    Predicate,
    Rule,
    Terms,
    is_rule,
    parse,
    parts_of,
    predict,
    render,
    without_weak,
)
from autointerp.rules.lexemes import AFFIXES, SHAPES
from core.errors import UsageError
from core.text.word_tree import lexeme

HAND_WRITTEN = [
    "unclear",
    'unclear: "a" (weak)',
    '"self" after "("',
    'digits after "0x"',
    '"import" or "from" at the start of a line',
    "anything in a docstring (weak)",
    '"def"; a word after "class"',
    '"i" after "for" then anything then "x" or "y"',
    'a capitalised word within 8 after "raise" before "(" not in a string',
    'anything in a line starting with "def" or a keyword in brackets opened after "print" repeated',
    '"↵    ", "\\t" or "; " continuing a word',
    "'\"' after '(\"'",
    '"a\\"\'b"',
    '"é", "\\u2028" or "�"',
    '"x" or words like "int"/"float" before words ending in "s"',
    'digits, words containing "[" or words like "cat"/"dog"/"↵" in a text with "socket" not in a string (weak)',
]


@pytest.mark.parametrize("text", HAND_WRITTEN)
def test_what_is_printed_is_what_was_read(text):
    assert render(parse(text)) == text


@pytest.mark.parametrize(("typed", "means"), [('"\\n"', "\n"), ('"↵ "', "\n "), ('"\\u21b5"', "↵")])
def test_a_newline_may_be_typed_as_it_is_shown(typed, means):
    assert parse(typed).predicates[0].here.literals == (means,)


@pytest.mark.parametrize(
    ("text", "parts", "strong"),
    [
        ('modal verbs: "will" (weak); "dog" after "the"', ['modal verbs: "will"', '"dog" after "the"'], 'modal verbs: "dog" after "the"'),
        ('"cat"; "dog" (weak)', ['"cat"', '"dog" (weak)'], '"cat"'),
        ('unclear: "cat"; "dog"', ['unclear: "cat"', '"dog"'], 'unclear: "cat"; "dog"'),
        ("rain; or: awards; weak: any noun", ["rain", "or: awards", "weak: any noun"], "rain; or: awards"),
        ("rain; snow", ["rain; snow"], "rain; snow"), ('"cat"', ['"cat"'], '"cat"'), ("", [""], ""),
    ],
)  # fmt: skip
def test_parts_and_the_strong_reading_of_a_label(text, parts, strong):
    assert parts_of(text) == parts and without_weak(text) == strong


def test_weak_may_stand_before_a_part():
    assert parse('"cat"; weak: "dog"') == parse('"cat"; "dog" (weak)')
    assert parse('weak: "cat"; "dog"') == parse('"cat" (weak); "dog"')


def some_terms(rng: random.Random, least: int = 0) -> Terms:
    pieces = [
        "a",
        "self",
        " ",
        "\n  ",
        "\\n",
        "↵",
        '"',
        "'",
        "\\",
        "; ",
        "or",
        "\x00",
        "é",
        "\\'",
        '\\"',
        "(weak)",
        "\ud800",
        "after",
    ]
    literals = tuple(
        dict.fromkeys(
            "".join(rng.choices(pieces, k=rng.randint(1, 2))) for _ in range(rng.randint(least, 2))
        )
    )
    shapes = tuple(
        sorted(rng.sample(list(SHAPES), rng.choice([0, 0, 1, 2])), key=list(SHAPES).index)
    )
    affixes = tuple((phrase, rng.choice(pieces)) for phrase in AFFIXES if rng.random() < 0.1)
    similar = tuple(tuple(rng.sample(pieces, 2)) for _ in range(rng.choice([0, 0, 0, 1])))
    return Terms(literals, shapes, affixes, similar)


def some_predicate(rng: random.Random) -> Predicate:
    maybe = lambda make: make() if rng.random() < 0.3 else None
    return Predicate(
        here=some_terms(rng),
        after=tuple(some_terms(rng) for _ in range(rng.choice([0, 0, 1, 2, 3]))),
        within=maybe(lambda: (rng.randint(1, 64), some_terms(rng))),
        before=maybe(lambda: some_terms(rng)),
        line=maybe(lambda: some_terms(rng)),
        call=maybe(lambda: some_terms(rng)),
        contexts=tuple((name, rng.random() < 0.5) for name in CONTEXTS if rng.random() < 0.15),
        weak=rng.random() < 0.3,
        text=maybe(lambda: some_terms(rng)),
    )


def test_random_rules_round_trip():
    rng, tried = random.Random(0), 0
    while tried < 400:
        rule = Rule(
            tuple(some_predicate(rng) for _ in range(rng.choice([1, 1, 2]))), rng.random() < 0.2
        )
        if len(render(rule)) <= 200:
            assert parse(render(rule)) == rule
            tried += 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tokens about cats",
        "digit",
        '"self',
        '"self" aft "("',
        '"a" after',
        '"a" after "b" after "c"',
        '"a" after "b" then "c" then "d" then "e"',
        '"a" within 99 after "b"',
        '"a" within after "b"',
        '"a" not after "b"',
        '"a" repeated not repeated',
        '"a" (weak) after "b"',
        '"a" (strong)',
        "words like",
        'words like "a"/',
        "words ending in digits",
        'words starting with ""',
        'unclear "a"',
        '"a";',
        '"\\q"',
        '"a"; "b"; "c"; "d"; "e"',
        " or ".join(f'"{"x" * 50}{i}"' for i in range(4)),
    ],
)
def test_what_is_not_in_the_language_says_so(text):
    assert not is_rule(text)
    with pytest.raises(UsageError) as error:
        parse(text)
    assert error.value.message and error.value.next_step


CODE = '''import os
class Dog(Animal):
    """A dog's (life)."""

    def bark(self, n=0x10):
        # self (again)
        print("self", n, self.name("x") + 'Y')
        return [n for n in range(n)]
'''


def pieces_of(text: str, seed: int) -> list[str]:
    """A text cut as byte-pair tokens are: words with the space before them, sometimes split in two."""
    rng, out = random.Random(seed), []
    for piece in re.findall(r" ?\w+|\n *|[^\w\s]+| +", text):
        cut = rng.randint(1, len(piece) - 1) if len(piece) > 3 and rng.random() < 0.3 else 0
        out += [piece[:cut], piece[cut:]] if cut else [piece]
    return out


def joined(parts: list[list[str]]) -> Annotations:
    """Rows of one corpus, each its own document."""
    flat = [token for part in parts for token in part]
    vocabulary = sorted(set(flat))
    ends = np.concatenate([np.cumsum([len(token) for token in part]) for part in parts])
    starts = ends - np.array([len(t) for t in flat])
    offsets = np.r_[0, np.cumsum([len(part) for part in parts])]
    texts = [
        ("".join(part), slice(int(a), int(b)))
        for part, a, b in zip(parts, offsets[:-1], offsets[1:], strict=True)
    ]
    ids = np.array([vocabulary.index(t) for t in flat])
    return annotate(TokenColumns(vocabulary, ids, starts, ends, offsets), texts)


def slow_predict(rule: Rule, corpus: Annotations, rows: list[list[str]]) -> list[float]:
    """The definition, token by token, from the tokens' texts; contexts and relations to lines and
    brackets are taken from the corpus.
    """

    def fits(terms, text):
        named = any(SHAPES[s](text or "") for s in terms.shapes) or any(
            AFFIXES[phrase](text or "", part) for phrase, part in terms.affixes
        )
        return text is not None and (
            not len(terms)
            or text in terms.literals
            or named
            or any(text in words for words in terms.similar)
        )

    out, ordinal = [], 0
    for row in rows:
        row = [lexeme(t) for t in row]
        start = ordinal
        for i in range(len(row)):
            at = lambda j, row=row: row[j] if 0 <= j < len(row) else None
            told = lambda where, row=row, start=start: row[where - start] if where >= 0 else None
            value = 0.0
            for p in rule.predicates:
                ok = fits(p.here, row[i])
                ok &= all(fits(t, at(i - d)) for d, t in enumerate(reversed(p.after), 1))
                ok &= p.within is None or any(
                    fits(p.within[1], at(j)) for j in range(max(0, i - p.within[0]), i)
                )
                ok &= p.before is None or fits(p.before, at(i + 1))
                ok &= p.line is None or fits(p.line, told(corpus.line[ordinal]))
                ok &= p.call is None or fits(p.call, told(corpus.call[ordinal]))
                ok &= p.text is None or any(fits(p.text, word) for word in row)
                ok &= all(
                    bool(corpus.contexts[ordinal] & CONTEXT_BITS[name]) == holds
                    for name, holds in p.contexts
                )
                value = max(value, (WEAK if p.weak else 1.0) * ok)
            out.append(value)
            ordinal += 1
    return out


@pytest.mark.slow
def test_prediction_equals_a_slow_reading():
    rng = random.Random(3)
    rows = [pieces_of(CODE, 1), ["x"], pieces_of(CODE[::-1], 2), pieces_of("a self b", 3)]
    corpus = joined(rows)
    words = corpus.lexemes
    hits = 0
    for _ in range(400):
        p = some_predicate(rng)
        swap = lambda terms: (
            replace(terms, literals=tuple(rng.sample(words, 3)))
            if terms is not None and len(terms)
            else terms
        )
        p = Predicate(swap(p.here), tuple(map(swap, p.after[:2])), p.within and (p.within[0], swap(p.within[1])), swap(p.before), swap(p.line),
                      swap(p.call), p.contexts[:1], p.weak, swap(p.text))  # fmt: skip
        rule = Rule((p, some_predicate(rng)))
        fast = predict(rule, corpus, np.arange(len(corpus)))
        np.testing.assert_allclose(fast, slow_predict(rule, corpus, rows), rtol=1e-6)
        hits += fast.any()
    assert hits > 100


def test_a_row_begins_with_nothing_before_it():
    corpus = joined([["a", "b"], ["b", "a"]])
    every = np.arange(4)
    assert predict(parse('"b" after "a"'), corpus, every).tolist() == [0, 1, 0, 0]
    assert predict(parse('anything before "b"'), corpus, every).tolist() == [1, 0, 0, 0]
    assert predict(parse("anything after anything"), corpus, every).tolist() == [0, 1, 0, 1]
    assert predict(parse('"a" within 8 after "a" or "b"'), corpus, every).tolist() == [0, 0, 0, 1]
    assert predict(parse('"b" repeated'), corpus, every).tolist() == [0, 0, 0, 0]


def test_levels_and_unclear():
    corpus = Annotations.from_text(["a", " b", "c"])
    every = np.array([2, 0, 1])
    np.testing.assert_allclose(
        predict(parse('"a" (weak); "b"; anything (weak)'), corpus, every), [WEAK, WEAK, 1]
    )
    assert predict(parse("unclear"), corpus, every).tolist() == [0, 0, 0]
    assert predict(parse('unclear: "b"'), corpus, every).tolist() == [0, 0, 1]


def test_contexts_of_python():
    corpus = Annotations.from_text(tokens := pieces_of(CODE, 0))
    inside = lambda text: "".join(
        t
        for t, hit in zip(
            tokens, predict(parse(text), corpus, np.arange(len(tokens))) > 0, strict=True
        )
        if hit
    )
    assert inside("anything in a docstring") == '"""A dog\'s (life)."""'
    assert inside("anything in a comment") == "# self (again)"
    assert "self" in inside("anything in a string") and "again" not in inside(
        "anything in a string"
    )
    assert inside("anything in brackets").startswith("(Animal(self, n=0x10")
    assert inside('anything in a line starting with "class"') == "class Dog(Animal):\n    "
    assert inside('anything in brackets opened after "range"') == "(n"
    assert inside('"n" repeated before ")]"') == "n"


def test_quotation_marks_in_prose_open_nothing():
    corpus = Annotations.from_text(["don", "'", "t", " say", " it", "'", "s", " so"])
    assert not predict(parse("anything in a string"), corpus, np.arange(8)).any()
    assert Annotations.from_text([]).codes.shape == (0,)

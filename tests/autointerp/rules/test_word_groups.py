"""Groups of words: their sums are those of their members, and what a label calls a field is read
back as the same words.
"""

import numpy as np

from autointerp.rules.annotations import TokenColumns, annotate
from autointerp.rules.language import Predicate, Rule, parse, predict, render
from autointerp.rules.lexemes import AFFIXES, SHAPES
from autointerp.rules.word_groups import WordGroups
from core.text.word_tree import tree

WORDS = [
    "reading",
    "writing",
    "singing",
    "cat",
    "cats",
    "dog",
    "dogs",
    "cow",
    "(",
    "[",
    "{",
    ");",
    "])",
    "},",
    "one",
    "two",
    "three",
    "four",
    "five",
    "Six",
    "SEVEN",
    "eight",
    "unfit",
    "undo",
    "unbind",
]


def corpus():
    n = len(WORDS)
    vectors = np.random.default_rng(0).normal(size=(n, 5))
    sizes = np.array([len(w) for w in WORDS])
    ends = np.cumsum(sizes)
    columns = TokenColumns(WORDS, np.arange(n), ends - sizes, ends, np.array([0, n // 2, n]))
    return annotate(columns, [("".join(WORDS), slice(0, n))], tree(vectors))


def test_sums_are_those_of_the_members():
    groups = WordGroups.build(corpus())
    values = np.random.default_rng(1).random((3, len(WORDS) + 1))
    total = groups.sums(values)
    assert total.shape == (3, len(groups.costs)) and len(groups.spans) > 5
    slow = np.stack([values[:, groups.codes(g)].sum(1) for g in range(len(groups.costs))], axis=1)
    np.testing.assert_allclose(total, slow)
    np.testing.assert_allclose(groups.sums(values[0]), slow[0])
    np.testing.assert_allclose(groups.shapes_only().sums(values), slow[:, : len(SHAPES)])


def test_what_is_said_of_a_group_means_its_members():
    here = corpus()
    groups, rng = WordGroups.build(here), np.random.default_rng(2)
    for group in range(len(groups.costs)):
        terms = groups.terms(group, rng.random(len(WORDS) + 1))
        said = render(Rule((Predicate(terms),)))
        found = np.flatnonzero(predict(parse(said), here, np.arange(len(WORDS))))
        assert {here.lexemes[here.codes[i]] for i in found} == {
            here.lexemes[c] for c in groups.codes(group)
        }, said


def test_a_field_shows_the_words_that_weigh_most():
    here = corpus()
    groups = WordGroups.build(here)
    group = len(groups.costs) - 1
    heavy = int(groups.codes(group)[-1])
    weights = np.ones(len(WORDS) + 1)
    weights[heavy] = 9
    assert groups.terms(group, weights).similar[0][0] == here.lexemes[heavy]


def test_affixes():
    affixes = {
        a: [corpus().lexemes[c] for c in WordGroups.build(corpus()).codes(len(SHAPES) + i)]
        for i, a in enumerate(WordGroups.build(corpus()).affixes)
    }
    assert list(AFFIXES) == ["words starting with", "words ending in", "words containing"]
    assert all(
        AFFIXES[phrase](word, part) for (phrase, part), words in affixes.items() for word in words
    )
    assert all(
        sum(AFFIXES[phrase](w, part) for w in WORDS) == len(words)
        for (phrase, part), words in affixes.items()
    )
    assert not {("words ending in", "ats"), ("words starting with", "un")} & set(
        affixes
    )  # three words are no group


def test_a_word_outside_the_tree_stands_for_itself():
    here = corpus()
    ids = here.codes * 0 + np.arange(len(WORDS))
    nowhere = np.zeros(len(WORDS), int)
    bare = annotate(TokenColumns(WORDS, ids, nowhere, nowhere, np.array([0, len(WORDS)])), [])
    assert np.flatnonzero(
        predict(parse('words like "cat"/"dog"/"never seen"'), bare, np.arange(len(WORDS)))
    ).tolist() == [3, 5]

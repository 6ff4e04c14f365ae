"""Names of rules: a class is named where its members carry the activation, and nowhere else."""

import numpy as np
import pytest

from autointerp.rules.annotations import Annotations
from autointerp.rules.language import is_rule, parse, predict, render
from autointerp.rules.names import (
    BEGINNINGS,
    ENDINGS,
    FORMS,
    PLACES,
    SCRIPTS,
    NamedClasses,
    Namer,
    Seen,
    forms_of,
    scripts_of,
)
from autointerp.rules.token_table import TokenTable
from autointerp.rules.word_classes import EXACT, word_classes
from autointerp.rules.word_groups import WordGroups
from core.errors import UsageError
from tests.autointerp.rules.test_fit import Planted

WORDS_OF_A_TEXT = (
    "cat cats bus walk walked hope hoped hoping run running eat king thing city cities happy "
    "happily quick quickly small smallest lass Name name need"
)
KNOWN = frozenset(WORDS_OF_A_TEXT.split())


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("cats", "plurals"), ("cities", "plurals"), ("walked", "past forms"),
        ("hoped", "past forms"), ("hoping", "-ing forms"), ("running", "-ing forms"),
        ("smallest", "superlatives"), ("happily", "adverbs in -ly"), ("quickly", "adverbs in -ly"),
        ("Name", "capitalised forms of common words"),
    ],
)  # fmt: skip
def test_a_regular_form_is_one_where_its_stem_is_known(word, form):
    assert form in forms_of(word, KNOWN)


@pytest.mark.parametrize("word", ["bus", "thing", "king", "lass", "need", "cat", "x1", "lists"])
def test_what_only_looks_like_a_form_is_none(word):
    assert forms_of(word, KNOWN) == []


def test_scripts():
    assert scripts_of("где") == ["Cyrillic letters"] and scripts_of("日本") == [
        "Chinese characters"
    ]
    assert scripts_of("plain") == [] and scripts_of("é") == [] and scripts_of("") == []


def test_every_class_has_a_name_that_the_language_reads():
    forms = [f"words in -{end}" for end in ENDINGS] + [f"words in {part}-" for part in BEGINNINGS]
    other = ["capitalised forms of common words", *FORMS, *SCRIPTS.values(), *PLACES.values()]
    for name in [*word_classes(), *EXACT, *forms, *other]:
        for text in (f'{name}: "a"', f'after {name}: "a"'):
            rule = parse(text)
            assert rule.name in text and render(rule) == text


@pytest.mark.parametrize(
    "text",
    [
        'modal verbs: "will", "must" or "should"', 'words in -tion: words ending in "tion"',
        'parts of web addresses: "http" before ":" (weak); "x"', 'unclear: modal verbs: "will"',
    ],
)  # fmt: skip
def test_a_name_is_read_back_and_predicts_nothing(text):
    rule = parse(text)
    assert rule.name and render(rule) == text
    corpus = Annotations.from_text([" will", " must", " x", " http", ":", " nation"])
    bare = parse(text.replace(f"{rule.name}: ", "", 1))
    assert bare.name == "" and bare.predicates == rule.predicates
    at = np.arange(len(corpus))
    assert (predict(rule, corpus, at) == predict(bare, corpus, at)).all()


def test_a_colon_in_quotes_begins_no_name():
    assert parse('digits after ":"').name == "" and parse('unclear: ":"').name == ""
    assert not is_rule("names of things: whatever they are") and not is_rule('a: b: "c"')


def test_a_name_of_seven_words_is_refused():
    with pytest.raises(UsageError, match="7 words"):
        parse('one two three four five six seven: "a"')


# ---------------------------------------------------------------- on text

TOKENS = Planted()
WORDS = WordGroups.build(Annotations.from_tokens(TOKENS))
TABLE = TokenTable.build(TOKENS, WORDS, "val", 100_000, 0)
NAMER = Namer.build(TABLE)


def name_of(weights: dict[str, float], relations=("here",), matched=None) -> str:
    """The name of a rule that matches these words, with these activations there."""
    lexemes = TABLE.annotations.lexemes
    levels = np.array([weights.get(text, 0.0) for text in lexemes])
    view = TABLE.views[relations[0] if relations else "here"]
    activation = np.r_[levels, 0.0][view]
    at = np.flatnonzero(activation > 0) if matched is None else matched
    return NAMER.name(at, activation, relations)


def test_a_class_is_named_where_its_words_carry_the_activation():
    assert name_of({"7": 1.0, "42": 1.0, "1999": 2.0}) == "numbers"
    assert name_of({"+": 1.0, "=": 1.0}) == "operators"


def test_the_token_before_has_a_name_too():
    assert name_of({"7": 1.0, "42": 1.0, "1999": 2.0}, ("after 1",)) == "after numbers"


def test_words_of_no_class_and_single_words_have_no_name():
    assert name_of({"x": 1.0, ")": 1.0, "the": 1.0, "7": 1.0}) == ""
    assert name_of({"7": 1.0}) == ""
    assert name_of({"7": 1.0, "42": 0.01}) == ""  # one word carries it
    assert name_of({}, matched=np.arange(10)) == ""


def test_a_class_that_is_everywhere_names_nothing():
    """Every word fires alike: whatever holds most of it is as frequent among all tokens."""
    assert name_of(dict.fromkeys(TABLE.annotations.lexemes, 1.0)) == ""


def test_words_that_the_subject_puts_together_are_named_by_two_of_them():
    name = name_of({"cat": 3.0, "dog": 2.0, "print": 1.0, "return": 1.0, "self": 1.0})
    assert name in ("words like cat and dog", "")
    every = np.ones(TABLE.n_codes)
    assert NAMER._choose_node(Seen(every * 1e-9, every, every, every)) == ""


def test_classes_of_fewer_than_two_words_of_the_corpus_are_left_out():
    classes = NamedClasses.build(["will", "must", "monday", "cat"])
    assert "modal verbs" in classes.names and "days of the week" not in classes.names
    shares = dict(
        zip(classes.names, classes.shares(np.array([3.0, 3.0, 2.0, 2.0, 0.0])), strict=True)
    )
    assert shares["modal verbs"] == pytest.approx(0.6)


def test_a_class_that_mostly_stays_silent_names_nothing():
    """The feature fires on every number in brackets that it matches, and on no number elsewhere."""
    numbers = {"7", "42", "1999"}
    at = np.flatnonzero(
        [TABLE.annotations.lexemes[code] in numbers for code in TABLE.views["here"]]
    )
    activation = np.zeros(len(TABLE))
    few = at[:: len(at) // 40]
    activation[few] = 1.0
    assert NAMER.name(few, activation, ("here",)) == ""
    assert NAMER.name(few, activation, ("here",), {"here": few}) == "numbers"


def test_a_class_of_another_language_needs_more_than_pieces_of_words():
    classes = NamedClasses.build(["le", "les", "des", "cat", "will", "must"])
    needed = dict(zip(classes.names, classes.needed, strict=True))
    assert needed["French function words"] > 3 > needed["modal verbs"]

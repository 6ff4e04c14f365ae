"""Clear labels: the first part names enough of the activity, is right, and is one thing."""

import numpy as np
import pytest

from autointerp.rules.annotations import Annotations
from autointerp.rules.clarity import NOTHING, fold_word, is_whole, look, strong_half
from autointerp.rules.fit import prune_words, score_alone
from autointerp.rules.names import Namer
from autointerp.rules.search import Target
from autointerp.rules.token_table import Option, TokenTable
from autointerp.rules.word_groups import WordGroups
from tests.autointerp.rules.test_fit import Planted

TOKENS = Planted()
WORDS = WordGroups.build(Annotations.from_tokens(TOKENS))
TABLE = TokenTable.build(TOKENS, WORDS, "val", 100_000, 0)
NAMER = Namer.build(TABLE)
CODES = TABLE.annotations.lexeme_codes
HEAP = ("x", ")", "the", "MAX", "value")  # words that nothing holds together


def target(weights: dict[str, float], noise: float = 0.0) -> Target:
    """A feature that fires with these activations on these words."""
    levels = np.zeros(TABLE.n_codes)
    for word, level in weights.items():
        levels[CODES[word]] = level
    activation = levels[TABLE.views["here"]]
    anywhere = np.random.default_rng(0).random(len(TABLE)) < noise
    activation = np.where(anywhere & (activation == 0), 0.2, activation)
    return Target.build(TABLE, activation, np.flatnonzero(activation))


def words(*texts: str, slot: str = "here") -> list[Option]:
    return [Option(slot, "words", tuple(CODES[text] for text in texts))]


def seen(weights: dict[str, float], *parts: list[Option], noise: float = 0.0):
    return look(target(weights, noise), list(parts), NAMER)


def test_one_word_is_clear_and_many_unrelated_ones_are_a_heap():
    one = seen({"x": 1.0}, words("x"))
    assert one.is_clear(one.name) and one.things == 1 and one.covered == one.led == one.right == 1
    heap = seen(dict.fromkeys(HEAP, 1.0), words(*HEAP))
    assert heap.things == pytest.approx(5, abs=0.3) and not heap.is_clear(heap.name)
    assert heap.is_clear("words of a kind")


def test_a_heap_of_one_heavy_word_and_light_ones_is_that_word():
    uneven = seen(dict.fromkeys(HEAP, 0.02) | {"x": 1.0}, words(*HEAP))
    assert uneven.things < 1.3 and uneven.is_clear("")


def test_words_with_a_name_are_clear():
    found = seen({"7": 1.0, "42": 1.0, "1999": 1.0}, words("7", "42", "1999"))
    assert found.name == "numbers" and found.is_clear(found.name) and not found.is_clear("")


def test_a_heap_beside_a_group_of_words_stays_a_heap():
    """The feature fires on few words of the group, so that the group is none."""
    group = next(
        g for g in range(WORDS.table.shape[0], WORDS.table.shape[0] + len(WORDS.spans))
        if CODES["cat"] in WORDS.codes(g).tolist() and len(WORDS.codes(g)) >= 5
    )  # fmt: skip
    option = Option("here", "words", tuple(CODES[w] for w in HEAP), (group,))
    whole = {TABLE.annotations.lexemes[code]: 1.0 for code in WORDS.codes(group)}
    heap = seen(dict.fromkeys(HEAP, 1.0) | {"cat": 1.0}, [option])
    assert heap.things == pytest.approx(6, abs=0.4)
    assert seen(whole, [Option("here", "words", (), (group,))]).things == 1
    joined = seen(whole | {"x": 1.0}, [Option("here", "words", (CODES["x"],), (group,))])
    assert 1 < joined.things < 2


def test_a_label_that_names_little_or_is_mostly_wrong_is_not_clear():
    little = seen(dict.fromkeys(HEAP, 1.0), words("x"))
    assert 0.15 < little.covered < 0.25 and not little.is_clear("")
    everywhere = [Option("early in the text", "context", (5, 1))]
    wrong = seen({"x": 1.0}, everywhere)
    assert wrong.right < 0.1 and not wrong.is_clear("")


def test_the_part_that_names_most_of_the_strong_half_stands_first():
    weights = {"x": 1.0, ")": 3.0, "the": 3.0}
    assert seen(weights, words("x"), words(")", "the")).order == [1, 0]
    found = seen(weights, words(")", "the"), words("x"))
    assert found.order == [0, 1] and found.led == 1.0 and found.covered == 1.0


def test_a_feature_that_is_silent_on_val_is_not_clear():
    assert seen({}, words("x")) == NOTHING and not NOTHING.is_clear("a name")


def test_the_strong_half_by_hand():
    half = strong_half(target({"x": 1.0, ")": 3.0, "the": 3.0}))
    assert set(np.unique(half).tolist()) == {0.0, 3.0}


def test_a_group_is_one_thing_where_the_feature_fires_on_most_of_its_words():
    assert is_whole(np.array([9, 5, 0]), np.array([9, 9, 9]))
    assert not is_whole(np.array([9, 1, 0]), np.array([9, 9, 9]))
    assert not is_whole(np.array([1, 1]), np.array([2, 2]))  # too rare to say


@pytest.mark.parametrize(
    ("a", "b"), [("The", "the"), ("keys", "Key"), ("\n", "\n    "), (")", "):")]
)
def test_forms_of_a_word_are_one_thing(a, b):
    assert fold_word(a) == fold_word(b)


def test_different_words_are_different_things():
    assert len({fold_word(text) for text in ("is", "i", "gas", "ga", "(", ")", "7")}) == 7


def test_words_that_add_nothing_are_pruned():
    feature = target({"x": 1.0, ")": 1.0})
    (kept,) = prune_words(words("x", ")", "the"), feature)
    assert {TABLE.annotations.lexemes[c] for c in kept.values} == {"x", ")"}
    assert prune_words(words("the", "MAX"), target({}))[0].n_terms == 1  # one term stays
    assert score_alone(feature, [kept]) > score_alone(feature, words("x", ")", "the"))


def test_pruning_leaves_contexts_and_single_words_alone():
    parts = [*words("x"), Option("early in the text", "context", (5, 1))]
    assert prune_words(parts, target({"x": 1.0})) == parts

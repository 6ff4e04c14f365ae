"""Simulation by the log-probabilities of a question: what is asked, and what is read."""

import math
import re

import numpy as np
import pytest

from autointerp.scores.simulator import EXAMPLE, TOLD_FROM, read_slots, slots_messages

WINDOWS = [("The", " cat", " unknown"), ("\t", "<<x>>")]


def tokens_of(messages, split):
    """The question's text in tokens, by a regular expression."""
    return re.findall(split, "".join(f"<{m['role']}>{m['content']}" for m in messages), re.DOTALL)


def told(tokens, digits):
    """The question's tokens as an endpoint tells them, `digits` as alternatives at the slots."""
    out, slot, text = [None], 0, ""
    for number, token in enumerate(tokens):
        entry = {str(number): {"logprob": math.log(0.2), "rank": 1, "decoded_token": token}}
        at = token.rfind("unknown"[: len(token)]) if "u" in token else -1
        if at >= 0 and (text + token[:at]).endswith("\t"):
            for i, (digit, p) in enumerate(digits[slot]):
                entry[f"d{i}"] = {"logprob": math.log(p), "decoded_token": token[:at] + str(digit)}
            slot += 1
        out.append(entry)
        text += token
    return out


def at_slots(*own):
    """Alternatives at every slot: those of the example say nothing."""
    return [[(0, 0.9)]] * TOLD_FROM + [list(o) for o in own]


@pytest.mark.parametrize(
    "split",
    [
        r"\t|unknown|[^\tu]+|u",
        r"\tunknown|[^\t]|\t",
        r".",
        r"\t|unk|nown|[^\tu]+|u",
        r'[^"\t]*"\t|unknown|[^\t"u]+|.',
    ],
)
def test_each_slot_is_the_mean_of_the_digits_that_could_stand_there(split):
    tokens = tokens_of(slots_messages("cats", WINDOWS), split)
    digits = at_slots(
        [(9, 0.6), (0, 0.2)], [(3, 0.5)], [("x", 0.8)], [(0, 0.7)], [("12", 0.1), (5, 0.1)]
    )
    first, second = read_slots(told(tokens, digits), [3, 2])
    np.testing.assert_allclose(first, [9 * 0.6 / 0.8, 3, np.nan], rtol=1e-6)
    np.testing.assert_allclose(second, [0, 5], rtol=1e-6)


def test_what_does_not_hold_the_slots_is_no_answer():
    tokens = tokens_of(slots_messages("cats", WINDOWS), r"\t|unknown|[^\tu]+|u")
    every = told(tokens, at_slots(*[[(1, 0.5)]] * 5))
    assert read_slots(every[: len(every) // 2], [3, 2]) == [None, None], (
        "a template that cuts the answer off"
    )
    assert read_slots(every, [3, 3]) == [None, None]
    assert read_slots([], [2]) == [None]
    nothing = told(tokens, at_slots(*[[("x", 0.5)]] * 3, *[[(1, 0.5)]] * 2))
    assert read_slots(nothing, [3, 2])[0] is None and read_slots(nothing, [3, 2])[1].tolist() == [
        1,
        1,
    ]


def test_the_question_shows_an_example_and_hides_every_digit_that_is_asked_for():
    *_, shown, user, answer = slots_messages('the word "x"', WINDOWS)
    assert user["content"] == 'Label: "the word \\"x\\""' and answer["role"] == "assistant"
    assert (
        answer["content"] == '"The"\tunknown\n" cat"\tunknown\n" unknown"\tunknown\n'
        '\n"\\t"\tunknown\n"\\u003c\\u003cx>>"\tunknown\n'
    )
    assert shown["content"].count("unknown") == TOLD_FROM and shown["content"].count("\n") == len(
        EXAMPLE[1]
    )

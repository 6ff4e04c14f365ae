"""Replies that are nearly JSON: every form is read, counted, and nothing is made up."""

import numpy as np
import pytest

from autointerp.labels.prompt import parse_label, read_confidence
from autointerp.llm.messages import last_object
from autointerp.llm.repair import keep_repairs, reading
from autointerp.llm.replies import Reply
from autointerp.llm.session import ask_until_read, read_whole
from autointerp.scores.effect_choice import parse_choice
from autointerp.scores.generation import parse_texts
from autointerp.scores.prompts import parse_digits, parse_ratings, parse_simulation
from autointerp.titles.naming import read_apart, read_outsider, read_title

CATS = [
    "{'label': 'cats', 'confidence': 0.8}",
    '{"label": "cats", "confidence": 0.8,}',
    '{"label": "cats", "confidence": 0.8, "second": None}',
    '{"label": "\ncats\n", "confidence": 0.8}',
    '{"Label": "cats", "CONFIDENCE": 0.8}',
    '{"label": "cats", "Confidence": 0.8}',
    '{"label": "cats", "confidence": 80}',
    '{"label": "cats", "confidence": 80%}',
    '{"label": "cats", "confidence": "80%"}',
    '{"label": "cats", "confidence": "80 percent"}',
    '{"label": "cats", "confidence": "8/10"}',
    '{"label": "cats", "confidence": "4 out of 5"}',
    '{"label": "cats", "confidence": "0,8"}',
    '{"label": "cats", "confidence": [0.8]}',
    '{"label": "cats", "confidence": .8}',
    '{"label": ["cats"], "confidence": 0.8}',
    "{label: cats, confidence: 0.8}",
    "{“label”: “cats”, “confidence”: 0.8}",
    '{"label": "cats" "confidence": 0.8}',
    '{"label": "cats"; "confidence": 0.8}',
    '{\n  "label": "cats", // the animal\n  "confidence": 0.8\n}',
    '{"answer": {"Label": "cats", "confidence": 0.8,}}',
    '[{"label": "cats", "confidence": 0.8,}]',
    '"{\\"label\\": \\"cats\\", \\"confidence\\": 0.8}"',
    "```json\n{'label': 'cats', 'confidence': 0.8,}\n```",
    "Sure! {'label': 'cats', 'confidence': 0.8} I hope {this} helps.",
    "<think>{'label': 'dogs', 'confidence': 1}</think>{'label': 'cats', 'confidence': 0.8}",
    "<Think>{'label': 'dogs', 'confidence': 1}</THINK> {'label': 'cats', 'confidence': 0.8}",
    "{'label': 'dogs', 'confidence': 1}</think>{'label': 'cats', 'confidence': 0.8}",
    "<seed:think>dogs?</seed:think>{'label': 'cats', 'confidence': 0.8}",
    "<|channel>thought\ndogs?<channel|>{'label': 'cats', 'confidence': 0.8}",
    "<|channel|>analysis<|message|>dogs?<|end|><|start|>assistant<|channel|>final<|message|>"
    "{'label': 'cats', 'confidence': 0.8}",
    "[THINK]dogs?[/THINK]{'label': 'cats', 'confidence': 0.8}",
    "{'label': 'dogs', 'confidence': 0.1}\n{'label': 'cats', 'confidence': 0.8}",
    "Label: cats\nConfidence: 0.8",
    '**Label:** "cats"\n**Confidence:** 80%',
    "- label: cats\n- confidence: 0.8",
    "<label>cats</label>\n<confidence>0.8</confidence>",
    "{«label»: «cats», «confidence»: 0.8}",
    "{„label“: „cats“, „confidence“: 0.8}",
    "{「label」: 「cats」, 「confidence」: 0.8}",
    "{‘label’: ‘cats’, ‘confidence’: 0.8}",
    "{`label`: `cats`, `confidence`: 0.8}",
    "{``label'': ``cats'', ``confidence'': 0.8}",
    '｛"label"： "cats"， "confidence"： 0.8｝',
    '{"label" = "cats", "confidence" = 0.8}',
    '{"label" => "cats", "confidence" => 0.8}',
    'label: "cats", confidence: 0.8',
    "Label: cats (Confidence: 0.8)",
    "Label： cats\nConfidence： 0.8",
    "1. Label: cats\n2. Confidence: 0.8",
    "### Label\ncats\n\n### Confidence\n0.8",
    "| label | confidence |\n|---|---|\n| cats | 0.8 |",
    'answer(label="cats", confidence=0.8)',
    "<function=answer><parameter=label>cats</parameter><parameter=confidence>0.8</parameter>",
    '<parameter name="label">cats</parameter>\n<parameter name="confidence">0.8</parameter>',
    '{"label": "cats", "confidence": "~0.8"}',
    '{"label": "cats", "confidence": "about 80%"}',
    '{"label": "cats", "confidence": "0.8 (high)"}',
    '{"label": "cats", "confidence": "High (0.8)"}',
    '{"label": "cats", "confidence": "0.8/1.0"}',
    '{"result": "{\\"label\\": \\"cats\\", \\"confidence\\": 0.8}"}',
    '{\u200b"label": "cats", "confidence": +0.8;}',
]


def repaired(read, text):
    """(what `read` reads, whether it was counted as repaired)."""
    keys = set()
    with keep_repairs(keys), reading("key"):
        value = read(text)
    assert keys <= {"key"}
    return value, bool(keys)


@pytest.mark.parametrize("text", CATS)
def test_a_nearly_json_label_is_read_and_counted(text):
    assert repaired(parse_label, text) == (("cats", 0.8), True)


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "cats", "confidence": 0.8}',
        '```json\n{"label": "cats",\n "confidence": "0.8"}\n```',
        '<think>{"label": "dogs", "confidence": 1}</think>{"label": "cats", "confidence": 0.8}',
        '<|im_start|>assistant\n{"label": "cats", "confidence": 0.8}<|im_end|>',
        '<tool_call>{"arguments": {"label": "cats", "confidence": 0.8}}</tool_call>',
        "<|channel|>analysis<|message|>dogs?<|end|><|start|>assistant<|channel|>final "
        '<|constrain|>json<|message|>{"label": "cats", "confidence": 0.8}<|return|>',
        '<think>a</think> hm <think>b</think>{"label": "cats", "confidence": 0.8}',
        "Here is my thought process: dogs? Here is my response: "
        '{"label": "cats", "confidence": 0.8}',
    ],
)
def test_json_is_not_counted_as_repaired(text):
    assert repaired(parse_label, text) == (("cats", 0.8), False)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("{'label': 'it's a \"cat\"', 'confidence': 1}", 'it\'s a "cat"'),
        ('{"label": "the word "cat" in code", "confidence": 1}', 'the word "cat" in code'),
        ('{"label": "a\ttab and\na break", "confidence": 1}', "a tab and a break"),
        ('{"label": "a closing } brace", confidence: 1}', "a closing } brace"),
        ('{"label": "http://a/b // c",  "confidence": 1,}', "http://a/b // c"),
        ('{"label": ["cats", "dogs"], "confidence": 1}', "cats; or: dogs"),
        ('{"label": "caf\\u00e9 1.50",  "confidence": 1,}', "café 1.50"),
        ("{'label': 'None of these', 'confidence': 1}", "None of these"),
        ('{"label": "cats 「dog」 “x”", "confidence": 1,}', "cats 「dog」 “x”"),
        ('{"label"： "“snow” in Chinese，雪", "confidence"： 1}', '"snow" in Chinese,雪'),
        ('{"label": "a = b (c)", "confidence" = 1}', "a = b (c)"),
        ("Label: words (such as cats)\nConfidence: 1", "words (such as cats)"),
    ],
)
def test_no_word_of_a_label_is_lost(text, label):
    assert repaired(parse_label, text) == ((label, 1.0), True)


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<|channel>thought", "[THINK]"])
def test_a_mark_of_thoughts_within_a_label_is_a_word(mark):
    answer = f'{{"label": "the tag {mark} in a text", "confidence": 1}}'
    for text in (answer, f"<think>dogs? {{}}</think>{answer}", f"```json\n{answer}\n```"):
        assert parse_label(text) == (f"the tag {mark} in a text", 1.0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"label": "cats", "confidence": NaN}', "unparsable"),
        ('{"label": "cats", "confidence": null}', "unparsable"),
        ('{"label": "cats", "confidence": Infinity}', "unparsable"),
        ('{"label": "dogs", "label": "cats", "confidence": 0.9}', "unparsable"),
        ('{"label": "cats", "confidence": 0.8, "confidence": 0.9}', "unparsable"),
        ('<thinking>x {"label": "dogs", "confidence": 0.8}</thinking>', "unparsable"),
        ('<think>{"label": "dogs", "confidence": 0.8}', "truncated"),
        ("cats", "unparsable"),
        ('{"label": cats, or "dogs", "confidence": 0.8}', "unparsable"),
        ('{"label": """cats""", "confidence": 0.8}', "unparsable"),
        ("{'confidence': 0.8}", "unparsable"),
        ("{'label': 'cats'}", "unparsable"),
        ("Label: cats", "unparsable"),
        ("The label is cats, confidence 0.8", "unparsable"),
        ("{'label': {'a': 'cats'}, 'confidence': 0.8}", "unparsable"),
        ("{'label': 'cats', 'confidence': 'some'}", "unparsable"),
        ("{'label': 'cats', 'confidence': 0.", "truncated"),
        ("{'label': 'cats', 'confidence': 0.8", "truncated"),
        ("{'label': 'ca", "truncated"),
        ("<thinking>{'label': 'cats', 'confidence': 0.8}", "truncated"),
        ("I'm sorry, {I can't help} with that.", "refused"),
        ("{'label': 'I'm sorry, I can't help', 'confidence': 0}", "refused"),
        ("Label: I'm sorry, I can't help\nConfidence: 0", "refused"),
    ],
)
def test_what_is_missing_is_not_made_up(text, kind):
    assert parse_label(text) == kind


@pytest.mark.parametrize(
    ("value", "confidence"),
    [
        (0, 0), (1, 1), (0.3, 0.3), ("0.3", 0.3), (11, 0.11), (100, 1), ("5%", 0.05), ("100%", 1),
        ("High", 0.85), ("medium", 0.5), ("very low", 0.05),
        (8, None), (101, None), (-1, None), ("120%", None), ("11/10", None), ("1/0", None),
        (True, None), (None, None), ("", None), ("perhaps", None), (float("nan"), None),
        ([0.1, 0.2], None), ({}, None),
    ],
)  # fmt: skip
def test_a_confidence_is_read_where_there_is_no_doubt(value, confidence):
    assert read_confidence(value) == confidence


@pytest.mark.parametrize(
    "text",
    [
        "{'1': 9, '2': 3}",
        "{1: 9, 2: 3,}",
        '{"1": "9", "2": "3"}',
        '{"1": 9.0, "2": 3.0}',
        '{"Ratings": {"1": 9, "2": 3,}}',
        "```\n{'1': 9, '2': 3}\n```",
        "1: 9\n2: 3",
        "**1**: 9\n**2**: 3",
        "<think>1: 4</think>1. 9\n2. 3",
        '{"1"： 9， "2"： 3}',
        "{«1»: 9, «2»: 3}",
        "1 - 9\n2 - 3",
        "Text 1: 9\nText 2: 3",
        "1: 9, 2: 3",
        "1=9; 2=3",
        "| text | rating |\n|---|---|\n| 1 | 9 |\n| 2 | 3 |",
        '{"text_1": 9, "Text 2": 3}',
        '{"1": {"rating": 9, "why": "it fires"}, "2": {"rating": 3}}',
        '[{"text": 1, "rating": 9}, {"text": 2, "rating": 3}]',
        '[{"1": 9}, {"2": 3}]',
        "[{'1': 9}, {'2': 3,}]",
    ],
)
def test_ratings_are_read_by_number_in_every_form(text):
    rated, counted = repaired(lambda t: parse_ratings(t, 2, []), text)
    np.testing.assert_allclose(rated, [1, 1 / 3])
    assert counted


def test_words_in_brackets_before_strict_numbers_are_no_repair():
    text = 'The texts [1] and [2]: {"1": 9, "2": 3}'
    rated, counted = repaired(lambda t: parse_ratings(t, 2, []), text)
    np.testing.assert_allclose(rated, [1, 1 / 3])
    assert not counted


@pytest.mark.parametrize(
    "second", ["10", "-1", "null", "NaN", "true", '"high"', "3.5", '"3/9"', "{}"]
)
def test_a_rating_that_is_none_is_missing(second):
    rated = parse_ratings(f'{{"1": 9, "2": {second}}}', 2, [])
    assert np.isnan(rated[1])


@pytest.mark.parametrize("text", ["{'1': 9, '2':", '{"1": 9, "2":'])
def test_ratings_that_were_cut_off_are_missing(text):
    assert np.isnan(parse_ratings(text, 2, [])[1])


def test_lists_and_digits_are_read_in_nearly_json():
    text = "{'sequences': {'1': [(0, 3), (1, 2)], '2': [],}}"
    read, counted = repaired(lambda t: parse_simulation(t, [2, 1]), text)
    assert [r.tolist() for r in read] == [[3, 2], [0]] and counted
    read, counted = repaired(lambda t: parse_digits(t, [2, 1], []), "{1: [0, '7'], 2: [3,]}")
    assert [r.tolist() for r in read] == [[0, 7], [3]] and counted
    assert parse_simulation("{'1': [[0, 3]], '2': [[", [2, 1])[1] is None


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_title, "{'title': 'Animals'}", "Animals"),
        (read_title, "Title: Animals", "Animals"),
        (read_title, '{"title": ["Animals"]}', "Animals"),
        (read_apart, "{'First': 'Cats', 'Second': 'Trains'}", ("Cats", "Trains")),
        (read_outsider, "{'outsider': '3'}", 3),
        (read_outsider, "Outsider: 3", 3),
        (parse_choice, "{set: 2}", 2),
        (parse_choice, '{"Set": [2]}', 2),
        (parse_texts, "{'texts': ['a b', 'c',]}", ["a b", "c"]),
        (parse_texts, '{"texts": "a b"}', ["a b"]),
        (parse_texts, '{"texts": {"1": "a b", "2": "c"}}', ["a b", "c"]),
        (parse_texts, "{“texts”: [“a b”, “c”]}", ["a b", "c"]),
        (read_outsider, '{"outsider": "Label 3"}', 3),
        (read_outsider, "Outsider: #3", 3),
        (parse_choice, '{"set": "Set 2"}', 2),
        (parse_choice, "{«set»： 2}", 2),
        (read_title, "Title： Animals", "Animals"),
        (read_title, "# Title\nAnimals", "Animals"),
    ],
)
def test_every_other_reader_repairs(read, text, value):
    assert repaired(read, text) == (value, True)


def test_repairs_are_counted_by_reply_where_it_is_read_in_the_end():
    texts = {"a": '{"label": "x"}', "b": "{'Label': ['x'],}", "c": "{'Label': ['x'],}"}
    texts["d"] = "{'Label': 7,}"
    keys = set()

    def ask(conversations, repetition):
        return [(k, Reply(k, texts[k], raw="{}")) for k in (c[0]["k"] for c in conversations)]

    def read(text):
        label = (last_object(text, "label") or {}).get("label")
        return None if label == 7 else label

    with keep_repairs(keys):
        ask_until_read({k: [{"k": k}] for k in texts}, read_whole(read), ask)
    assert keys == {"b", "c"}


@pytest.mark.parametrize(
    "text", ["{" * 50_000 + "}" * 50_000, '{"label": ' * 9_000, "label: " * 9_000]
)
def test_a_degenerate_reply_is_given_up_quickly(text):
    assert parse_label(text) in ("unparsable", "truncated")

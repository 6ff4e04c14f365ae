"""Titles: labels are read as marks, planted words are found, no two titles are equal."""

from collections import Counter

import pytest

from autointerp.rules.annotations import CONTEXTS
from autointerp.titles.contrast import (
    LONGEST,
    are_alike,
    choose,
    choose_candidates,
    gather_evidence,
    kinds_of,
    make_titles,
    rank,
    read_marks,
    render_marks,
    tell_apart,
)


@pytest.mark.parametrize(
    ("label", "marks"),
    [
        ('"self" after "("', {("here", '"self"'), ("after", '"("'), ("kind", "lower-case words")}),
        ('digits after "0x" (weak)', {("kind", "digits"), ("after", '"0x"')}),
        (
            'unclear: "a;b", "or" or digits',
            {
                ("here", '"a;b"'),
                ("here", '"or"'),
                ("kind", "digits"),
                *{("kind", k) for k in kinds_of('"or"')},
            },
        ),
        ("unclear", set()),
        ("anything in a docstring not in brackets", {("context", "in a docstring")}),
        ('anything in a line starting with "def"', {("line", '"def"')}),
        (
            'anything in brackets opened after "len" in brackets',
            {("call", '"len"'), ("context", "in brackets")},
        ),
        (
            'anything within 8 after a newline before "="',
            {("within", "a newline"), ("before", '"="')},
        ),
        ('anything after "a" then "b"', {("after", '"a"'), ("after", '"b"')}),
        ("the days of the week", {("here", "the days of the week")}),
        (
            '"self" in a text with "FILE"',
            {("here", '"self"'), ("kind", "lower-case words"), ("text", '"FILE"')},
        ),
        (
            'anything after words like "keys"/"items" in a docstring',
            {("after", '"keys"'), ("after", '"items"'), ("context", "in a docstring")},
        ),
        ('words ending in "ing"', {("here", 'words ending in "ing"')}),
        (
            'digits or words like "keys"/"items"',
            {
                ("kind", "digits"),
                ("kind", "lower-case words"),
                ("here", '"keys"'),
                ("here", '"items"'),
            },
        ),
        (
            'names of files, "a, b" or digits',
            {("here", "names of files"), ("here", '"a, b"'), ("kind", "digits")},
        ),
        ('the word "self" after a bracket', {("here", 'the word "self" after a bracket')}),
        ('quotes that "\\q" break "\\q"', {("here", 'quotes that "\\q" break "\\q"')}),
        ('"\\q"', {("here", '"\\q"')}),
    ],
)
def test_labels_are_read_as_marks(label, marks):
    assert read_marks(label) == marks


def test_quotes_and_separators_inside_terms_are_kept():
    marks = read_marks('\'"\' after "; or"; "say \\"hi\\""')
    assert {("here", "'\"'"), ("after", '"; or"')} <= marks
    assert ("here", "'say \"hi\"'") in marks  # one spelling for one lexeme


def test_marks_are_phrased():
    assert (
        render_marks([("after", '"("'), ("here", '"self"'), ("here", '"cls"')])
        == '"self", "cls" after "("'
    )
    assert render_marks([("kind", "operators"), ("here", '"+"')]) == 'operators: "+"'
    assert render_marks([("context", "in a docstring")]) == "in a docstring"
    assert render_marks([("line", "a keyword")]) == "in keyword lines"
    assert render_marks([]) == ""


def test_rank_puts_what_only_the_group_has_first():
    inside = Counter({("here", '"x"'): 5, ("context", "in brackets"): 10, ("promotes", '"y"'): 10})
    everyone = Counter(
        {("here", '"x"'): 5, ("context", "in brackets"): 80, ("promotes", '"y"'): 10}
    )
    ranked = rank(inside, 10, everyone, 100)
    assert [mark for mark, _, _ in ranked] == [
        ("here", '"x"'),
        ("context", "in brackets"),
        ("promotes", '"y"'),
    ]
    z = {mark: z for mark, _, z in ranked}
    assert z["here", '"x"'] > 2.5 > z["context", "in brackets"]


def test_a_mark_that_all_features_share_alike_has_z_zero():
    ranked = rank(Counter({("here", '"x"'): 10}), 20, Counter({("here", '"x"'): 50}), 100)
    assert ranked[0][2] == pytest.approx(0, abs=1e-9)


def test_parts_of_a_title_fit_together():
    marks = [
        ("kind", "operators"),
        ("here", '"cat"'),
        ("here", '"+"'),
        ("context", "in brackets"),
        ("after", "digits"),
    ]
    assert choose(marks, 0, 4) == [
        ("kind", "operators"),
        ("here", '"+"'),
        ("context", "in brackets"),
    ]
    assert choose([("promotes", '"a"'), ("here", '"b"'), ("promotes", '"c"')], 0, 3) == [
        ("promotes", '"a"'),
        ("promotes", '"c"'),
    ]
    long = [("here", f'"{c * 20}"') for c in "abc"]
    assert len(render_marks(choose(long, 0, 3))) <= LONGEST


def test_a_kind_that_most_members_have_leads():
    ranked = [
        (("here", '"+"'), 4, 9.0),
        (("kind", "operators"), 9, 5.0),
        (("kind", "keywords"), 9, 1.0),
    ]
    ranked += [(("here", '" "'), 9, 8.0), (("here", '"-"'), 2, 3.0)]
    assert choose_candidates(ranked, 10) == [
        ("kind", "operators"),
        ("here", '"+"'),
        ("here", '"-"'),
    ]
    assert choose_candidates([(("here", '"+"'), 2, 9.0)], 20) == []


def test_equal_titles_are_told_apart():
    marks = [("here", '"a"'), ("here", '"b"'), ("here", '"c"'), ("here", '"d"')]
    titles = tell_apart({0: marks, 1: marks, 2: marks[:1], 3: marks[:1], 4: [], 5: []}, {}, 2)
    texts = [t.text for t in titles.values()]
    assert len(set(texts)) == 6
    assert texts[:3] == ['"a", "b"', '"a", "c"', '"a"'] and texts[3:] == [
        '"a" (3)',
        "mixed (4)",
        "mixed (5)",
    ]


def test_titles_that_are_nearly_equal_are_told_apart():
    assert (
        are_alike('"a", "b" after "("', '"b", "a" after "("')
        and are_alike("Days of the Week", "days of the week")
        and not are_alike("days", "months")
    )
    marks = [("here", f'"{c}"') for c in "abcde"]
    titles = tell_apart({0: marks[:4], 1: [marks[0], marks[2], marks[1], marks[3]]}, {}, 3)
    assert titles[0].text == '"a", "b", "c"' and not are_alike(titles[0].text, titles[1].text)


def test_a_group_is_held_against_its_siblings():
    """All of the parent says "x"; only one child says "y" as well.

    Against everything "x" would lead both names.
    """
    marks = {f: {("here", '"x"')} for f in range(20)} | {
        f: {("here", f'"other{f}"')} for f in range(20, 200)
    }
    for f in range(10):
        marks[f] = marks[f] | {("here", '"y"')}
    members, parents = (
        {0: list(range(10)), 1: list(range(10, 20))},
        {0: list(range(20)), 1: list(range(20))},
    )
    alone = make_titles(gather_evidence({0: members[0]}, {}, marks))
    assert '"x"' in alone[0].text
    for above in (
        parents,
        {},
    ):  # siblings inside one parent, and those of the layer where there is none
        told = make_titles(gather_evidence(members, above, marks))
        assert (
            told[0].text == '"y"' and told[1].text == '"x"'
        )  # nothing sets the second apart from the first but silence


def test_a_group_is_not_named_as_one_inside_it():
    marks = [("here", '"a"'), ("here", '"b"'), ("here", '"c"')]
    assert tell_apart({0: marks}, {}, 2)[0].text == '"a", "b"'
    assert tell_apart({0: marks}, {0: ['"a", "b"']}, 2)[0].text == '"a", "c"'


def test_every_context_of_the_label_language_is_a_mark():
    for phrase in CONTEXTS:
        assert read_marks(f"anything {phrase}") == {("context", phrase)}
        assert read_marks(f"anything not {phrase}") == set()

"""Titles: labels are read as marks, planted words are found, no two titles are equal."""

import json
from collections import Counter

import pandas as pd
import pytest

from autointerp.settings import TitleSettings
from autointerp.title import LONGEST, candidates, choose, distinct, group_titles, kinds_of, phrase, rank, read_marks, title


@pytest.mark.parametrize(
    ("label", "marks"),
    [
        ('"self" after "("', {("here", '"self"'), ("after", '"("'), ("kind", "lower-case words")}),
        ('digits after "0x" (weak)', {("kind", "digits"), ("after", '"0x"')}),
        ('unclear: "a;b", "or" or digits', {("here", '"a;b"'), ("here", '"or"'), ("kind", "digits"), *{("kind", k) for k in kinds_of('"or"')}}),
        ("unclear", set()),
        ("anything in a docstring not in brackets", {("context", "in a docstring")}),
        ('anything in a line starting with "def"', {("line", '"def"')}),
        ('anything in brackets opened after "len" in brackets', {("call", '"len"'), ("context", "in brackets")}),
        ('anything within 8 after a newline before "="', {("within", "a newline"), ("before", '"="')}),
        ('anything after "a" then "b"', {("after", '"a"'), ("after", '"b"')}),
        ("the days of the week", {("here", "the days of the week")}),
    ],
)
def test_labels_are_read_as_marks(label, marks):
    assert read_marks(label) == marks


def test_quotes_and_separators_inside_terms_are_kept():
    marks = read_marks('\'"\' after "; or"; "say \\"hi\\""')
    assert {("here", "'\"'"), ("after", '"; or"'), ("here", '"say \\"hi\\""')} <= marks


def test_marks_are_phrased():
    assert phrase([("after", '"("'), ("here", '"self"'), ("here", '"cls"')]) == '"self", "cls" after "("'
    assert phrase([("kind", "operators"), ("here", '"+"')]) == 'operators: "+"'
    assert phrase([("context", "in a docstring")]) == "in a docstring"
    assert phrase([("line", "a keyword")]) == "in keyword lines"
    assert phrase([]) == ""


def test_rank_puts_what_only_the_group_has_first():
    inside = Counter({("here", '"x"'): 5, ("context", "in brackets"): 10, ("promotes", '"y"'): 10})
    everyone = Counter({("here", '"x"'): 5, ("context", "in brackets"): 80, ("promotes", '"y"'): 10})
    ranked = rank(inside, 10, everyone, 100)
    assert [mark for mark, _, _ in ranked] == [("here", '"x"'), ("context", "in brackets"), ("promotes", '"y"')]
    z = {mark: z for mark, _, z in ranked}
    assert z["here", '"x"'] > 2.5 > z["context", "in brackets"]


def test_a_mark_that_all_features_share_alike_has_z_zero():
    ranked = rank(Counter({("here", '"x"'): 10}), 20, Counter({("here", '"x"'): 50}), 100)
    assert ranked[0][2] == pytest.approx(0, abs=1e-9)


def test_parts_of_a_title_fit_together():
    marks = [("kind", "operators"), ("here", '"cat"'), ("here", '"+"'), ("context", "in brackets"), ("after", "digits")]
    assert choose(marks, 4, 0) == [("kind", "operators"), ("here", '"+"'), ("context", "in brackets")]
    assert choose([("promotes", '"a"'), ("here", '"b"'), ("promotes", '"c"')], 3, 0) == [("promotes", '"a"'), ("promotes", '"c"')]
    long = [("here", f'"{c * 20}"') for c in "abc"]
    assert len(phrase(choose(long, 3, 0))) <= LONGEST


def test_a_kind_that_most_members_have_leads():
    ranked = [(("here", '"+"'), 4, 9.0), (("kind", "operators"), 9, 5.0), (("kind", "keywords"), 9, 1.0)]
    ranked += [(("here", '" "'), 9, 8.0), (("here", '"-"'), 2, 3.0)]
    assert candidates(ranked, 10, TitleSettings()) == [("kind", "operators"), ("here", '"+"'), ("here", '"-"')]
    assert candidates([(("here", '"+"'), 2, 9.0)], 20, TitleSettings()) == []


def test_equal_titles_are_told_apart():
    marks = [("here", '"a"'), ("here", '"b"'), ("here", '"c"'), ("here", '"d"')]
    titles = distinct({0: marks, 1: marks, 2: marks[:1], 3: marks[:1], 4: [], 5: []}, 2)
    texts = [t.text for t in titles.values()]
    assert len(set(texts)) == 6
    assert texts[:3] == ['"a", "b"', '"a", "c"', '"a"'] and texts[3:] == ['"a" (3)', "mixed (4)", "mixed (5)"]


def tables():
    """Three groups of ten: about self, in docstrings, and one of which nothing can be said; the rest without a group."""
    said = ['"self" after "("; "%s"', "anything in a docstring before %s", '"%s"']
    rows = [(f, min(f // 10, 3) if f < 30 else -1) for f in range(100)]
    features = pd.DataFrame(rows, columns=["feature", "group"]).assign(status="alive")
    text = [said[g].replace("%s", f"w{f}") if g >= 0 else f'"v{f}"' for f, g in rows]
    labels = pd.DataFrame({"feature": range(100), "text": text, "confidence": 0.5, "kind": "token"})
    effects = pd.DataFrame({"feature": range(100), "promoted": [[f" p{f}", " "] for f in range(100)]})
    return features, labels, effects


def test_planted_words_become_titles():
    frame = group_titles(*tables(), TitleSettings())
    assert frame["group"].tolist() == [0, 1, 2] and frame["size"].tolist() == [10, 10, 10]
    assert frame["title"].tolist() == ['"self" after "("', "in a docstring", "mixed (2)"]
    assert frame["share"].tolist() == [1.0, 1.0, 0.0]
    assert json.loads(frame["evidence"][0])['"self"'] == 10


def test_promoted_tokens_name_a_group_whose_labels_say_nothing():
    features, labels, effects = tables()
    effects.loc[20:29, "promoted"] = pd.Series([[" yes"]] * 10, index=range(20, 30))
    assert group_titles(features, labels, effects, TitleSettings())["title"][2] == 'promotes "yes"'


def test_no_groups_no_titles():
    features, labels, effects = tables()
    frame = group_titles(features.assign(group=-1), labels, effects, TitleSettings())
    assert len(frame) == 0 and list(frame.columns) == ["group", "title", "size", "evidence", "share"]


def test_the_stage_reads_and_writes_a_run(run_copy):
    features, labels, effects = tables()
    for unit, name, table in (("cluster", "features", features), ("label/rules", "labels", labels), ("effects", "effects", effects)):
        work = run_copy.begin(unit, 1, TitleSettings(), ["train"], redo=True)
        table.to_parquet(work.folder / f"{name}.parquet")
        work.commit({})
    assert title(run_copy, TitleSettings()).summary == {"groups": 3, "mixed": 1, "median_share": 1.0}
    assert pd.read_parquet(run_copy.folder("title") / "titles.parquet")["title"][1] == "in a docstring"
    assert title(run_copy, TitleSettings()).unit == "title"  # committed: nothing is made twice

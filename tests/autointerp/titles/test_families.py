"""Families are named from what their members share; a name is solid where the family comes back."""

import json

import pandas as pd

from autointerp.titles.families import COLUMNS, name_families, summarise_names

FAMILIES = pd.DataFrame({"family": [0, 1, 2], "comes_back": [True, False, True]})


def planted_marks():
    """(table, marks): family 0 is about "if", family 1 about places after "(", 2 about nothing."""
    family = [0] * 5 + [1] * 5 + [2] * 4 + [-1] * 86
    alive = pd.DataFrame({"feature": range(100), "family": family})
    marks = {f: {("here", f'"w{f}"')} for f in range(100)}
    for f in range(5):
        marks[f] = marks[f] | {("here", '"if"')}
        marks[5 + f] = marks[5 + f] | {("after", '"("')}
    return alive, marks


def test_planted_families_are_named():
    alive, marks = planted_marks()
    names = name_families(alive, FAMILIES, marks)
    assert list(names) == COLUMNS
    assert names["title"].tolist() == ['"if"', 'after "("', ""]
    assert names["solid"].tolist() == [True, False, True]
    assert names["share"].tolist() == [1.0, 1.0, 0.0]
    assert names["size"].tolist() == [5, 5, 4]
    assert json.loads(names["evidence"][0])['"if"'] == 5
    assert summarise_names(names) == {"families_named": 2, "families_solid": 1}


def test_without_families_there_are_no_names():
    alive, marks = planted_marks()
    for none in (None, FAMILIES[:0]):
        names = name_families(alive, none, marks)
        assert list(names) == COLUMNS and len(names) == 0
        assert summarise_names(names) == {"families_named": 0, "families_solid": 0}

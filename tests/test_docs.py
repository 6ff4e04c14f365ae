"""What the documents say about the code is what the code says."""

import pathlib
import re

import pytest

from autointerp.pipeline import STAGES
from autointerp.rules.annotations import CONTEXTS
from autointerp.rules.language import parse, render
from autointerp.rules.lexemes import AFFIXES, SHAPES
from docs import tree

ROOT = pathlib.Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
RULES = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
ROBUSTNESS = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| `(.+?)` \|", RULES, re.MULTILINE)


def test_the_tree_is_that_of_the_code():
    assert tree.page_with(tree.tree()) == ARCHITECTURE, "type: python docs/tree.py --write"


def test_every_file_says_what_it_is_for():
    empty = [line for line in tree.tree().splitlines() if len(line.split()) < 3]
    assert not empty


def test_every_unit_of_the_table_is_on_the_page():
    for stage in STAGES.values():
        assert f"`{stage.name}" in ARCHITECTURE, stage.name


TESTS = {p: p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py")}


def test_every_test_that_robustness_names_exists():
    """And stands in the file that is named right behind it, where one is."""
    written = {
        name for text in TESTS.values() for name in re.findall(r"^def (test_\w+)", text, re.M)
    }
    named = re.findall(r"`(test_\w+)`(?: in `([\w/.]+)`)?", ROBUSTNESS)
    assert len(named) > 80
    assert not {name for name, _ in named} - written
    for name, file in named:
        assert not file or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (name, file)
    for file in re.findall(r"`(tests/[\w/]+\.py)`", ROBUSTNESS):
        assert (ROOT / file).exists(), file


def test_every_law_of_robustness_has_its_test():
    rows = re.findall(r"^\| (?!kind \||---)(.+) \|$", ROBUSTNESS, re.MULTILINE)
    assert len(rows) > 40
    for row in rows:
        kind, law, test = row.split(" | ")
        assert kind and law and re.fullmatch(r".*`(test_\w+|tests/[\w/]+\.py)`.*", test), row


@pytest.mark.parametrize("label", EXAMPLES)
def test_an_example_of_the_rule_language_is_in_the_language(label):
    assert parse(render(parse(label))) == parse(label)


@pytest.mark.parametrize("phrase", [*SHAPES, *AFFIXES, *CONTEXTS])
def test_every_phrase_is_on_the_page(phrase):
    assert phrase in re.sub(r"\s+", " ", RULES)

"""`run` makes the controls of a run, and no later report loses them."""

import json
import shutil

import pytest

from autointerp.controls import UNTRAINED

pytestmark = pytest.mark.slow
RANDOM = "random directions"


@pytest.fixture(scope="module")
def controlled(job, call, tmp_path_factory):
    """A copy of the shared job, run again with its controls."""
    path = tmp_path_factory.mktemp("controlled") / "mine"
    shutil.copytree(job, path)
    code, _, err = call("run", path)
    assert code == 0, err
    assert "control: 200 labels each, 200,000 tokens" in err
    return path


def test_both_controls_lie_beside_the_run_and_are_scored(controlled):
    for name in ("mine-random", "mine-control"):
        for kind in ("coverage", "simulation", "detection"):
            unit = controlled.with_name(name) / "score" / "rules" / kind / "manifest.json"
            assert json.loads(unit.read_text())["summary"]["n"] > 5, (name, kind)


def test_card_list_report_and_export_say_the_gain(controlled, call, tmp_path):
    rows = json.loads(call("list", controlled, "--json")[1])
    gained = [row["feature"] for row in rows if row["gain"] is not None]
    assert gained and all(row["gain"] is None for row in rows if row["coverage"] is None)
    card = json.loads(call("show", controlled, gained[0], "--json")[1])
    (covered,) = [s for s in card["labels"][0]["scores"] if s["kind"] == "coverage"]
    assert set(covered["gains"]) == {RANDOM, UNTRAINED}
    row = next(row for row in rows if row["feature"] == gained[0])
    assert row["gain"] == pytest.approx(min(covered["gains"].values()))
    assert f"over the {RANDOM}" in " ".join(call("show", controlled, gained[0])[1].split())
    assert call("export", controlled, tmp_path / "out", "--to", "csv")[0] == 0
    assert ",gain," in (tmp_path / "out" / "features.csv").read_text().splitlines()[0]


def test_a_later_report_keeps_the_controls(controlled, call):
    report = controlled / "report" / "report.md"
    for redo in ((), ("--redo",)):
        assert call("report", controlled, *redo)[0] == 0
        text = report.read_text()
        assert f"| {RANDOM} |" in text and f"| {UNTRAINED} |" in text
        assert f"over the {RANDOM}" in text


def test_run_again_makes_nothing(controlled, call):
    code, _, err = call("run", controlled)
    assert code == 0 and "done in" not in err

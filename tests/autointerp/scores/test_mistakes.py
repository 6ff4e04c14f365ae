"""Mistakes of labels in free words: by hand, and of an LLM that labels every feature "cat"."""

import json

import numpy as np
import pytest

from autointerp.features import Features
from autointerp.labels.label import label
from autointerp.scores.mistakes import KEPT, SPACING, find_panel_misses, find_sample_misses
from autointerp.scores.panels import FIRES, HARD, RANDOM, Panel
from autointerp.scores.score import score
from autointerp.scores.unit import read_all_misses, read_misses
from autointerp.settings import LabelSettings, ScoreSettings
from tests.support.fake_llm import FakeLLM, completion
from tests.support.oracle import Oracle
from tests.support.planted import planted_run

pytestmark = pytest.mark.slow

CAT = json.dumps({"label": 'tokens that read "cat"', "confidence": 0.8, "second": ""})


def test_the_worst_of_a_simulation_by_hand():
    ordinals = np.arange(0, 200, 20)
    activations = np.array([5, 0, 2, 0, 9, 0, 0, 3, 0, 0.0])
    predicted = np.array([0, 8, 0.7, 4, 8, 3, 0, np.nan, np.nan, 0])
    assert find_sample_misses(7, ordinals, activations, predicted) == [
        (7, 0, "missed", 0.0),
        (7, 40, "missed", pytest.approx(0.0875)),
        (7, 20, "false_alarm", 1.0),
        (7, 60, "false_alarm", 0.5),
    ]
    assert find_sample_misses(7, np.arange(10), activations, predicted)[:2] == [
        (7, 0, "missed", 0.0),
        (7, 1, "false_alarm", 1.0),
    ], "places are SPACING apart"
    many = find_sample_misses(7, np.arange(100) * SPACING, np.ones(100), np.zeros(100))
    assert len(many) == KEPT and {row[2] for row in many} == {"missed"}, (
        "a label that predicts nothing misses everything"
    )


def test_the_surest_mistakes_of_a_panel_by_hand():
    marks = tuple(np.array(m) for m in ([3, 5], [40], [70, 71], [99], [130]))
    panel = Panel(
        7,
        np.arange(5) * 30,
        np.arange(5) * 30 + 30,
        np.array([FIRES, FIRES, FIRES, RANDOM, HARD]),
        np.arange(5),
        marks,
    )
    firings = np.array([3, 5, 40, 70, 71]), np.array([1, 4, 1, 2, 1], np.float32)
    ratings = np.array([0.2, 0.9, 0.1, 0.6, np.nan])
    assert find_panel_misses(panel, ratings, 0.5, firings) == [
        (7, 70, "missed", 0.1),
        (7, 5, "missed", 0.2),
        (7, 99, "false_alarm", 0.6),
    ]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    run = planted_run(tmp_path_factory.mktemp("misses") / "run")
    label(run, LabelSettings())
    with FakeLLM(judge=Oracle(label=lambda _: completion(CAT)), models=("m",)) as server:
        for chosen in ("3,4", "0,3,4"):  # the second adds to what the first made
            label(run, LabelSettings(labels="llm", llm_url=server.url, features=chosen))
            score(
                run,
                ScoreSettings(
                    labels="llm-m",
                    llm_url=server.url,
                    features=chosen,
                    kind="simulation,detection,fuzzing",
                ),
            )
    return run


def test_mistakes_of_an_llm_are_kept_and_are_mistakes(scored):
    """Feature 3 fires on bread, salt, milk and tea: all are missed, each cat is a false alarm."""
    known = Features(scored)
    rows = read_all_misses(scored)
    assert set(rows["feature"]) >= {3, 4} and set(rows["set"]) == {"llm-m"}
    ids, vocabulary, split = (
        known.tokens.ids,
        known.tokens.vocabulary,
        known.tokens.in_split("test"),
    )
    by_token = [row for row in rows.itertuples() if row.feature in (3, 4)]
    assert {row.stratum for row in by_token} == {"missed", "false_alarm"}
    for row in by_token:
        fires = known.postings.activations_at(row.feature, np.array([row.ordinal]))[0] > 0
        assert fires == (row.stratum == "missed") and split[row.ordinal]
        if row.stratum == "missed":
            assert vocabulary[ids[row.ordinal]] != " cat"
    simulated = read_misses(scored, "llm-m", "simulation")
    alarms = simulated[(simulated["feature"] == 3) & (simulated["stratum"] == "false_alarm")]
    assert len(alarms) and {vocabulary[i] for i in ids[alarms["ordinal"]]} == {" cat"}
    assert simulated.groupby(["feature", "stratum"]).size().max() <= KEPT


def test_cards_show_where_the_label_of_every_set_fails(scored):
    card = Features(scored).card(3, {"failing": 2})
    assert [entry["set"] for entry in card.labels] == ["llm-m", "rules"]
    of_llm = [s for s in card.snippets if s["set"] == "llm-m"]
    assert {s["stratum"] for s in of_llm} == {"missed", "false_alarm"} and len(of_llm) == 4
    for s in of_llm:
        assert (s["activations"][s["peak"]] > 0) == (s["stratum"] == "missed")
    assert {s["set"] for s in card.snippets} <= {"llm-m", "rules"}


def test_the_mistakes_of_rules_are_not_kept(scored):
    score(scored, ScoreSettings(kind="simulation,detection"))
    assert not list((scored.path / "score" / "rules").rglob("misses.parquet"))

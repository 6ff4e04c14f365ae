"""The stranger among windows: found where a feature is one thing, one time in five where not."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from autointerp.scores import prompts
from autointerp.scores.context import Context
from autointerp.scores.intruder import CHANCE, SHOWN, TRIALS, Drawer, score_intruder
from autointerp.scores.score import score
from autointerp.scores.unit import STRATA
from autointerp.settings import ScoreSettings
from core.firings.postings import Postings
from core.records import Label
from core.text.tokens import Tokens
from tests.support.fake_llm import FakeLLM, completion
from tests.support.planted import NOTHING, TRUTH, planted_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The planted run. Shared: read it only."""
    return planted_run(tmp_path_factory.mktemp("planted") / "run")


def context_of(run, text='"cat"'):
    texts = pd.Series(dict.fromkeys(TRUTH, text))
    tokens = Tokens(run.folder("capture"))
    postings = Postings(run.folder("index"), run.folder("capture"))
    return Context(run, ScoreSettings(), texts, texts, postings, tokens)


@pytest.fixture(scope="module")
def drawn(run):
    context = context_of(run)
    density = context.postings.n_firings / context.postings.n_tokens
    drawer = Drawer(context.examples, density, 0)
    return context, {f: drawer.draw(f) for f in (0, 1, 4, NOTHING)}


def test_windows_are_held_out_and_the_stranger_is_silent(drawn):
    context, trials = drawn
    held_out = set(context.examples.pool("test").tolist())
    for feature, found in trials.items():
        where = set(context.postings.firings(feature)[0].tolist())
        for trial in (t for t in found.trials if not t.is_null):
            assert set(trial.places) <= held_out and len(set(trial.places)) == SHOWN
            assert [p in where for p in trial.places].count(False) == 1
            assert trial.places[trial.right] not in where


def test_trials_of_the_top_are_strong(drawn):
    context, trials = drawn
    where, values, _ = context.examples.firings_in(context.postings.firings(0), "test")
    strength = dict(zip(where.tolist(), values.tolist(), strict=True))
    least = np.sort(values)[int(0.9 * len(values))]
    own = [p for t in trials[0].trials if t.stratum == "top" and not t.is_null for p in t.places]
    assert {s for p in own if (s := strength.get(p))} and all(
        strength[p] >= least for p in own if p in strength
    )


def test_every_stratum_has_trials_and_null_trials(drawn):
    for found in drawn[1].values():
        kinds = [(t.stratum, t.is_null) for t in found.trials]
        assert all(kinds.count((s, n)) == TRIALS for s in STRATA for n in (False, True))


def test_rules_find_the_stranger_of_planted_features_and_of_nothing_by_chance(run):
    scored = score_intruder(context_of(run), list(TRUTH))
    table = scored.table().set_index("feature")
    planted = table.drop(NOTHING)
    assert planted["value"].median() > 0.75 and planted["top"].median() > 0.75
    assert abs(planted["null_all"].mean() - CHANCE) < 0.12
    assert table["value"][NOTHING] < 0.6 < planted["value"].mean()
    assert (planted["low"] <= planted["value"]).all() and (
        planted["value"] <= planted["high"]
    ).all()


class Finder:
    """A scripted model: picks the text whose marked word no other text of the set marks."""

    def __init__(self, wrong: bool = False):
        self.wrong = wrong

    def __call__(self, seen):
        system, user = (m["content"] for m in seen.body["messages"][-2:])
        if "stranger" not in system:
            return completion("yes")
        picks = {}
        for number, part in enumerate(user.split("Set ")[1:], 1):
            words = [m.split()[-1] for m in re.findall(r"<<(.*?)>>", part)]
            alone = [i for i, w in enumerate(words) if words.count(w) == 1] or [0]
            picks[str(number)] = (alone[0] + self.wrong) % SHOWN + 1
        return completion(json.dumps(picks))


@pytest.mark.slow
def test_an_llm_is_asked_once_a_stratum(run):
    work = run.begin("label/free", 1, {}, ["index"])
    labels = [vars(Label(f, "free", "some words", 1.0, "free")) for f in (0, 1, 7)]
    frame = pd.DataFrame(labels).rename(columns={"label_set": "set"})
    frame.to_parquet(work.folder / "labels.parquet")
    work.commit({})
    values = {}
    for wrong in (False, True):
        with FakeLLM(judge=Finder(wrong), models=(f"m{wrong}",)) as server:
            settings = ScoreSettings(labels="free", kind="intruder", llm_url=server.url)
            manifest = score(run, settings, redo=True)
            asked = [r for r in server.seen if "stranger" in json.dumps(r.body)]
            assert len(asked) == 3 * len(STRATA)
        values[wrong] = manifest.summary["median"]
    assert values[False] > 0.7 and values[True] < 0.2


def test_picks_are_read_by_set():
    assert prompts.parse_picks('{"1": 4, "2": 1}', 3) == [3, 0, None]
    assert prompts.parse_picks('{"1": 0, "2": 7}', 2) is None
    assert prompts.parse_picks("I do not know", 2) is None

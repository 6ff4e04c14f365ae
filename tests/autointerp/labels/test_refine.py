"""Labels that meet their mistakes on val, and rules that an LLM names."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from autointerp.evidence import Evidence
from autointerp.labels.label import label
from autointerp.labels.refine import Trial, rate_by_rule
from autointerp.labels.rule_names import needs_name, parse_names, put_name
from autointerp.rules import language as rules
from autointerp.settings import LabelSettings
from core.records import SPLITS
from tests.support.fake_llm import FakeLLM, completion
from tests.support.oracle import Oracle
from tests.support.planted import planted_run

ANSWER = {"second": "", "kind": "token", "covers": 0.5}


def said(word: str):
    return completion(json.dumps({"label": f'tokens that read "{word}"'} | ANSWER))


class Reviser:
    """A labeller that says `first`, and `then` when it is shown its mistakes."""

    def __init__(self, first: str, then: str):
        self.oracle, self.then, self.shown = Oracle(label=lambda _: said(first)), then, []

    def __call__(self, seen):
        messages = seen.body["messages"]
        if len(messages) == 4:
            self.shown.append(messages[-1]["content"])
            return said(self.then)
        return self.oracle(seen)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return planted_run(tmp_path_factory.mktemp("planted") / "run")


def refined(run, first, then, rounds=1):
    judge = Reviser(first, then)
    with FakeLLM(judge=judge, models=("m",)) as server:
        settings = LabelSettings(
            labels="llm", llm_url=server.url, features="0", refine=rounds,
            replies=str(run.path.parent / f"{first}-{then}-{rounds}.sqlite"),
        )  # fmt: skip
        manifest = label(run, settings, redo=True)
        bodies = [request.body for request in server.seen]
    table = pd.read_parquet(run.folder("label/llm-m") / "labels.parquet")
    return table["text"][0], manifest.summary, judge, bodies


def test_a_wrong_label_meets_its_mistakes_and_the_better_one_stays(run):
    text, summary, judge, _ = refined(run, "dog", "cat")
    assert text == 'tokens that read "cat"' and summary["refined"] == 1
    assert summary["val_accuracy_refined"] > max(0.75, summary["val_accuracy"] + 0.05)
    (shown,) = judge.shown
    missed, alarms = shown.split("says it fires:")[0], shown.split("says it fires:")[-1]
    assert "<< cat>>" in missed and "the label misses it" in missed and "dog" in alarms


def test_a_revision_that_is_worse_is_dropped(run):
    text, summary, judge, _ = refined(run, "cat", "dog", rounds=2)
    assert text == 'tokens that read "cat"' and summary["refined"] == 0
    assert summary["val_accuracy"] == summary["val_accuracy_refined"]
    assert len(judge.shown) <= 2


def test_refining_sees_no_text_of_the_test_split(run):
    _, _, judge, bodies = refined(run, "bird", "cat")
    tokens = Evidence(run).tokens
    held_out = [tokens.text(d) for d in np.flatnonzero(tokens.split == SPLITS.index("test"))]
    texts = []
    for body in bodies:
        for message in body["messages"]:
            texts += re.findall(r'^\d+: (".*")$', message["content"], re.MULTILINE)
            texts += re.findall(r'^(".*")$', message["content"], re.MULTILINE)
    whole = [json.loads(text).replace("<<", "").replace(">>", "") for text in texts]
    assert len(whole) > 10 and judge.shown
    assert not any(text in document for text in whole for document in held_out)


def test_the_halves_share_no_window_and_hold_both_kinds(run):
    trial = Trial.draw(Evidence(run), 0)
    assert trial.is_enough and len({s.tokens for s in trial.windows}) == len(trial.windows)
    assert {s.split for s in trial.windows} == {"val"}
    exact = rate_by_rule(rules.parse('"cat"'), trial)
    wrong = rate_by_rule(rules.parse('"dog"'), trial)
    assert trial.accuracy(exact) > max(0.75, trial.accuracy(wrong) + 0.05)  # near misses cost both
    missed, alarms, right = trial.mistakes(exact)
    assert len(right) == 4 and len(missed) <= 1
    assert not trial.decides[[*missed, *alarms, *right]].any()
    assert trial.accuracy(np.full(len(trial.windows), np.nan)) == 0.0


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "text", "made"),
    [
        ("modal verbs", '"will" or "must"', 'modal verbs: "will" or "must"'),
        (" Modal  verbs. ", '"will"; "cat" (weak)', 'Modal verbs: "will"; "cat" (weak)'),
        ("", '"will"', '"will"'), ("unclear", '"will"', '"will"'), ("none", '"will"', '"will"'),
        ("one two three four five six seven", '"will"', '"will"'), ("a: b", '"will"', '"will"'),
        ('the word "x"', '"will"', '"will"'), ("modal verbs", "free words", "free words"),
        ("names", 'unclear: "will"', 'unclear: names: "will"'),
        ("x" * 48, '"' + "y" * 190 + '"', '"' + "y" * 190 + '"'), ("weak", '"will"', '"will"'),
    ],
)  # fmt: skip
def test_a_name_is_put_in_front_only_where_the_language_reads_it_back(name, text, made):
    assert put_name(name, text) == made


def test_which_labels_need_a_name():
    assert needs_name('"will"') and needs_name('unclear: "will"')
    assert not needs_name('modal verbs: "will"') and not needs_name("unclear")
    assert not needs_name("verbs of wish")


def test_names_of_an_answer():
    assert parse_names('Sure: {"1": "modal verbs", "2": "", "3": 4}') == {1: "modal verbs", 2: ""}
    assert parse_names("no idea") is None and parse_names('{"label": "x"}') is None


def test_an_llm_names_rules_in_one_request(run):
    def judge(seen):
        system, user = (m["content"] for m in seen.body["messages"][-2:])
        if "numbered line is a rule" not in system:
            return completion("yes")
        numbers = re.findall(r"^(\d+): ", user, re.MULTILINE)
        return completion(json.dumps({n: f"name {n}" for n in numbers}))

    with FakeLLM(judge=judge, models=("m",)) as server:
        settings = LabelSettings(names="llm", llm_url=server.url, features="0,1,7,8")
        summary = label(run, settings).summary
        asked = [r for r in server.seen if "numbered line" in json.dumps(r.body)]
    texts = pd.read_parquet(run.folder("label/rules") / "labels.parquet")["text"]
    assert len(asked) == 1 and summary["named_by_llm"] == summary["asked_for_names"] == 4
    assert all(rules.parse(text).name.startswith("name ") for text in texts)

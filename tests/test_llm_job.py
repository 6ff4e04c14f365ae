"""Labels and simulation by an LLM, through the command line and a real HTTP server that answers from a script."""

import json
import re

import pandas as pd

from tests.fake_llm import FakeLLM, completion, failure
from tests.jobs import two_lines


def oracle(seen):
    """Labels every feature `tokens "cat"`; simulates that label by firing on tokens that read cat. Refuses to label one in five."""
    system, user = (m["content"] for m in seen.body["messages"])
    if "sequences" in system:
        answer = {}
        for number, line in re.findall(r"^\[(\d+): (.*)\]$", user, re.MULTILINE):
            tokens = [json.loads(t) for t in re.findall(r'"(?:[^"\\]|\\.)*"', line)]
            answer[number] = [[i, 9] for i, token in enumerate(tokens) if token.strip() == "cat"]
        return completion(json.dumps({"sequences": answer}))
    if sum(map(ord, user)) % 5 == 0:
        return completion(None, refusal="I will not.")
    return completion('{"label": "tokens that read cat", "confidence": 0.8}')


def test_llm_labels_are_made_kept_and_scored(job_copy, call, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    with FakeLLM(judge=oracle, models=("org/tiny",)) as server:
        code, _, err = call("label", job_copy, "--set", "llm", "--llm-url", server.url, "--features", "0-19")
        assert code == 0, err
        labels = pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")
        failures = pd.read_parquet(job_copy / "label" / "llm-tiny" / "failures.parquet")
        assert sorted([*labels["feature"], *failures["feature"]]) == list(range(20)) and set(failures["kind"]) <= {"refused"}
        asked = len(server.seen)
        assert call("label", job_copy, "--set", "llm", "--llm-url", server.url, "--features", ",".join(map(str, labels["feature"])))[0] == 0
        assert len(server.seen) == asked, "a label that is there is not asked for again"
        assert call("label", job_copy, "--set", "llm", "--llm-url", server.url, "--features", "0-24")[0] == 0
        assert all(s.body["messages"] for s in server.seen) and len(pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")) > len(labels)

        code, _, err = call("score", job_copy, "--set", "llm-tiny", "--llm-url", server.url)
        assert code == 0, err
        scores = pd.read_parquet(job_copy / "score" / "llm-tiny" / "simulation" / "scores.parquet").set_index("feature")
        asked = len(server.seen)
        assert call("score", job_copy, "--set", "llm-tiny", "--llm-url", server.url, "--redo")[0] == 0
        assert len(server.seen) == asked, "no reply is paid for twice"
    assert scores["value"].notna().any() and (scores["value"].notna() | (scores["undefined"] != "")).all()
    same = scores["value"].notna() & scores["null"].notna()
    assert (scores.loc[same, "value"] == scores.loc[same, "null"]).all(), "every label says the same, so no label beats its null"
    for path in job_copy.rglob("*"):
        assert not path.is_file() or b"very-secret" not in path.read_bytes(), path


def test_the_oracles_simulation_equals_a_rule_that_says_the_same(job_copy, call):
    """The same label as a rule, typed as a note, gets the same score on the same tokens."""
    with FakeLLM(judge=oracle, models=("tiny",)) as server:
        assert call("label", job_copy, "--set", "llm", "--llm-url", server.url, "--features", "0-19")[0] == 0
        assert call("score", job_copy, "--set", "llm-tiny", "--llm-url", server.url)[0] == 0
    by_llm = pd.read_parquet(job_copy / "score" / "llm-tiny" / "simulation" / "scores.parquet").set_index("feature")["value"].dropna()
    for feature in by_llm.index:
        assert call("note", job_copy, feature, '"cat"')[0] == 0
    assert call("label", job_copy, "--set", "hand")[0] == 0 and call("score", job_copy, "--set", "hand")[0] == 0
    by_rule = pd.read_parquet(job_copy / "score" / "hand" / "simulation" / "scores.parquet").set_index("feature")["value"]
    assert len(by_llm) and abs(by_llm - by_rule[by_llm.index]).max() < 1e-6


def test_a_broken_simulation_is_a_failure_and_never_a_zero(job_copy, call):
    def garbled(seen):
        return completion("I think it fires on nouns.") if "sequences" in seen.body["messages"][0]["content"] else oracle(seen)

    with FakeLLM(judge=garbled, models=("tiny",)) as server:
        assert call("label", job_copy, "--set", "llm", "--llm-url", server.url, "--features", "0-9")[0] == 0
        assert call("score", job_copy, "--set", "llm-tiny", "--llm-url", server.url)[0] == 0
    scores = pd.read_parquet(job_copy / "score" / "llm-tiny" / "simulation" / "scores.parquet")
    assert scores["value"].isna().all() and set(scores["undefined"].str.split(":").str[0]) <= {"unparsable", "too_rare"}
    summary = json.loads((job_copy / "score" / "llm-tiny" / "simulation" / "manifest.json").read_text())["summary"]
    assert summary["median"] is None and sum(summary["failures"].values()) == len(scores)


def test_a_wrong_key_is_exit_4(job_copy, call):
    with FakeLLM([failure(401, "no such key")] * 3, models=("tiny",)) as server:
        code, _, err = call("label", job_copy, "--set", "llm", "--llm-url", server.url, "--features", "0")
    assert code == 4 and "OPENAI_API_KEY" in two_lines(err)[1]

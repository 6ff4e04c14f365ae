"""Labels and scores by an LLM, through the command line and a scripted HTTP server."""

import json
import re

import pandas as pd
import pytest

from autointerp.llm.probe import SYSTEM as PROBE
from tests.support.fake_llm import FakeLLM, completion, failure
from tests.support.oracle import Oracle
from tests.support.small_job import two_lines

pytestmark = pytest.mark.slow

SCORED = ("simulation", "detection", "fuzzing")


def one_label(user):
    """Every feature is `tokens "cat"`; one in five is refused."""
    if sum(map(ord, user)) % 5 == 0:
        return completion(None, refusal="I will not.")
    return completion('{"label": "tokens that read \\"cat\\"", "confidence": 0.8, "second": ""}')


def scores_of(job, name, kind):
    return pd.read_parquet(job / "score" / name / kind / "scores.parquet")


def summary_of(job, *unit):
    return json.loads(job.joinpath(*unit, "manifest.json").read_text())["summary"]


@pytest.fixture
def llm(job_copy, call):
    """Type a verb about the job with the server's URL; it must succeed."""

    def typed(server, verb, *words):
        code, out, err = call(verb, job_copy, "--llm-url", server.url, *words)
        assert code == 0, err
        return out + err

    return typed


def test_llm_labels_are_made_kept_and_scored(job_copy, call, llm, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    with FakeLLM(judge=Oracle(label=one_label), models=("org/tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-19")
        labels = pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")
        failures = pd.read_parquet(job_copy / "label" / "llm-tiny" / "failures.parquet")
        assert sorted([*labels["feature"], *failures["feature"]]) == list(range(20)) and set(
            failures["kind"]
        ) <= {"refused"}
        by_rules = pd.read_parquet(job_copy / "label" / "rules" / "labels.parquet").set_index(
            "feature"
        )["evidence"]
        assert (labels["evidence"] == by_rules[labels["feature"]].to_numpy()).all() and (
            labels["evidence"] > 0
        ).all()
        asked = len(server.seen)
        llm(server, "label", "--labels", "llm", "--features", ",".join(map(str, labels["feature"])))
        assert len(server.seen) == asked, "a label that is there is not asked for again"
        llm(server, "label", "--labels", "llm", "--features", "0-24")
        assert len(pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")) > len(
            labels
        )

        llm(server, "score", "--labels", "llm-tiny", "--effort", "quick")
        scores = {kind: scores_of(job_copy, "llm-tiny", kind) for kind in SCORED}
        asked = len(server.seen)
        llm(server, "score", "--labels", "llm-tiny", "--effort", "quick", "--redo")
        assert len(server.seen) == asked, "no reply is paid for twice"
    for kind, table in scores.items():
        assert (
            table["value"].notna().any()
            and (table["value"].notna() | (table["undefined"] != "")).all()
        ), kind
        same = table[table["value"].notna() & table["null"].notna()]
        assert len(same) and (same["value"] == same["null"]).all(), (
            "every label says the same, so no label beats its null"
        )
        assert summary_of(job_copy, "score", "llm-tiny", kind)["llm"]["replies"] > 0
    for path in job_copy.rglob("*"):
        assert not path.is_file() or b"very-secret" not in path.read_bytes(), path


@pytest.mark.parametrize(
    "tells", [{}, {"logprobs": True}, {"prompt": True}, {"logprobs": True, "prompt": True}]
)
def test_the_oracles_simulation_equals_a_rule_that_says_the_same(job_copy, call, llm, tells):
    """The same label as a rule gets the same scores, however the LLM was asked."""
    with FakeLLM(judge=(oracle := Oracle(label=one_label, **tells)), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-19")
        llm(server, "score", "--labels", "llm-tiny")
        used = "exactly one digit" if "logprobs" in tells else "slots" if tells else '{"sequences"'
        assert set(oracle.asked) & {"exactly one digit", "slots", '{"sequences"'} == {used}
    by_llm = {
        kind: scores_of(job_copy, "llm-tiny", kind).set_index(["feature", "kind"])["value"].dropna()
        for kind in SCORED
    }
    for feature in sorted(set(by_llm["simulation"].index.get_level_values(0))):
        assert call("note", job_copy, feature, '"cat"')[0] == 0
    assert (
        call("label", job_copy, "--labels", "hand")[0] == 0
        and call("score", job_copy, "--labels", "hand")[0] == 0
    )
    for kind, values in by_llm.items():
        by_rule = scores_of(job_copy, "hand", kind).set_index(["feature", "kind"])["value"]
        both = values.index.intersection(by_rule.dropna().index)
        assert len(both) and abs(values[both] - by_rule[both]).max() < 1e-5, kind


def test_a_broken_simulation_is_a_failure_and_never_a_zero(job_copy, llm):
    def garbled(seen):
        labelling = (
            len(seen.body["messages"]) == 2
            and "find out what" in seen.body["messages"][0]["content"]
        )
        return (
            Oracle(label=one_label)(seen) if labelling else completion("I think it fires on nouns.")
        )

    with FakeLLM(judge=garbled, models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-9")
        llm(server, "score", "--labels", "llm-tiny")
    for kind in SCORED:
        scores = scores_of(job_copy, "llm-tiny", kind)
        scores = scores[scores["kind"] == kind]
        assert scores["value"].isna().all() and set(scores["undefined"].str.split(":").str[0]) <= {
            "unparsable",
            "too_rare",
            "too_dense",
        }
        summary = summary_of(job_copy, "score", "llm-tiny", kind)
        assert (
            summary["median"] is None
            and summary["share_above_null"] == 0
            and sum(summary["failures"].values()) == len(scores)
        )


def test_a_wrong_key_is_exit_4(job_copy, call):
    with FakeLLM([failure(401, "no such key")] * 3, models=("tiny",)) as server:
        code, _, err = call(
            "label", job_copy, "--labels", "llm", "--llm-url", server.url, "--features", "0"
        )
    assert code == 4 and "OPENAI_API_KEY" in two_lines(err)[1]


def test_redo_of_some_features_leaves_the_others_alone(job_copy, call, llm):

    def read(*unit):
        return pd.read_parquet(job_copy.joinpath(*unit))

    before = {name: read("label", "rules", name) for name in ("labels.parquet", "failures.parquet")}
    scored = read("score", "rules", "detection", "scores.parquet")
    chosen = ",".join(map(str, before["labels.parquet"]["feature"][:2]))
    assert call("label", job_copy, "--features", chosen, "--redo")[0] == 0
    assert call("score", job_copy, "--kind", "detection", "--features", chosen, "--redo")[0] == 0
    for name, table in before.items():
        pd.testing.assert_frame_equal(read("label", "rules", name), table)
    pd.testing.assert_frame_equal(read("score", "rules", "detection", "scores.parquet"), scored)
    with FakeLLM(judge=Oracle(label=one_label), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-19")
        failed = read("label", "llm-tiny", "failures.parquet")
        llm(server, "label", "--labels", "llm", "--features", "20-24")
    kept = read("label", "llm-tiny", "failures.parquet")
    assert len(failed) and set(failed["feature"]) <= set(kept["feature"]), (
        "what failed earlier is still known"
    )
    assert sum(summary_of(job_copy, "label", "llm-tiny")["failures"].values()) == len(kept)


# ---------------------------------------------------------------- the price


PRICES = (
    "--price-in",
    1,
    "--price-out",
    1000,
)  # 3 tokens out: 0.003 a reply, while 1,024 are reserved


def test_an_estimate_asks_nothing_and_leaves_nothing(job_copy, llm):
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        said = llm(server, "label", "--labels", "llm", "--features", "0-9", "--estimate", *PRICES)
        assert not server.seen and not (job_copy / "label" / "llm-tiny.partial").exists()
    assert re.search(
        r"label: 10 requests, about [\d,]+ tokens in and 350 out, about 0\.\d+ in money", said
    )


def test_a_budget_stops_in_time_and_loses_nothing(job_copy, call, llm):
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0", *PRICES)  # the probe is paid for
        code, _, err = call(
            "label",
            job_copy,
            "--labels",
            "llm",
            "--llm-url",
            server.url,
            "--features",
            "0-39",
            *PRICES,
            "--budget",
            1.07,
            "--concurrency",
            4,
        )
        assert code == 4 and "budget of 1.07 is spent" in two_lines(err)[0]
        first = len(server.seen)
        labels = pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")
        failures = pd.read_parquet(job_copy / "label" / "llm-tiny" / "failures.parquet")
        assert (
            1 < len(labels) < 40
            and set(failures["kind"]) == {"budget"}
            and len(labels) + len(failures) == 40
        )
        assert summary_of(job_copy, "label", "llm-tiny")["llm"]["paid_now"] <= 1.07
        llm(server, "label", "--labels", "llm", "--features", "0-39")
        assert len(server.seen) == first + len(failures)
    assert len(pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")) == 40


def test_the_probe_is_held_by_the_budget_and_no_verdict_is_made_of_what_was_not_asked(
    job_copy, call, llm
):
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        code, _, err = call(
            "label",
            job_copy,
            "--labels",
            "llm",
            "--llm-url",
            server.url,
            "--features",
            "0",
            *PRICES,
            "--budget",
            0.26,
        )
        assert code == 4 and "questions of the probe" in two_lines(err)[0]
        assert len(server.seen) == 2, "256 tokens are reserved for each question, and 3 are paid"
        llm(server, "label", "--labels", "llm", "--features", "0", *PRICES, "--budget", 1.2)
        assert summary_of(job_copy, "label", "llm-tiny")["llm"]["paid_now"] == pytest.approx(
            4 * 0.003, abs=5e-4
        ), "three more of the probe, a label"


def test_a_budget_without_prices_is_refused(job_copy, call):
    with FakeLLM(models=("tiny",)) as server:
        code, _, err = call(
            "label", job_copy, "--labels", "llm", "--llm-url", server.url, "--budget", 1
        )
    assert code == 2 and "--price-in" in two_lines(err)[1]


def test_a_batch_goes_out_and_its_answers_come_back_in_any_order(job_copy, call, llm, tmp_path):
    """The answers come in two shuffled files, one an error, which the next command asks again."""
    questions = tmp_path / "questions.jsonl"
    with FakeLLM(judge=(oracle := Oracle()), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-9", "--batch-out", questions)
        assert not server.seen
        lines = [json.loads(line) for line in questions.read_text().splitlines()]
        assert len(lines) == 10 and {(q["method"], q["url"]) for q in lines} == {
            ("POST", "/v1/chat/completions")
        }
        answers = [
            {
                "custom_id": q["custom_id"],
                "response": {"status_code": 200, "body": body(oracle, q["body"])},
                "error": None,
            }
            for q in lines
        ]
        answers[3] = {
            "custom_id": lines[3]["custom_id"],
            "response": {"status_code": 500, "body": {"error": {}}},
            "error": {"message": "expired"},
        }
        for name, part in (("a", answers[7:]), ("b", answers[:7][::-1])):
            (tmp_path / f"answers-{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
        llm(
            server,
            "label",
            "--labels",
            "llm",
            "--features",
            "0-9",
            "--batch-in",
            f"{tmp_path}/answers-*.jsonl",
        )
        assert not server.seen
        failures = pd.read_parquet(job_copy / "label" / "llm-tiny" / "failures.parquet")
        assert len(pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")) == 9
        assert failures["kind"].tolist() == ["provider"]
        llm(server, "label", "--labels", "llm", "--features", "0-9")
        assert sum(seen.body["messages"][0]["content"] != PROBE for seen in server.seen) == 1
    assert len(pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet")) == 10


def body(oracle, question):
    return json.loads(oracle(type("Seen", (), {"body": question})).body)


# ---------------------------------------------------------------- texts written from labels


def test_texts_written_from_labels_are_read_by_the_subject(job_copy, llm):
    """The score is recomputed from the subject's activations on the texts of the script."""
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-30")
        llm(server, "score", "--labels", "llm-tiny", "--kind", "generation")
    from core.clamps.live import LoadedModel
    from core.run import Run

    labels = pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet").set_index(
        "feature"
    )["text"]
    written = {
        f: [f"a {w} b {w} {i}" for i in range(5)]
        for f, text in labels.items()
        for w in [json.loads(text.removeprefix("tokens that read "))]
    }
    live = LoadedModel(Run.open(str(job_copy)))
    table = scores_of(job_copy, "llm-tiny", "generation").set_index("feature")
    assert table["value"].notna().sum() == len(labels) > 10
    for feature in labels.index[:4]:
        largest = {
            f: [
                max((v for p, g, v in live.read(t).firings if g == feature), default=0.0)
                for t in texts
            ]
            for f, texts in written.items()
        }
        own, others = largest.pop(feature), sum(largest.values(), [])
        expected = sum((a > b) + 0.5 * (abs(a - b) < 1e-6) for a in own for b in others) / (
            len(own) * len(others)
        )
        assert table.loc[feature, "value"] == pytest.approx(expected, abs=0.02)


def test_generation_needs_an_llm(job_copy, call):
    code, _, err = call(
        "score",
        job_copy,
        "--kind",
        "generation",
        "--llm-url",
        "http://127.0.0.1:9/v1",
        "--llm-model",
        "m",
    )
    assert code == 4 and "Nothing answers" in two_lines(err)[0]


# ---------------------------------------------------------------- texts of clamps


def test_the_texts_of_a_clamp_are_chosen_among_three(job_copy, llm):
    """The script picks the set with most of the label's word; the score is recomputed."""
    with FakeLLM(judge=(oracle := Oracle()), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-15")
        llm(server, "score", "--labels", "llm-tiny", "--kind", "effect-choice")
    assert oracle.asked["was turned up"] > 0
    from autointerp.scores.effect_choice import draw_pool, draw_trials
    from core.clamps.clamp import Sampling
    from core.clamps.live import LoadedModel
    from core.effects.effects import PREFIXES, TEMPERATURE
    from core.firings.postings import maxima
    from core.records import Clamp
    from core.run import Run

    run = Run.open(str(job_copy))
    live, largest = LoadedModel(run), maxima(run, 256)
    labels = pd.read_parquet(job_copy / "label" / "llm-tiny" / "labels.parquet").set_index(
        "feature"
    )["text"]
    table = scores_of(job_copy, "llm-tiny", "effect-choice").set_index("feature")
    texts = table["texts"].map(list)
    others = draw_pool(labels.index.to_numpy(), run.settings.seed)
    assert set(others) == set(labels.index), "no more labels than the pool holds"
    for feature in labels.index[:3]:
        clamp = [Clamp(int(feature), "set", 2.0 * float(largest[feature]))]
        alone = [
            live.clamp(clamp, {}, Sampling([p], 24, TEMPERATURE, (seed,))).clamped[0]
            for seed, p in enumerate(PREFIXES)
        ]
        assert texts[feature] == [p + text for p, text in zip(PREFIXES, alone, strict=True)]
    features, right = sorted(labels.index), 0
    for feature in features:
        word = json.loads(labels[feature].removeprefix("tokens that read "))
        trials = draw_trials(feature, others, run.settings.seed)
        picks = [
            max(range(3), key=lambda i: sum(t.split().count(word) for t in texts[trial.shown[i]]))
            + 1
            for trial in trials
        ]  # noqa: B023
        assert table.loc[feature, "value"] == pytest.approx(
            sum(p == t.right for p, t in zip(picks, trials, strict=True)) / 3
        )
        right += sum(p == t.right for p, t in zip(picks, trials, strict=True))
    assert right > 0 and table["null"].notna().any()


def test_choices_are_the_same_whoever_else_is_asked_about(job_copy, llm):
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-15")
        llm(server, "score", "--labels", "llm-tiny", "--kind", "effect-choice", "--features", "3")
        alone, asked = (
            scores_of(job_copy, "llm-tiny", "effect-choice").set_index("feature"),
            len(server.seen),
        )
        llm(server, "score", "--labels", "llm-tiny", "--kind", "effect-choice")
        together, more = (
            scores_of(job_copy, "llm-tiny", "effect-choice").set_index("feature"),
            len(server.seen) - asked,
        )
        llm(server, "score", "--labels", "llm-tiny", "--kind", "effect-choice", "--redo")
    assert (
        len(alone) == 1 and len(together) > 10 and together.loc[3, "value"] == alone.loc[3, "value"]
    )
    assert len(server.seen) == asked + more, "all of it was answered already"


def test_choosing_needs_an_llm_and_three_labels(job_copy, call, llm):
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "1,2")
        code, _, err = call(
            "score",
            job_copy,
            "--labels",
            "llm-tiny",
            "--kind",
            "effect-choice",
            "--llm-url",
            server.url,
        )
    assert code == 2 and "told from two others" in two_lines(err)[0]


# ---------------------------------------------------------------- beside the rules


def test_the_report_holds_another_set_against_the_rules_and_follows_what_is_scored(
    job_copy, call, llm
):
    report = job_copy / "report" / "report.md"
    with FakeLLM(judge=Oracle(), models=("tiny",)) as server:
        llm(server, "label", "--labels", "llm", "--features", "0-31")
        llm(server, "score", "--labels", "llm-tiny", "--kind", "detection")
        assert call("report", job_copy)[0] == 0
        rows = [
            line.split(" | ")
            for line in report.read_text().splitlines()
            if line.startswith("| llm-tiny")
        ]
        assert call("report", job_copy)[2].count("already done") == 1
        llm(server, "score", "--labels", "llm-tiny", "--kind", "fuzzing")
        assert call("report", job_copy)[0] == 0 and report.read_text().count("| llm-tiny") == 2
    (row,) = rows
    both = [
        scores_of(job_copy, name, "detection")
        .query("kind == 'detection'")
        .set_index("feature")["value"]
        .dropna()
        for name in ("llm-tiny", "rules")
    ]
    common = sorted(set(both[0].index) & set(both[1].index))
    ours, theirs = (values[common].tolist() for values in both)
    wins = sum(
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)
    ) / len(common)
    assert row[2] == str(len(both[0])) and float(row[3]) == pytest.approx(
        both[0].median(), abs=0.006
    )
    assert (
        float(row[5]) == pytest.approx(sorted(theirs)[len(common) // 2], abs=0.05)
        and row[6] == f"{wins:.0%} of {len(common)}"
    )
    assert re.search(r"[\d,]+ replies, [\d,]+ tokens", row[7])

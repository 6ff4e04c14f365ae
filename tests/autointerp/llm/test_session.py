"""What an endpoint is found to do, what requests cost, batch files, and digits read from
log-probabilities.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from autointerp.llm.batch import read_batch, write_batch
from autointerp.llm.budget import Budget, Meter, Pace, Prices, estimate
from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.messages import last_object
from autointerp.llm.probe import SIGN, abilities, stored_abilities
from autointerp.llm.replies import Reply, ReplyStore
from autointerp.llm.session import Unread, ask_until_read, read_whole
from autointerp.scores.prompts import (
    detect_messages,
    digits_messages,
    expected_digits,
    marked_text,
    parse_digits,
    parse_ratings,
)
from core.errors import ProviderError, UsageError
from tests.support.fake_llm import Answer, FakeLLM, completion, failure
from tests.support.oracle import spelt


@pytest.fixture
def store(tmp_path):
    with ReplyStore(tmp_path / "replies.sqlite") as opened:
        yield opened


def probed(judge, store):
    with FakeLLM(judge=judge, models=("m",)) as server:
        endpoint = Endpoint(server.url)
        found = abilities(endpoint, "m", store)
        n_asked = len(server.seen)
        assert (
            abilities(Endpoint(server.url), "m", store) == found and len(server.seen) == n_asked
        ), "a probe is kept"
        return found, endpoint


# ---------------------------------------------------------------- the probe


def able(seen):
    """Honours everything that it is asked for."""
    form = (seen.body.get("response_format") or {}).get("type")
    if form:
        return completion(json.dumps({"sign": SIGN} if form == "json_schema" else {"any": 1}))
    if "prompt_logprobs" in seen.body:
        return Answer(
            json.dumps(
                json.loads(completion("yes").body)
                | {"prompt_logprobs": [None, {"5": {"logprob": -1.0}}]}
            )
        )
    return spelt("7", seen.body.get("logprobs"))


def test_an_endpoint_that_can_do_everything(store):
    found, _ = probed(able, store)
    assert (found.json, found.top_logprobs, found.prompt_logprobs, found.thinks, found.refuses) == (
        "schema",
        2,
        True,
        False,
        (),
    )


def test_a_200_proves_nothing(store):
    """Accepts every parameter and ignores it, as transformers' server does."""
    found, _ = probed(lambda seen: completion("a word"), store)
    assert (found.json, found.top_logprobs, found.prompt_logprobs) == ("none", 0, False)


def test_a_server_that_fails_on_a_schema_but_has_objects(store):
    def judge(seen):
        form = (seen.body.get("response_format") or {}).get("type")
        return (
            failure(500, "only text and json_object")
            if form == "json_schema"
            else completion('{"a": 1}' if form else "yes")
        )

    assert probed(judge, store)[0].json == "object"


def test_a_reasoning_model_that_renames_and_refuses(store):
    def judge(seen):
        if "max_tokens" in seen.body:
            return failure(
                400,
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
                param="max_tokens",
            )
        if "temperature" in seen.body:
            return failure(400, "Unsupported value: 'temperature'.", param="temperature")
        if "response_format" in seen.body:
            return failure(400, "response_format is not supported", param="response_format")
        return completion("<think>hm</think>yes")

    found, endpoint = probed(judge, store)
    assert found.thinks and found.refuses == ("max_tokens", "temperature") and found.json == "none"
    again = Endpoint(endpoint.url)
    assert stored_abilities(again, "m", store) == found and again.refused["m"] == {
        "max_tokens",
        "temperature",
    }, "what was refused is known to the next process"


def test_a_model_that_does_not_answer_is_an_error_and_not_a_verdict(store):
    with (
        FakeLLM(judge=lambda seen: failure(400, "no"), models=("m",)) as server,
        pytest.raises(ProviderError, match="did not answer"),
    ):
        abilities(Endpoint(server.url), "m", store)
    assert store.probe(server.url, "m") is None


# ---------------------------------------------------------------- money and pace


def requests_for(endpoint, n, **parameters):
    return [
        endpoint.request(
            "m",
            [{"role": "user", "content": f"question {i} " + "x" * 90}],
            max_tokens=100,
            **parameters,
        )
        for i in range(n)
    ]


def test_an_estimate_by_hand():
    meter = Meter(Prices(2.0, 10.0))
    found = estimate(requests_for(Endpoint("http://h/v1"), 3), 5, 40, meter)
    assert (found.n_requests, found.n_stored, found.tokens_in, found.tokens_out) == (
        3,
        5,
        round(3 * (101 * 0.4 + 12)),
        120,
    )
    assert found.cost == pytest.approx((3 * (101 * 0.4 + 12) * 2 + 120 * 10) / 1e6)


def test_a_meter_learns_the_tokens_of_a_character():
    meter, (request,) = Meter(Prices(1.0, 1.0)), requests_for(Endpoint("http://h/v1"), 1)
    for _ in range(30):
        meter.count(request, Reply("k", "text", tokens_in=32, tokens_out=4, raw="{}"))
    assert meter.expected_in(request) == pytest.approx(32) and (
        meter.n_received,
        meter.tokens_in,
        meter.tokens_out,
    ) == (30, 960, 120)
    meter.count(request, Reply("k", None, error="provider"))
    assert meter.n_received == 30, "what never came costs nothing"


def test_a_budget_is_never_exceeded_even_when_every_reply_is_as_long_as_it_may_be(store):
    usage = {"prompt_tokens": 60, "completion_tokens": 100}
    longest = Answer(json.dumps(json.loads(completion("ok").body) | {"usage": usage}), delay=0.01)
    with FakeLLM(judge=lambda seen: longest) as server:
        endpoint = Endpoint(server.url)
        meter = Meter(Prices(1000, 10_000))  # 0.06 in and 1.00 out a reply
        replies = answer(
            requests_for(endpoint, 40), store, endpoint, concurrency=8, budget=Budget(10.0, meter)
        )
        assert len(server.seen) == meter.n_received
    ends = [reply.error for reply in replies.values()]
    assert (
        8.5 < meter.cost <= 10.0
        and ends.count("") == meter.n_received
        and ends.count("budget") == 40 - meter.n_received
    )


def test_a_budget_holds_over_several_rounds_of_questions(store):
    """A stage asks in rounds, each in an event loop of its own; requests wait for room in every one
    of them.
    """
    with FakeLLM(judge=lambda _: replace(completion("ok"), delay=0.02)) as server:
        endpoint, budget = Endpoint(server.url), Budget(0.25, Meter(Prices(1, 1000)))
        for number in range(3):
            requests = [
                endpoint.request(
                    "m", [{"role": "user", "content": f"{number} {i}"}], max_tokens=100
                )
                for i in range(6)
            ]
            replies = answer(requests, store, endpoint, concurrency=6, budget=budget)
            assert {r.error for r in replies.values()} == {""}
        assert server.most_open == 2, "as many as fit at a time"


def test_a_budget_needs_prices():
    with pytest.raises(UsageError, match="prices"):
        Budget(1.0, Meter())


def test_the_pace_keeps_both_limits():
    pace, now, starts = Pace(60, 6000), 0.0, []
    for tokens in (50, 50, 300, 10, 10):
        now += pace.delay(tokens, now)
        starts.append(now)
    assert starts == [0, 1, 2, 5, 6], "a request a second, and three seconds for 300 tokens"
    assert Pace().delay(1e9, 5.0) == 0


# ---------------------------------------------------------------- batch files


def test_a_batch_goes_out_and_comes_back(tmp_path):
    endpoint = Endpoint("http://h/v1")
    endpoint.refused["m"] = {"max_tokens"}
    requests = requests_for(endpoint, 3)
    assert (
        write_batch(
            tmp_path / "out.jsonl",
            [*requests, requests[0]],
            endpoint.adapt,
            endpoint.adapt_messages,
        )
        == 3
    )
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [r.key for r in requests] and lines[0]["body"][
        "max_completion_tokens"
    ] == 100
    body = json.loads(completion("ok").body)
    answers = [
        {"custom_id": r.key, "response": {"status_code": 200, "body": body}} for r in requests[:2]
    ] + [{"custom_id": "k", "error": {}, "response": None}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, answers)) + "\n")
    found, failed = read_batch(f"{tmp_path}/in*.jsonl, {tmp_path}/in.jsonl")
    assert set(found) == {r.key for r in requests[:2]} and failed == 2


@pytest.mark.parametrize(
    ("text", "said"), [("not json", "line 1"), ('{"response": {}}', "line 1"), (None, "no file")]
)
def test_a_batch_file_that_is_none(tmp_path, text, said):
    if text:
        (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_batch(str(tmp_path / "in.jsonl"))


# ---------------------------------------------------------------- digits


def told(token, *others):
    tops = [{"token": t, "logprob": math.log(p)} for t, p in others]
    return {"token": token, "logprob": tops[0]["logprob"], "top_logprobs": tops}


def test_a_digit_is_the_mean_of_those_that_could_stand_there():
    tokens = [
        told('{"1": [', ('{"1": [', 1.0)),
        told("2", ("2", 0.5), ("4", 0.25), ("x", 0.25)),
        told(", 0", (", 0", 0.9), (", 5", 0.1)),
        told("]}", ("]}", 1.0)),
    ]
    text = "".join(t["token"] for t in tokens)
    (found,) = parse_digits(text, [2], tokens)
    assert found == pytest.approx([(2 * 0.5 + 4 * 0.25) / 0.75, 0.5])
    assert expected_digits(text + "!", tokens) == {}, (
        "tokens that do not spell the text are not used"
    )
    doubtful = [told("3", ("3", 0.2), ("x", 0.8))]
    assert expected_digits("3", doubtful) == {}, "most of the probability is on something else"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"1": [0, 9, 3], "2": [5]}', [[0, 9, 3], [5]]),
        ('<think>{"1": [1,1,1]}</think>{"2": [5], "1": [0,9,3]}', [[0, 9, 3], [5]]),
        ('{"1": [0, 9], "2": [5]}', [None, [5]]),
        ('{"1": [0, 9, 12], "2": [5]}', [None, [5]]),
        ('{"1": [0, 9, 3], "2": [', [[0, 9, 3], None]),
        ("no", [None, None]),
        (None, [None, None]),
    ],
)
def test_arrays_of_digits_are_read_or_missing(text, expected):
    found = parse_digits(text, [3, 1], [])
    assert [None if f is None else f.tolist() for f in found] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"1": 9, "2": 0, "3": 4}', [1, 0, 4 / 9]),
        ('{"3": 4, "1": 9}', [1, np.nan, 4 / 9]),
        ('{"1": 10, "2": 0, "7": 3}', [np.nan, 0, np.nan]),
        ("Sure.", [np.nan] * 3),
        (None, [np.nan] * 3),
    ],
)
def test_ratings_are_read_by_number(text, expected):
    np.testing.assert_allclose(parse_ratings(text, 3, []), expected)


def test_marks_cannot_be_forged_by_the_text():
    tokens = ["a ", "<<", "b", ">", ">", " c>>", "\n"]
    text = marked_text(tokens, {2, 3})
    assert (
        text.count("<<") == 1
        and text.count(">>") == 1
        and text[text.index("<<") + 2 : text.index(">>")] == "b\\u003e"
    )
    assert json.loads(text) == "a <<<<b>>>> c>>\n"
    assert json.loads(marked_text(tokens, set())) == "".join(tokens) and "<<" not in marked_text(
        tokens, set()
    )


def test_score_prompts_are_golden():
    system, user = detect_messages('the word "self"', [marked_text(["def", " f"], {1})], True)
    assert (
        user["content"] == 'Label: "the word \\"self\\""\n1: "def<< f>>"'
        and "marked" in system["content"]
    )
    assert (
        digits_messages("x", [("a", " b")])[1]["content"]
        == 'Label: "x"\n[1 (2 tokens): 0"a" 1" b"]'
    )


# ---------------------------------------------------------------- ask until the answer can be read


def script(*rounds):
    """(ask, calls): the replies to each round, in the order of its questions; `calls` fills."""
    calls = []

    def ask(conversations, repetition):
        calls.append((conversations, repetition))
        return [(f"{repetition}-{i}", reply) for i, reply in enumerate(rounds[repetition])]

    return ask, calls


def text_reply(text, error="", message=""):
    return Reply("k", text, error=error, message=message, raw="{}" if text is not None else "")


def read_int(text):
    return int(text) if text and text.isdigit() else None


def test_what_cannot_be_read_is_asked_once_more():
    ask, calls = script(
        [text_reply("7"), text_reply("no"), text_reply("no"), text_reply("12", "truncated")],
        [text_reply("8"), text_reply("again no"), text_reply("9")],
    )
    found = ask_until_read({k: [k] for k in "abcd"}, read_whole(read_int), ask)
    assert calls == [([["a"], ["b"], ["c"], ["d"]], 0), ([["b"], ["c"], ["d"]], 1)]
    assert found.values == {"a": 7, "b": 8, "d": 9}
    assert found.failures == {"c": Unread("unparsable", "reply of 8 characters", "1-1")}
    assert found.reply_keys == {"a": "0-0", "b": "1-0", "d": "1-2"}


def test_a_request_without_any_reply_is_not_repeated():
    ask, calls = script([text_reply(None, "provider", "connection refused")])
    found = ask_until_read({1: ["q"]}, read_whole(read_int), ask)
    assert len(calls) == 1
    assert found.values == {}
    assert found.failures == {1: Unread("provider", "connection refused", "0-0")}


def test_the_reader_says_why_it_could_not_read():
    ask, _ = script([text_reply("I will not")], [text_reply("I will not")])
    found = ask_until_read({1: ["q"]}, read_whole(lambda _: Unread("refused")), ask)
    assert found.failures == {1: Unread("refused", "reply of 10 characters", "1-0")}


def test_partial_answers_are_joined_and_what_is_missing_still_fails():
    ask, calls = script(
        [text_reply("1.."), text_reply("1.3"), text_reply("123")],
        [text_reply("92."), text_reply("xxx")],
    )

    def read(_, reply):
        return reply.text if set(reply.text) <= set("123456789.") else None

    def merge(old, new):
        return "".join(o if n == "." else n for o, n in zip(old, new, strict=True))

    found = ask_until_read(
        {k: [k] for k in "abc"}, read, ask, merge=merge, is_complete=lambda v: "." not in v
    )
    assert calls[1] == ([["a"], ["b"]], 1)
    assert found.values == {"a": "92.", "b": "1.3", "c": "123"}
    assert {key: failure.kind for key, failure in found.failures.items()} == {
        "a": "unparsable",
        "b": "unparsable",
    }


def test_the_last_object_with_the_fields_counts():
    text = '{"a": 1} then {"a": 2, "b": {"c": 3}} and {"d": 4} {"a": cut'
    assert last_object(text, "a") == {"a": 2, "b": {"c": 3}}
    assert last_object(text, "c") == {"c": 3}
    assert last_object(text, "a", "d") is None
    assert last_object(None, "a") is None


def test_objects_in_thoughts_do_not_count():
    assert last_object('<think>{"a": 1}</think> {"a": 2}', "a") == {"a": 2}
    assert last_object('<think>{"a": 1}', "a") is None

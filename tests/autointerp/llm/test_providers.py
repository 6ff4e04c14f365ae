"""Every form of provider that `tests.support.providers` lists meets the probe and the client."""

import json

import pytest

from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.probe import abilities
from autointerp.llm.refusals import is_filtered
from autointerp.llm.replies import ReplyStore
from core.errors import ProviderError
from tests.support.fake_llm import Answer, FakeLLM, completion
from tests.support.providers import FILTERS, NO_SYSTEM, PROVIDERS, READ, judge
from tests.support.providers import completion as provider_completion

pytestmark = pytest.mark.slow  # the file as a whole

TALK = [{"role": "system", "content": "You label."}, {"role": "user", "content": "texts"}]


@pytest.fixture
def store(tmp_path):
    with ReplyStore(tmp_path / "replies.sqlite") as opened:
        yield opened


def ask(server, store, texts=("texts",), endpoint=None, **limits):
    endpoint = endpoint or Endpoint(server.url)
    requests = [
        endpoint.request("m", [TALK[0], {"role": "user", "content": text}], max_tokens=9)
        for text in texts
    ]
    limits = {"concurrency": 1, "backoff": 0.001, "retries": 1, **limits}
    return list(answer(requests, store, endpoint, **limits).values())


@pytest.mark.parametrize("name", NO_SYSTEM)
def test_a_refused_system_role_goes_in_front_of_the_user(name, store):
    with FakeLLM(judge=judge(f"no-system {name}")) as server:
        endpoint = Endpoint(server.url)
        replies = ask(server, store, ["texts", "more"], endpoint=endpoint)
        assert [reply.text for reply in replies] == ["ok", "ok"] and len(server.seen) == 3
        assert endpoint.refused["m"] == {"system"}
        assert server.seen[1].body["messages"] == [
            {"role": "user", "content": "You label.\n\ntexts"}
        ]


@pytest.mark.parametrize("name", ["vllm", "llama.cpp"])
def test_the_probe_finds_that_a_system_role_is_refused(name, store):
    with FakeLLM(judge=judge(f"no-system {name}")) as server:
        endpoint = Endpoint(server.url)
        found = abilities(endpoint, "m", store)
        assert found.refuses == ("system",)
        n_asked = len(server.seen)
        again = Endpoint(server.url)
        abilities(again, "m", store)
        (reply,) = ask(server, store, endpoint=again)
        assert reply.text == "ok" and len(server.seen) == n_asked + 1, "it is known after the probe"
        assert server.seen[-1].body["messages"] == [
            {"role": "user", "content": "You label.\n\ntexts"}
        ]


def test_workers_that_learn_of_the_system_role_at_once_all_go_on(store):
    with FakeLLM(judge=judge("no-system vllm")) as server:
        replies = ask(server, store, [str(i) for i in range(8)], concurrency=8)
    assert [reply.text for reply in replies] == ["ok"] * 8


def test_an_overloaded_system_is_no_refused_role(store):
    busy = Answer(json.dumps({"error": {"message": "system prompt cache is down"}}), 500)
    with FakeLLM([busy]) as server:
        endpoint = Endpoint(server.url)
        (reply,) = ask(server, store, endpoint=endpoint)
    assert reply.text == "ok" and "system" not in endpoint.refused["m"]


@pytest.mark.parametrize("name", READ)
def test_an_answer_is_read_whatever_stands_around_it(name, store):
    with FakeLLM(judge=judge(name, '{"label": "cats"}')) as server:
        endpoint = Endpoint(server.url)
        first, second = ask(server, store, ["a", "b"], endpoint=endpoint)
    for reply in (first, second):
        assert (reply.text, reply.error, reply.message) == ('{"label": "cats"}', "", "")
        assert reply.finish_reason in ("stop", "")
    assert len(server.seen) == 2 + ("only" in name and "stream" in name), "learnt once"
    told = json.loads(first.raw).get("usage")
    assert first.tokens_in == (9 if isinstance(told, dict) and "usage" not in name else 0)


def test_the_probe_finds_that_a_model_answers_as_a_stream_only(store):
    with FakeLLM(judge=judge("streams only", "yes")) as server:
        found = abilities(Endpoint(server.url), "m", store)
        assert found.refuses == ("stream",) and "as a stream only" in found.line()
        n_asked = len(server.seen)
        again = Endpoint(server.url)
        abilities(again, "m", store)
        (reply,) = ask(server, store, endpoint=again)
    assert reply.text == "yes" and len(server.seen) == n_asked + 1
    assert server.seen[-1].body["stream"] is True


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_answer_that_is_kept_as_reasoning_is_read(name, store):
    with FakeLLM(judge=judge(name, '{"label": "cats"}')) as server:
        (reply,) = ask(server, store)
    assert (reply.text, reply.error) == ('{"label": "cats"}', "")


def test_reasoning_that_was_cut_off_is_truncated_and_a_refusal_is_refused(store):
    cut = completion(None, "length", reasoning_content="I think that")
    refused = completion(None, refusal="no", reasoning_content="I think that")
    with FakeLLM([cut, refused]) as server:
        replies = ask(server, store, ["a", "b"])
    assert [reply.error for reply in replies] == ["truncated", "refused"]


@pytest.mark.parametrize(
    ("name", "most"),
    [("five-alternatives named", 5), ("five-alternatives unnamed", 5), ("two-alternatives", 2)],
)
def test_as_many_alternatives_are_asked_for_as_the_provider_allows(name, most, store):
    with FakeLLM(judge=judge(name, "7")) as server:
        assert abilities(Endpoint(server.url), "m", store).top_logprobs == most


def test_alternatives_are_cut_down_in_use(store):
    """A router may send later requests to a stricter provider than the probe met."""
    with FakeLLM(judge=judge("five-alternatives named", "7")) as server:
        endpoint = Endpoint(server.url)
        request = endpoint.request("m", TALK, logprobs=True, top_logprobs=10)
        (reply,) = answer([request], store, endpoint).values()
    assert json.loads(reply.raw)["choices"][0]["logprobs"]["content"][0]["top_logprobs"][4:]
    assert endpoint.most_alternatives == {"m": 5}


@pytest.mark.parametrize("name", [name for name in PROVIDERS if "error" in name])
def test_an_error_with_status_200_is_no_reply(name, store):
    with FakeLLM(judge=judge(name)) as server:
        (reply,) = ask(server, store)
    assert (reply.text, reply.error, reply.raw) == (None, "provider", "")
    assert len(server.seen) == 2, "another attempt may go well"
    assert store.get(reply.key) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"filter {name}" for name in FILTERS), "filter choice"])
def test_a_filter_refuses_single_texts_and_never_ends_the_command(name, store):
    texts = [f"forbidden {i}" for i in range(21)] + ["fine"]
    with FakeLLM(judge=judge(name)) as server:
        replies = ask(server, store, texts)
    assert [reply.error for reply in replies] == ["refused"] * 21 + [""]
    assert all(reply.message for reply in replies[:21])
    assert len(server.seen) == 22, "a filter's verdict is not asked for twice"


def test_a_wrong_request_is_no_filters_verdict(store):
    wrong = Answer(json.dumps({"error": {"message": "context length exceeded"}}), 400)
    with FakeLLM([wrong]) as server:
        assert ask(server, store)[0].error == "provider"


def served(status, body, headers=None):
    return Answer(body if isinstance(body, str) else json.dumps(body), status, headers or {})


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head>", "502 Bad Gateway"),
        ("<html><body><style>p {}</style><h1>Down &amp; out</h1></body>", "Down & out"),
        ("<html></html>", "a page without text"),
        ("upstream connect error", "upstream connect error"),
        ("", "no explanation"),
        ('[{"error": {"message": "quota"}}]', '[{"error": {"message": "quota"}}]'),
        ('{"detail": [{"loc": ["body"], "msg": "odd"}]}', '{"detail": [{"loc"'),
    ],
)
def test_a_page_in_place_of_an_error_is_shown_by_its_title(page, shown, store):
    with FakeLLM([served(502, page)]) as server:
        (reply,) = ask(server, store, retries=0)
    assert reply.message.startswith(f"HTTP 502: {shown}") and "<" not in reply.message


CREDIT = [
    (402, {"error": {"message": "Insufficient Balance"}}),
    (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
    (400, {"error": {"message": "Your credit balance is too low to access the API"}}),
    (403, {"error": {"message": "Your team has used all available credits"}}),
    (200, {"error": {"code": 402, "message": "Insufficient credits. Add more"}}),
    (200, {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
]  # fmt: skip
KEYS = [
    (401, "<html><title>Unauthorized</title></html>"),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]),
    (403, {"error": {"message": "Invalid API key"}}),
    (200, {"error": {"code": 401, "message": "No auth credentials found"}}),
]


@pytest.mark.parametrize(
    ("said", "wrong"),
    [(c, "no credit left") for c in CREDIT] + [(k, "refused the key") for k in KEYS],
)
def test_what_no_text_can_get_past_ends_the_command_at_once(said, wrong, store):
    with FakeLLM(judge=lambda seen: served(*said)) as server:
        with pytest.raises(ProviderError, match=wrong):
            ask(server, store, ["a", "b"])
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 8448. This model supports at most 1000 completion tokens",
        "This model's maximum context length is 1200 tokens and your request has 100 input tokens",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 1000]",
    ],
)
def test_an_answer_is_asked_to_be_as_long_as_the_model_can_write(said, store):
    def judge_length(seen):
        tokens = seen.body["max_tokens"]
        return served(400, {"error": {"message": said}}) if tokens > 1000 else None

    with FakeLLM(judge=judge_length) as server:
        endpoint = Endpoint(server.url)
        for number in range(2):
            request = endpoint.request("m", TALK, number, max_tokens=8448)
            (reply,) = answer([request], store, endpoint).values()
            assert reply.text == "ok"
    assert [seen.body["max_tokens"] for seen in server.seen] == [8448, 4224, 2112, 1056, 528, 528]


def test_a_question_that_is_too_long_shortens_no_other_answer(store):
    said = "maximum context length is 100 tokens"

    def judge_length(seen):
        long = "long" in seen.body["messages"][1]["content"]
        return served(400, {"error": {"message": said}}) if long else None

    with FakeLLM(judge=judge_length) as server:
        endpoint = Endpoint(server.url)
        talks = [[TALK[0], {"role": "user", "content": text}] for text in ("long", "short")]
        requests = [endpoint.request("m", talk, max_tokens=600) for talk in talks]
        replies = list(answer(requests, store, endpoint, concurrency=1).values())
    assert [reply.error for reply in replies] == ["provider", ""]
    assert server.seen[-1].body["max_tokens"] == 600


def test_a_check_of_json_that_fails_is_left_out(store):
    """Groq answers with 400 where a reply to response_format is no JSON."""
    stated = {"message": "Failed to generate JSON.", "code": "json_validate_failed"}

    def check(seen):
        return served(400, {"error": stated}) if "response_format" in seen.body else None

    with FakeLLM(judge=check) as server:
        endpoint = Endpoint(server.url)
        form = {"type": "json_object"}
        request = endpoint.request("m", TALK, response_format=form)
        (reply,) = answer([request], store, endpoint).values()
    assert reply.text == "ok" and len(server.seen) == 2


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_status_of_one_text_ends_nothing_after_a_first_reply(status, store):
    def route(seen):
        odd = "odd" in seen.body["messages"][1]["content"]
        return served(status, {"error": {"message": "No endpoints found"}}) if odd else None

    with FakeLLM(judge=route) as server:
        replies = ask(server, store, ["fine", "odd", "fine too"])
    assert [reply.error for reply in replies] == ["", "provider", ""]


@pytest.mark.parametrize(
    "listed",
    [
        [1],
        {"content": [None]},
        {"content": [{"token": "7", "logprob": None}]},
        {"content": [{"token": "7", "logprob": -0.1, "top_logprobs": {"7": -0.1}}]},
        {"tokens": ["7"], "token_logprobs": [-0.1]},
    ],
)
def test_log_probabilities_in_another_form_are_none(listed, store):
    raw = served(200, provider_completion("7", choice={"logprobs": listed}))
    with FakeLLM(judge=lambda seen: raw) as server:
        assert abilities(Endpoint(server.url), "m", store).top_logprobs == 0


@pytest.mark.parametrize(
    "said",
    [
        "model names are case-sensitive",
        "unsafe integer in max_tokens",
        "Sensitive data masked",
        "context length exceeded",
        "response_format json_schema is not supported",
    ],
)
def test_what_only_sounds_like_a_filter_is_none(said):
    assert not is_filtered(400, {"message": said})

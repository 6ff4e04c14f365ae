"""Every form of provider that `tests.support.providers` lists meets the probe and the client."""

import json

import pytest

from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.probe import abilities
from autointerp.llm.replies import ReplyStore
from tests.support.fake_llm import Answer, FakeLLM, completion
from tests.support.providers import FILTERS, NO_SYSTEM, PROVIDERS, READ, judge

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
    assert first.tokens_in == (0 if "usage" in name or "choice" in name or "text" in name else 9)


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
    texts = [f"forbidden {i}" for i in range(30)] + ["fine"]
    with FakeLLM(judge=judge(name)) as server:
        replies = ask(server, store, texts)
    assert [reply.error for reply in replies] == ["refused"] * 30 + [""]
    assert all(reply.message for reply in replies[:30])
    assert len(server.seen) == 31, "a filter's verdict is not asked for twice"


def test_a_wrong_request_is_no_filters_verdict(store):
    wrong = Answer(json.dumps({"error": {"message": "context length exceeded"}}), 400)
    with FakeLLM([wrong]) as server:
        assert ask(server, store)[0].error == "provider"

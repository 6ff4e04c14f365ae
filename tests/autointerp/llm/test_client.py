"""Every fault is served by a real server to the real client."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from email.utils import formatdate

import pytest

from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.refusals import refused_parameter
from autointerp.llm.replies import ReplyStore, Request, public_url, read_reply
from autointerp.llm.waits import retry_after
from core.errors import ProviderError, UsageError
from core.files import canonical_hash
from tests.support.fake_llm import Answer, FakeLLM, completion, failure

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def store(tmp_path):
    with ReplyStore(tmp_path / "llm" / "replies.sqlite") as opened:
        yield opened


def questions(endpoint, n=1, **parameters):
    return [
        endpoint.request("m", [{"role": "user", "content": f"question {i}"}], **parameters)
        for i in range(n)
    ]


def ask(endpoint, store, n=1, parameters=None, **limits):
    """The replies to n questions, asked one at a time with short waits."""
    limits = {"concurrency": 1, "backoff": 0.01, "timeout": 5.0, **limits}
    return list(
        answer(questions(endpoint, n, **(parameters or {})), store, endpoint, **limits).values()
    )


def ask_one(script, store, **limits):
    """(reply, the server) after the script was served to one question."""
    with FakeLLM(script) as server:
        return ask(Endpoint(server.url, KEY), store, **limits)[0], server


# --- replies and their store ---


def test_a_reply_carries_text_tokens_and_raw(store):
    reply, server = ask_one([completion("a label")], store)
    assert (reply.text, reply.finish_reason, reply.tokens_in, reply.tokens_out, reply.error) == (
        "a label",
        "stop",
        7,
        3,
        "",
    )
    assert json.loads(reply.raw)["choices"][0]["message"]["content"] == "a label"
    assert server.seen[0].path == "/v1/chat/completions"
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_same_request_is_asked_once(tmp_path):
    with FakeLLM() as server:
        endpoint = Endpoint(server.url)
        for _ in range(2):  # opened anew, as after a crash
            with ReplyStore(tmp_path / "replies.sqlite") as store:
                asked = questions(endpoint, 3)
                replies = answer(asked + asked, store, endpoint)
                assert list(replies) == [request.key for request in asked]
                assert {reply.text for reply in replies.values()} == {"ok"}
        assert len(server.seen) == 3


def test_another_repetition_or_parameter_is_another_request():
    endpoint = Endpoint("http://localhost:1/v1")
    first = endpoint.request("m", [{"role": "user", "content": "x"}], temperature=0)
    assert first.key == endpoint.request("m", [{"role": "user", "content": "x"}], temperature=0).key
    others = [
        Request(first.endpoint, "m", first.messages, first.parameters, 1),
        Request(first.endpoint, "m", first.messages, {"temperature": 1}),
    ]
    assert len({first.key, *(other.key for other in others)}) == 3


def test_the_store_keeps_the_question_and_the_first_reply(tmp_path):
    request = Request("http://localhost/v1", "m", [{"role": "user", "content": "é"}])
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        store.put(request, "first")
        store.put(request, "second")
        assert store.get(request.key) == "first"
        assert store.get("other") is None
    rows = (
        sqlite3.connect(tmp_path / "replies.sqlite")
        .execute("SELECT key, request FROM replies")
        .fetchall()
    )
    assert [(key, canonical_hash(json.loads(question))) for key, question in rows] == [
        (request.key, request.key)
    ]


def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes " * 100)
    with pytest.raises(UsageError, match="cannot be used as a store"):
        ReplyStore(path)
    assert path.read_text() == "these are my notes " * 100


def test_a_request_for_another_endpoint_is_a_bug(store):
    with pytest.raises(ValueError, match="was passed to"):
        answer(questions(Endpoint("http://one/v1")), store, Endpoint("http://two/v1"))


# --- replies without text: paid for, stored, never a label ---


@pytest.mark.parametrize(
    ("served", "kind"),
    [
        (completion(None), "provider"),
        (completion("  \n"), "provider"),
        (completion(None, "length"), "truncated"),
        (completion(None, "content_filter"), "refused"),
        (completion(None, refusal="I cannot help with that."), "refused"),
    ],
)
def test_no_text_is_a_failure_that_is_paid_for_once(served, kind, store):
    reply, server = ask_one([served], store)
    assert (reply.text, reply.error, reply.tokens_out) == (None, kind, 3)
    assert reply.message
    assert len(server.seen) == 1 and store.get(reply.key) == reply.raw


def test_a_cut_off_text_is_kept_for_the_parser(store):
    reply, _ = ask_one([completion('{"label": "da', "length")], store)
    assert (reply.text, reply.finish_reason, reply.error) == ('{"label": "da', "length", "")


def test_content_in_parts_is_joined():
    raw = {
        "choices": [
            {
                "message": {
                    "content": [
                        {"type": "thinking"},
                        {"type": "text", "text": "a"},
                        {"type": "text", "text": "b"},
                    ]
                }
            }
        ]
    }
    assert read_reply("k", json.dumps(raw)).text == "ab"


# --- faults of one attempt ---


def test_retry_after_is_respected_by_every_worker(store):
    later = Answer(
        completion("ok").body, delay=0.05
    )  # its worker is free again when all should wait
    with FakeLLM(
        [failure(429, "slow down", {"Retry-After": "0.2"})],
        judge=lambda seen: later if "question 1" in str(seen.body) else None,
    ) as server:
        replies = ask(Endpoint(server.url), store, n=4, concurrency=2, backoff=30.0)
    assert [reply.text for reply in replies] == ["ok"] * 4
    first, *others = [seen.at for seen in server.seen if "question 1" not in str(seen.body)]
    assert len(others) == 3 and min(others) - first >= 0.2


def test_three_errors_then_a_reply(store):
    reply, server = ask_one([failure(500, "down")] * 3, store, retries=3)
    assert reply.text == "ok" and len(server.seen) == 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (failure(500, "down"), "HTTP 500: down"),
        (failure(429, "slow"), "HTTP 429: slow"),
        (
            Answer("<html>\n<h1>Bad gateway</h1>", 502, {"Content-Type": "text/html"}),
            "HTTP 502: Bad gateway",
        ),
        (
            Answer("<html>login</html>", 200, {"Content-Type": "text/html"}),
            "not a whole chat completion",
        ),
        (Answer('{"choices": [{"mess'), "not a whole chat completion"),
        (Answer('{"error": {"message": "overloaded"}}'), "overloaded"),
        (Answer('{"choices": [{"message": {"content": "half', claims=500), "Connection error"),
    ],
)
def test_a_fault_that_stays_is_a_failure_and_is_not_stored(fault, message, store):
    reply, server = ask_one([fault] * 2, store, retries=1)
    assert (reply.text, reply.error, reply.raw) == (None, "provider", "")
    assert message in reply.message and "\n" not in reply.message
    assert len(server.seen) == 2 and store.get(reply.key) is None


def test_a_slow_reply_is_given_up_and_asked_again(store):
    slow = Answer(completion("late").body, delay=1.0)
    reply, server = ask_one([slow], store, timeout=0.2, retries=1)
    assert reply.text == "ok" and len(server.seen) == 2
    late, _ = ask_one([slow], store, timeout=0.2, retries=0, n=1, parameters={"seed": 1})
    assert late.error == "provider" and (
        "no reply within 0.2 s" in late.message or "timed out" in late.message
    )


def test_a_reply_that_drips_is_given_up(store):
    reply, _ = ask_one([Answer(completion("slow").body, drip=0.05)], store, timeout=0.3, retries=0)
    assert (reply.error, reply.message) == ("provider", "no reply within 0.3 s (attempt 1)")


@pytest.mark.parametrize(
    "fault", [failure(400, "context too long"), failure(503, "come back", {"Retry-After": "86400"})]
)
def test_what_another_attempt_cannot_mend_is_asked_once(fault, store):
    reply, server = ask_one([fault], store)
    assert reply.error == "provider" and len(server.seen) == 1


def test_one_failure_leaves_the_other_replies(store):
    judge = lambda seen: failure(400, "no") if "question 1" in str(seen.body) else None
    with FakeLLM(judge=judge) as server:
        replies = ask(Endpoint(server.url), store, n=3, concurrency=3)
    assert [reply.error for reply in replies] == ["", "provider", ""]


def test_retry_after_forms():
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}, 0.0) == 0.25
    assert retry_after({"retry-after": "1.5"}, 0.0) == 1.5
    assert retry_after({"retry-after": formatdate(1000, usegmt=True)}, 990.0) == 10.0
    assert retry_after({"retry-after": formatdate(1000, usegmt=True)}, 2000.0) == 0.0
    assert retry_after({"retry-after": "soon"}, 0.0) is None
    assert retry_after({}, 0.0) is None


NOW = 1_795_910_400.0  # 29 November 2026, 00:00 UTC


@pytest.mark.parametrize(
    ("headers", "said", "seconds"),
    [
        ({"Retry-After": "30s"}, "", 30),
        ({"retry-after": "1m30s"}, "", 90),
        ({"retry-after": "2026-11-29T00:00:10Z"}, "", 10),
        ({"retry-after": "2026-11-29T01:00:10+01:00"}, "", 10),
        ({"retry-after": "Sun, 29 Nov 2026 00:00:10"}, "", 10),
        ({"retry-after": "1795910410"}, "", 10),
        ({"retry-after": "nan"}, "try again in 3s", 3),
        ({"retry-after": "-5"}, "", 0),
        ({"retry-after": "2", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"}, "", 2),
        (
            {
                "x-ratelimit-remaining-requests": "10",
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            "",
            7.66,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-29T00:00:10Z",
            },
            "",
            10,
        ),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795910410000"}, "", 10),
        ({"RateLimit": '"minute";r=0;t=30, "day";r=50;t=3000'}, "", 30),
        ({"ratelimit": "limit=100, remaining=0, reset=50"}, "", 50),
        ({"x-ratelimit-limit-requests": "100"}, "", None),
        ({}, "Rate limit reached. Please try again in 7.66s. Visit", 7.66),
        ({}, "Please retry after 26 seconds.", 26),
        ({}, "Please try again in 1m30s.", 90),
        ({}, '[{"error": {"details": [{"retryDelay": "43s"}]}}]', 43),
        ({}, "Please try again in 6ms", 0.006),
        ({}, "retry in 2 minutes and 5 seconds", 125),
        ({}, "try again later", None),
    ],
)
def test_every_form_in_which_servers_ask_to_wait(headers, said, seconds):
    assert retry_after(headers, NOW, said) == pytest.approx(seconds)


# --- faults that end the work ---


def test_nobody_listens(store):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(ProviderError, match="Nothing answers at") as raised:
        ask(Endpoint(url), store)
    assert url in raised.value.message and "--llm-url" in raised.value.next_step
    assert str(raised.value).count("\n") == 1


def test_a_server_that_goes_away_later_is_a_failure_of_one_request(store):
    with FakeLLM([Answer(completion("ok").body, headers={"Connection": "close"})]) as server:
        first_only = lambda reply: None if reply.error else server.stop()
        assert [
            reply.error
            for reply in ask(Endpoint(server.url), store, n=2, retries=1, on_progress=first_only)
        ] == ["", "provider"]


@pytest.mark.parametrize(
    ("fault", "message", "step"),
    [
        (failure(401, "Incorrect API key"), "refused the key", "OPENAI_API_KEY"),
        (failure(403, "not for you"), "refused the key", "OPENAI_API_KEY"),
        (failure(402, "pay"), "no credit", "credit"),
        (failure(429, "quota", code="insufficient_quota"), "no credit", "credit"),
        (failure(404, "The model `m` does not exist"), "cannot serve model 'm'", "--llm-model"),
    ],
)
def test_what_no_request_would_survive_ends_the_work(fault, message, step, store):
    with FakeLLM([fault]) as server, pytest.raises(ProviderError, match=message) as raised:
        ask(Endpoint(server.url), store, n=5)
    assert len(server.seen) == 1 and raised.value.code == 4
    assert step in raised.value.next_step and str(raised.value).count("\n") == 1


def test_a_403_after_replies_concerns_one_text(store):
    with FakeLLM([completion("ok"), failure(403, "flagged")]) as server:
        assert [reply.error for reply in ask(Endpoint(server.url), store, n=3)] == [
            "",
            "refused",
            "",
        ]


def test_failures_in_a_row_end_the_work_and_keep_what_came(store):
    script = [completion("kept")] + [failure(500, "down")] * 9
    with (
        FakeLLM(script) as server,
        pytest.raises(ProviderError, match="3 requests in a row.*HTTP 500: down"),
    ):
        ask(Endpoint(server.url), store, n=9, retries=0, max_failures=3)
    assert len(server.seen) == 4
    assert store.get(questions(Endpoint(server.url))[0].key)


def test_failures_between_replies_do_not_end_it(store):
    script = [failure(500, "down"), completion("ok")] * 4
    with FakeLLM(script) as server:
        replies = ask(Endpoint(server.url), store, n=8, retries=0, max_failures=2)
    assert [reply.error for reply in replies] == ["provider", ""] * 4


# --- interrupts ---


def test_an_interrupt_keeps_every_reply_received(store):
    arrived = []

    def stop_after_four(reply):
        arrived.append(reply.key)
        if len(arrived) == 4:
            raise KeyboardInterrupt

    with FakeLLM() as server:
        endpoint = Endpoint(server.url)
        with pytest.raises(KeyboardInterrupt):
            ask(endpoint, store, n=10, on_progress=stop_after_four)
        assert all(store.get(key) for key in arrived) and len(server.seen) == 4
        again = []
        assert len(ask(endpoint, store, n=10, on_progress=again.append)) == 10
        assert len(server.seen) == 10
        assert [reply.key for reply in again[:4]] == arrived


def test_ctrl_c_while_waiting_for_the_server(store):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of the tests ignore it

    def judge(seen):
        if "question 2" not in str(seen.body):
            return None
        os.kill(os.getpid(), signal.SIGINT)
        return Answer(completion("late").body, delay=5.0)

    with FakeLLM(judge=judge) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(Endpoint(server.url), store, n=4)
        assert [
            store.get(request.key) is not None for request in questions(Endpoint(server.url), 4)
        ] == [True, True, False, False]


def test_concurrency_is_bounded_and_used(store):
    with FakeLLM(judge=lambda seen: Answer(completion("ok").body, delay=0.05)) as server:
        ask(Endpoint(server.url), store, n=6, concurrency=3)
    assert server.most_open == 3


# --- what models refuse ---


def gpt5(seen):
    """Refuses as OpenAI's reasoning models do."""
    if "max_tokens" in seen.body:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return failure(400, message, param="max_tokens", code="unsupported_parameter")
    if "temperature" in seen.body:
        return failure(
            400,
            "Unsupported value: 'temperature' does not support 0 with this model.",
            param="temperature",
            code="unsupported_value",
        )
    return None


def test_refused_parameters_are_learnt_once(store):
    parameters = {"temperature": 0, "max_tokens": 50, "response_format": {"type": "json_object"}}
    with FakeLLM(judge=gpt5) as server:
        endpoint = Endpoint(server.url)
        assert [
            reply.text for reply in ask(endpoint, store, n=3, parameters=parameters, retries=0)
        ] == ["ok"] * 3
        assert len(server.seen) == 5
        assert {
            k: v
            for k, v in server.seen[-1].body.items()
            if k in (*parameters, "max_completion_tokens")
        } == {
            "max_completion_tokens": 50,
            "response_format": {"type": "json_object"},
        }
        assert (
            len(ask(endpoint, store, n=3, parameters=parameters)) == 3 and len(server.seen) == 5
        )  # the key is that of the question


def test_workers_that_learn_at_once_all_go_on(store):
    with FakeLLM(judge=gpt5) as server:
        replies = ask(
            Endpoint(server.url),
            store,
            n=6,
            parameters={"temperature": 0, "max_tokens": 5},
            concurrency=6,
            retries=0,
        )
    assert [reply.text for reply in replies] == ["ok"] * 6


def test_which_parameter_an_error_complains_of():
    sent = {"max_tokens": 5, "temperature": 0, "response_format": {}}
    assert (
        refused_parameter(sent, "", "'response_format.type' must be 'json_schema' or 'text'")
        == "response_format"
    )
    assert (
        refused_parameter({"max_tokens": 5}, "", "'temperature' is deprecated for this model") == ""
    )
    assert refused_parameter(sent, "messages", "content is about temperature") == ""
    too_long = "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048 tokens"
    assert refused_parameter(sent, "", too_long) == ""


# --- credentials ---


def test_no_credential_is_written_or_shown(tmp_path, capfd):
    echo = lambda seen: (
        failure(400, f"you sent {seen.headers} to {seen.path}")
        if seen.body.get("seed")
        else completion(f"your key is {KEY}")
    )
    with FakeLLM(judge=echo) as server, ReplyStore(tmp_path / "replies.sqlite") as store:
        endpoint = Endpoint(server.url + "?api-version=7&api_key=hidden-in-query", KEY)
        said = ask(endpoint, store)[0]
        refused = ask(endpoint, store, parameters={"seed": 1})[0]
        assert server.seen[0].path == "/v1/chat/completions?api-version=7&api_key=hidden-in-query"
    assert said.text == "your key is ***" and "***" in refused.message
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    shown = "".join(capfd.readouterr()) + repr(endpoint) + repr(said) + repr(refused)
    for secret in (KEY, "hidden-in-query"):
        assert secret.encode() not in written and secret not in shown


def test_a_password_in_the_url_is_used_and_hidden(store):
    with FakeLLM([failure(401, "no entry for ann:correct%20horse, correct horse")]) as server:
        endpoint = Endpoint(server.url.replace("//", "//ann:correct%20horse@"))
        with pytest.raises(ProviderError) as raised:
            ask(endpoint, store)
        assert server.seen[0].headers["authorization"] == "Basic YW5uOmNvcnJlY3QgaG9yc2U="
    assert "horse" not in str(raised.value) and endpoint.url == server.url


def test_public_url():
    assert (
        public_url("https://ann:pw@Example.com:8443/v1/?key=k#f") == "https://example.com:8443/v1"
    )
    assert Request("http://ann:pw@h/v1", "m", []).endpoint == "http://h/v1"


def test_openai_needs_a_key_and_a_local_server_does_not(store):
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        ask(Endpoint(), store)
    with FakeLLM() as server:
        assert ask(Endpoint(server.url), store)[0].text == "ok"
        assert server.seen[0].headers["authorization"] == "Bearer none"


def test_settings_come_from_the_environment(store, monkeypatch):
    with FakeLLM() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
        assert ask(Endpoint(), store)[0].text == "ok"
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080/v1",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "ann:password@host/v1?key=k",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_credentials(url):
    with pytest.raises(UsageError, match="is not a web address") as raised:
        Endpoint(url)
    assert "password" not in str(raised.value) and "key=k" not in str(raised.value)


def test_a_key_that_no_header_can_hold_is_refused():
    with pytest.raises(UsageError) as raised:
        Endpoint("http://host/v1", "sk-“quoted”")
    assert "quoted" not in str(raised.value)


# --- models ---


def test_the_only_model_is_taken():
    with FakeLLM(models=("llama",)) as server:
        assert Endpoint(server.url).choose_model() == "llama"
        assert Endpoint(server.url).choose_model("named") == "named"


@pytest.mark.parametrize("models", [("a", "b"), ()])
def test_several_models_or_none_ask_for_a_name(models):
    with (
        FakeLLM(models=models) as server,
        pytest.raises(UsageError, match="none was named") as raised,
    ):
        Endpoint(server.url).choose_model()
    assert "--llm-model" in raised.value.next_step and all(
        name in raised.value.next_step for name in models
    )


def test_importing_the_client_does_not_import_openai():
    code = (
        "import sys, autointerp.llm.session, autointerp.labels.prompt\n"
        "heavy = [name for name in ('openai', 'aiohttp', 'torch') if name in sys.modules]\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

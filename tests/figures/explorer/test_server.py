"""The live server answers this machine's page and nobody else, within its limits."""

import json
import socket
import threading
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from autointerp.features import Features
from autointerp.labels.notes import read_notes
from core.errors import UsageError
from core.run import Run
from figures.explorer.asking import Limits
from figures.explorer.live import LiveCalls
from figures.explorer.server import MOST_MADE, Server, serve

HOST = "127.0.0.1:8765"
JSON = {"content-type": "application/json"}
CLAMP = {
    "clamps": [{"feature": 3, "mode": "set", "value": 2, "relative": True}],
    "prompt": "the cat",
    "tokens": 4,
    "samples": 1,
}


class Subject:
    """Stands for the live subject: remembers what it was asked, and how many asked at once."""

    def __init__(self):
        self.asked, self.inside, self.most, self.hold = [], 0, 0, 0.0
        self.lock = threading.Lock()

    def read(self, text):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.hold)
        with self.lock:
            self.inside -= 1
        self.asked.append(text)
        firings = [(0, 3, 1.0), (1, 5, 0.5)] if "cat" in text else [(0, 5, 1.0)]
        return {"tokens": text.split(), "firings": firings}

    def clamp(self, clamps, maxima, prompt, *asked):
        self.asked.append((clamps, maxima, prompt, *asked))
        if prompt == "slow":
            raise UsageError("It took longer than 60 seconds.", "Ask for fewer tokens or samples.")
        return {"clamps": [str(c) for c in clamps], "baseline": ["a"], "clamped": ["b"]}

    def as_chat(self, text, answer):
        return f"<user>{text}</user>" + ("<assistant>" if answer else "")

    def keep(self, record):
        self.asked.append(record)
        return 7


@pytest.fixture
def subject():
    return Subject()


@pytest.fixture
def client(job_copy, subject):
    known = Features(Run.open(str(job_copy)))
    calls = LiveCalls(subject.read, subject.clamp, subject.as_chat, subject.keep)
    server = Server(
        [known, known], [calls, LiveCalls(subject.read, subject.clamp)], Limits(seconds=5.0)
    )
    with TestClient(server.application(), base_url=f"http://{HOST}") as made:
        made.folder = job_copy
        yield made


def test_the_page_and_its_shards_are_served_with_a_policy(client):
    for path in ("/", "/main.js", "/style.css", "/data/start.js", "/data/f-00000.js"):
        reply = client.get(path)
        assert reply.status_code == 200 and reply.content
        policy = reply.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy
            and "unsafe" not in policy
            and reply.headers["x-content-type-options"] == "nosniff"
        )
    assert client.get("/data/f-99999.js").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../main.py",
        "/%2e%2e/server.py",
        "/..%2fserver.py",
        "/server.py",
        "/data/..%2f..%2fserver.js",
        "/data/notes.js",
        "/run.json",
    ],
)
def test_nothing_else_of_the_disk_is_served(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(("host", "status"), [(HOST, 200), ("localhost:8765", 200), ("[::1]:8765", 200), ("LOCALHOST", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("192.168.0.7:8765", 403), ("", 403), ("localhost@evil.example", 403)])  # fmt: skip
def test_only_loopback_names_are_answered(client, host, status):
    assert client.get("/", headers={"host": host}).status_code == status
    assert client.get("/data/start.js", headers={"host": host}).status_code == status
    assert (
        client.post(
            "/api/note", json={"feature": 1, "text": "x"}, headers={"host": host}
        ).status_code
        == status
    )


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 200), ({"origin": f"http://{HOST}"}, 200), ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "http://127.0.0.1:9"}, 403),
    ({"origin": f"https://{HOST}"}, 403), ({"content-type": "text/plain"}, 415), ({"content-type": "application/x-www-form-urlencoded"}, 415),
])  # fmt: skip
def test_a_note_is_taken_from_this_page_alone(client, headers, status):
    reply = client.post(
        "/api/note", content=json.dumps({"feature": 1, "text": "weekdays"}), headers=JSON | headers
    )
    assert reply.status_code == status and "access-control-allow-origin" not in reply.headers
    assert [n["text"] for n in read_notes(client.folder)] == (["weekdays"] if status == 200 else [])


def test_a_preflight_is_not_allowed_and_a_get_writes_nothing(client):
    assert (
        client.options(
            "/api/note",
            headers={"origin": "http://evil.example", "access-control-request-method": "POST"},
        ).status_code
        == 405
    )
    assert (
        client.get("/api/note?feature=1&text=x").status_code in (404, 405)
        and read_notes(client.folder) == []
    )


@pytest.mark.parametrize(("path", "body", "status", "said"), [
    ("text", {"text": ""}, 400, "text is missing"), ("text", {"text": 3}, 400, "missing"), ("text", {"text": "x" * 8001}, 413, "at most 8,000"),
    ("text", ["x"], 400, "not a JSON object"), ("note", {"feature": 10**6, "text": "x"}, 400, "whole number"), ("note", {"feature": "1", "text": "x"}, 400, "whole number"),
    ("note", {"feature": True, "text": "x"}, 400, "whole number"), ("note", {"feature": 1, "text": "y" * 501}, 413, "at most 500"), ("clamp", CLAMP | {"tokens": 129}, 400, "tokens"),
    ("clamp", CLAMP | {"samples": 0}, 400, "samples"), ("clamp", CLAMP | {"clamps": []}, 400, "1 to 8 clamps"), ("clamp", CLAMP | {"temperature": "hot"}, 400, "temperature"),
    ("clamp", CLAMP | {"positions": "here"}, 400, "Positions"), ("clamp", CLAMP | {"clamps": [{"feature": 3, "mode": "twist"}]}, 400, "A clamp is"),
    ("clamp", CLAMP | {"clamps": [{"feature": 3, "mode": "set", "value": 1e9}]}, 400, "below a million"), ("clamp", CLAMP | {"clamps": [{"feature": 99999, "mode": "set", "value": 1}]}, 400, "no feature 99999"),
    ("clamp", CLAMP | {"prompt": "slow"}, 400, "longer than 60 seconds"), ("clamp", CLAMP | {"run": 2}, 400, "run is a whole number"),
    ("here", {"ordinal": 10**9}, 400, "ordinal"), ("context", {"ordinal": 3, "feature": 3, "around": 10**6}, 400, "around"), ("pair", {"a": 3}, 400, "b is a whole number"),
])  # fmt: skip
def test_what_cannot_be_answered_says_why(client, subject, path, body, status, said):
    reply = client.post(f"/api/{path}", json=body)
    assert reply.status_code == status and said in reply.json()["error"]


def test_broken_and_oversized_bodies_are_refused(client, subject):
    for content, status in (
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b'{"text": "' + b"x" * 70_000 + b'"}', 413),
        (b'{"text": NaN}', 400),
    ):
        assert client.post("/api/text", content=content, headers=JSON).status_code == status
    assert subject.asked == []


def test_a_text_lists_what_fires_and_leaves_out_what_fires_on_the_other(client):
    reply = client.post("/api/text", json={"text": "cat sat"}).json()
    assert reply["tokens"] == ["cat", "sat"] and {r["feature"] for r in reply["features"]} == {3, 5}
    shares = [r["share"] for r in reply["features"]]
    assert shares == sorted(shares, reverse=True) and {"label", "max", "activations"} <= set(
        reply["features"][0]
    )
    against = client.post("/api/text", json={"text": "cat sat", "against": "dog"}).json()
    assert [r["feature"] for r in against["features"]] == [3]


def test_half_a_surrogate_pair_does_not_reach_the_tokenizer(client, subject):
    assert client.post(
        "/api/text", content=b'{"text": "cat \\ud800"}', headers=JSON
    ).status_code == 200 and subject.asked == ["cat ?"]


def test_a_clamp_reaches_the_subject_as_it_was_asked(client, subject):
    reply = client.post("/api/clamp", json=CLAMP | {"positions": "generated", "temperature": 0})
    clamps, maxima, *rest = subject.asked[0]
    assert str(clamps[0]) == "set 3=2x" and maxima[3] == pytest.approx(
        Features(Run.open(str(client.folder))).evidence.stats(3).max
    )
    assert rest == ["the cat", 4, 1, 0.0, "generated", 0, 5.0] and set(reply.json()["labels"]) == {
        "3"
    }
    assert not (client.folder / "clamps").exists()  # kept only when the person asks for it


def test_a_clamp_is_kept_when_it_is_asked_for(client, subject):
    made = client.post("/api/clamp", json=CLAMP).json()["made"]
    assert client.post("/api/keep", json={"made": made}).json() == {"number": 7}
    assert subject.asked[-1]["clamps"] == ["set 3=2x"] and "labels" in subject.asked[-1]
    assert client.post("/api/keep", json={"made": made + 1}).status_code == 404
    other = client.post("/api/clamp", json=CLAMP | {"run": 1}).json()["made"]
    assert client.post("/api/keep", json={"made": other}).status_code == 400
    for _ in range(MOST_MADE):
        client.post("/api/clamp", json=CLAMP)
    assert client.post("/api/keep", json={"made": made}).status_code == 404


def test_a_chat_goes_through_the_template_and_a_subject_without_one_says_so(client, subject):
    reply = client.post("/api/clamp", json=CLAMP | {"chat": True}).json()
    assert reply["message"] == "the cat"  # what the page shows instead of the template
    assert client.post("/api/keep", json={"made": reply["made"]}).status_code == 200
    assert "message" not in subject.asked.pop()  # no part of an experiment
    assert subject.asked[-1][2] == "<user>the cat</user><assistant>"
    client.post("/api/text", json={"text": "cat", "chat": True, "against": " "})
    assert subject.asked[-1] == "<user>cat</user><assistant>"
    reply = client.post("/api/clamp", json=CLAMP | {"chat": True, "run": 1})
    assert reply.status_code == 400 and "chat template" in reply.json()["error"]


def test_what_fires_on_a_token_is_what_the_index_says(client):
    known = Features(Run.open(str(client.folder)))
    where, values = known.postings.firings(3)
    reply = client.post("/api/here", json={"ordinal": int(where[0])}).json()
    assert reply["token"] == known.tokens.spell(int(where[0]), int(where[0]) + 1)[0]
    shares = {row["feature"]: row["share"] for row in reply["features"]}
    assert shares[3] == pytest.approx(float(values[0] / values.max()))
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    firing = [
        f for f in range(known.postings.n_features) if where[0] in known.postings.firings(f)[0]
    ]
    assert sorted(shares) == firing


def test_more_context_ends_where_the_document_ends(client):
    known = Features(Run.open(str(client.folder)))
    where, values = known.postings.firings(3)
    asked = {"ordinal": int(where[0]), "feature": 3, "around": 200}
    reply = client.post("/api/context", json=asked).json()
    document, position = known.tokens.locate(int(where[0]))
    offsets = known.tokens.document_offsets
    size = int(offsets[document + 1] - offsets[document])
    start = max(0, position - 200)
    assert len(reply["tokens"]) == len(reply["activations"]) == min(size, position + 201) - start
    assert reply["activations"][reply["peak"]] == pytest.approx(float(values[0]))
    assert reply["whole"] == (len(reply["tokens"]) == size)


def test_a_pair_is_that_of_the_command_line(client):
    known = Features(Run.open(str(client.folder)))
    reply = client.post("/api/pair", json={"a": 3, "b": 5}).json()
    assert reply["n_ab"] == known.pair(3, 5)["n_ab"]
    assert reply["cosine"] == pytest.approx(known.pair(3, 5)["cosine"], rel=1e-3)


def test_the_subject_is_used_by_one_request_at_a_time(client, subject):
    subject.hold = 0.05
    threads = [
        threading.Thread(target=lambda: client.post("/api/text", json={"text": "cat"}))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert subject.most == 1 and len(subject.asked) == 5


def test_who_waits_too_long_is_told(job, subject):
    server = Server(
        Features(Run.open(str(job))), LiveCalls(subject.read, subject.clamp), Limits(seconds=0.1)
    )
    subject.hold = 0.6
    with TestClient(server.application(), base_url=f"http://{HOST}") as client:
        first = threading.Thread(target=lambda: client.post("/api/text", json={"text": "cat"}))
        first.start()
        time.sleep(0.2)
        reply = client.post("/api/text", json={"text": "dog"})
        first.join()
    assert (
        reply.status_code == 503
        and "busy" in reply.json()["error"]
        and np.all([t == "cat" for t in subject.asked])
    )


def test_a_port_that_is_taken_is_told(job, subject):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} cannot be used"):
            serve(
                Server(Features(Run.open(str(job))), LiveCalls(subject.read, subject.clamp)),
                port,
                print,
            )


def test_the_calls_of_a_study_reach_its_model_and_give_plain_values():
    from types import SimpleNamespace

    from core.clamps.experiments import Experiment
    from core.clamps.live import Reading
    from core.records import Clamp
    from figures.explorer.live import live_calls

    class Model:
        has_chat_template = False

        def read(self, text):
            return Reading([text], [(0, 3, 1.5)])

        def clamp(self, clamps, maxima, sampling, places, seconds):
            self.asked = clamps, maxima, sampling, places, seconds
            return Experiment(("set 3=2x",), (3,), tuple(sampling.prompts), ("a",), ("b",))

        def next_tokens(self, clamps, maxima, sampling, places, n):
            return ({"prompt": sampling.prompts[0], "tokens": [], "written": [], "n": n},)

    model = Model()
    calls = live_calls(SimpleNamespace(model=model))
    assert calls.read("cat") == {"tokens": ["cat"], "firings": [(0, 3, 1.5)]}
    clamp = Clamp(3, "set", 2.0, relative=True)
    record = calls.clamp([clamp], {3: 1.0}, "the cat", 4, 2, 0.5, "generated", 0, 9.0)
    assert "next_tokens" not in record
    assert record["prompts"] == ["the cat"]
    assert record["clamped"] == ["b"]
    clamps, maxima, sampling, places, seconds = model.asked
    assert (clamps, maxima, seconds) == ([clamp], {3: 1.0}, 9.0)
    assert (sampling.tokens, sampling.temperature, sampling.seeds) == (4, 0.5, (0, 1))
    assert places.positions == "generated"
    record = calls.clamp([clamp], {3: 1.0}, "the cat", 4, 2, 0.5, "generated", 7, 9.0)
    assert record["next_tokens"][0]["n"] == 7

"""Several endpoints of one model: the shortest queue, an endpoint that dies and comes back, a slow
one, costs and limits of each.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from autointerp.llm.budget import Meter, Pace, Prices
from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.fleet import Fleet, Server, open_fleet, urls_of
from autointerp.llm.remembered import complete_settings, read_config, recall
from autointerp.llm.replies import ReplyStore
from autointerp.settings import LLMSettings
from core.errors import ProviderError, UsageError
from core.run import Run
from core.settings import RunSettings

ROOT = Path(__file__).parents[3]
QUESTIONS = 120


class Scripted:
    """The fault server in a process of its own, on one port, with a latency in seconds."""

    def __init__(self, latency: float, faults: float = 0.0):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.flags = ["--latency", str(latency), "--faults", str(faults)]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self):
        command = [sys.executable, "-m", "tests.support.fault_server", str(self.port), *self.flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def wait(self):
        for _ in range(600):
            with contextlib.suppress(OSError):
                return self.stats()
            time.sleep(0.05)
        raise TimeoutError

    def stats(self):
        url = f"http://127.0.0.1:{self.port}/stats"
        return json.load(urllib.request.urlopen(url, timeout=5))

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def servers():
    made = [Scripted(0.02), Scripted(0.4), Scripted(0.02)]
    try:
        for server in made:
            server.wait()
        yield made
    finally:
        for server in made:
            server.kill()


def ask(store, fleet, n=QUESTIONS, **more):
    endpoint = fleet.first
    requests = [
        endpoint.request("m", [{"role": "user", "content": f"question {i}"}]) for i in range(n)
    ]
    replies = answer(requests, store, endpoint, fleet=fleet, backoff=0.01, **more)
    assert list(replies) == [request.key for request in requests]
    return list(replies.values())


@pytest.mark.slow
def test_of_three_endpoints_one_is_slow_and_one_is_killed_and_comes_back(servers, tmp_path):
    fast, slow, dying = servers
    prices = Prices(1.0, 2.0)
    each = [Server(Endpoint(s.url), Pace(), Meter(prices)) for s in servers]
    fleet = Fleet(each, most=4, rest=0.3)
    seen = []

    def on_progress(reply):
        seen.append(reply)
        if len(seen) == 30:
            threading.Thread(target=dying.kill).start()

    with ReplyStore(tmp_path / "replies.sqlite") as store:
        replies = ask(store, fleet, on_progress=on_progress)
        assert {reply.error for reply in replies} == {""}
        counts = [summary["replies"] for summary in fleet.summary()]
        assert sum(counts) == QUESTIONS and min(counts) > 0
        assert counts[0] > 4 * counts[1], "the slow one gets few"
        assert each[2].failed_in_row > 0 and fleet.summary()[2]["failed_attempts"] > 0
        paid = [sum(server.stats()["paid"].values()) for server in (fast, slow)]
        assert counts[:2] == paid, "a request is paid at one endpoint"
        assert all(summary["cost"] > 0 for summary in fleet.summary())

        dying.start()
        dying.wait()
        fleet.servers[2].resume_at = 0.0
        ask(store, fleet, QUESTIONS + 60)
        assert sum(dying.stats()["paid"].values()) > 5, "it is asked again"
        assert each[2].failed_in_row == 0
        before = [sum(server.stats()["attempts"].values()) for server in servers]
        one = Fleet([Server(Endpoint(fast.url))])
        ask(store, one, QUESTIONS + 60)
        assert [sum(server.stats()["attempts"].values()) for server in servers] == before, (
            "what any of them answered is kept under the first one's URL"
        )
        for server in servers:
            server.kill()
        dead = Fleet([Server(Endpoint(s.url)) for s in servers], rest=0.05)
        with pytest.raises(ProviderError, match="Nothing answers at"):
            answer(
                [dead.first.request("m", [{"role": "user", "content": "new"}])],
                store, dead.first, fleet=dead,
            )  # fmt: skip


# ---------------------------------------------------------------- without a server


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def fleet_of(n, **more):
    clock = Clock()
    made = [Server(Endpoint(f"http://h{i}/v1")) for i in range(n)]
    return Fleet(made, clock=clock, **more), clock


def take(fleet):
    return asyncio.run(asyncio.wait_for(fleet.take(), 0.2))


def test_requests_go_where_the_queue_is_shortest():
    fleet, _ = fleet_of(3, most=2)
    taken = [take(fleet) for _ in range(6)]
    assert [server.in_flight for server in fleet.servers] == [2, 2, 2]
    with pytest.raises(TimeoutError):
        take(fleet)
    fleet.release(taken[4])
    assert take(fleet) is taken[4]


def test_an_endpoint_that_fails_rests_longer_each_time_and_then_one_request_asks():
    fleet, clock = fleet_of(2, most=4, rest=5.0)
    first, second = fleet.servers
    for pause in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        assert fleet.leave_out(first, TimeoutError("gone"))
        assert fleet.leave_out(first, TimeoutError("gone")), "more failures of the same outage"
        assert first.resume_at == clock.now + pause
        assert [take(fleet) for _ in range(2)] == [second, second]
        second.in_flight = 0
        clock.now += pause
        second.in_flight = 3
        assert take(fleet) is first
        assert take(fleet) is second, "one request asks whether it is back"
        first.in_flight = second.in_flight = 0
    first.failed_in_row = 0  # as after an answer
    second.in_flight = 4
    assert [take(fleet) for _ in range(4)] == [first] * 4


def test_single_failures_do_not_leave_an_endpoint_out_and_three_in_a_row_do():
    fleet, _ = fleet_of(2)
    server = fleet.servers[0]
    assert [fleet.leave_out(server, OSError("500"), outage=False) for _ in range(3)] == [
        False,
        False,
        True,
    ]


def test_an_error_that_all_requests_hit_is_raised_once_every_endpoint_has_given_it():
    fleet, _ = fleet_of(2)
    wrong = ProviderError("no key", "Set it.")
    assert fleet.leave_out(fleet.servers[0], wrong)
    assert not fleet.leave_out(fleet.servers[1], wrong)
    alone, _ = fleet_of(1)
    assert not alone.leave_out(alone.servers[0], wrong)


# ---------------------------------------------------------------- how they are named


def test_urls_are_given_several_times_and_remembered(tmp_path):
    run = Run.create(str(tmp_path / "run"), RunSettings())
    both = "http://a/v1 http://b/v1"
    assert complete_settings(run, {"llm_url": both}, {})["llm_url"] == both
    assert recall(run)["llm_url"] == both
    assert urls_of("http://a/v1 http://b/v1 http://a/v1") == both.split()
    assert urls_of("") == [""]
    complete_settings(run, {"llm_url": "http://a/v1 http://me:pw@b/v1"}, {})
    assert recall(run)["llm_url"] == both, "a URL with credentials is never written"
    path = tmp_path / "llm.toml"
    path.write_text('[llm]\nurl = ["http://a/v1", "http://b/v1"]\n')
    assert read_config(path) == {"llm_url": both}
    fleet = open_fleet(LLMSettings(llm_url=both, rpm=60.0, concurrency=3))
    assert [server.pace.requests for server in fleet.servers] == [60.0, 60.0]
    assert (fleet.room, fleet.first.url) == (6, "http://a/v1")
    with pytest.raises(UsageError, match="not a web address"):
        open_fleet(LLMSettings(llm_url="http://a/v1 nonsense"))


def test_the_flag_is_taken_several_times():
    from click.testing import CliRunner

    from autointerp.pipeline import STAGES
    from figures.cli.stages import stage_command

    seen = {}

    class Asked:
        def make(self, stage, redo, **given):
            seen.update(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("figures.cli.stages.open_study", lambda name: Asked())
        done = CliRunner().invoke(
            stage_command(STAGES["label"]),
            ["run", "--llm-url", "http://a/v1", "--llm-url", "http://b/v1"],
        )
        assert done.exit_code == 0, done.output
        assert seen == {"llm_url": "http://a/v1 http://b/v1"}
        seen.clear()
        CliRunner().invoke(stage_command(STAGES["label"]), ["run"])
        assert seen == {}

"""Many requests to an endpoint that fails at random, in one go and with the client killed on the
way.

The full storm of 2,000 requests is a command: python -m tests.jobs.test_faults [--requests 2000]
[--kills 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.replies import ReplyStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONCURRENCY = 64


@contextlib.contextmanager
def fault_server(*flags):
    """(base URL of a faulty server in its own process, a function that reads its counts)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fault_server", str(port), *flags],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    stats = lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=5))
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                stats()
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1", stats
    finally:
        process.kill()
        process.wait()


def questions(endpoint: Endpoint, n: int):
    return [
        endpoint.request(
            "m", [{"role": "user", "content": f"question {i}"}], temperature=0.0, max_tokens=20
        )
        for i in range(n)
    ]


def ask_all(url: str, path: Path, n: int) -> dict:
    endpoint = Endpoint(url, "none-given")
    with ReplyStore(path) as store:
        return answer(
            questions(endpoint, n),
            store,
            endpoint,
            concurrency=CONCURRENCY,
            timeout=2.0,
            retries=8,
            max_failures=200,
            backoff=0.02,
        )


def stored(url: str, path: Path, n: int) -> set[str]:
    """Questions that have a reply in the store."""
    with ReplyStore(path) as store:
        return {
            r.messages[0]["content"]
            for r in questions(Endpoint(url, "none-given"), n)
            if store.get(r.key)
        }


def check(replies: dict, counts: dict, url: str, n: int) -> dict:
    """Every request ended once, as a reply or a failure; returns how they ended."""
    assert list(replies) == [r.key for r in questions(Endpoint(url, "none-given"), n)]
    assert set(counts["attempts"]) == {f"question {i}" for i in range(n)}
    ends = {}
    for i, reply in enumerate(replies.values()):
        assert (reply.text is None) == bool(reply.error)
        if reply.text and reply.text.startswith("answer"):
            assert reply.text == f"answer to question {i}", "a reply belongs to its question"
        ends[reply.error or "reply"] = ends.get(reply.error or "reply", 0) + 1
    assert sum(ends.values()) == n
    return ends


def test_every_request_ends_as_one_reply_or_one_failure(tmp_path):
    with fault_server("--faults", "0.35") as (url, stats):
        replies = ask_all(url, tmp_path / "replies.sqlite", 300)
        counts = stats()
        ends = check(replies, counts, url, 300)
        assert (
            ends["reply"] > 200
            and ends.get("refused", 0)
            and sum(counts["attempts"].values()) > 330
        )
        assert max(counts["paid"].values()) == 1, "nothing is paid for twice"
        before = counts["attempts"]
        ask_all(url, tmp_path / "replies.sqlite", 300)
        again = {q for q, times in stats()["attempts"].items() if times > before[q]}
        assert again <= {f"question {i}" for i, r in enumerate(replies.values()) if not r.raw}, (
            "only what was never received is asked again"
        )


def test_killed_at_random_and_resumed_each_request_is_paid_once(tmp_path):
    storm(tmp_path / "replies.sqlite", 400, kills=2, seed=1)


def storm(path: Path, n: int, kills: int, seed: int) -> str:
    """Kill the client at random moments and start it again; what was stored before a kill is never
    asked again.
    """
    rng = random.Random(seed)
    with fault_server("--faults", "0.35") as (url, stats):
        for _ in range(kills):
            kept, before = stored(url, path, n), stats()["attempts"]
            client = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.jobs.test_faults",
                    "--client",
                    url,
                    str(path),
                    "--requests",
                    str(n),
                ],
                cwd=ROOT,
            )
            base = sum(before.values())
            deadline = time.time() + 60
            while (
                sum(stats()["attempts"].values()) < base + rng.randint(n // 10, n // 3)
                and client.poll() is None
                and time.time() < deadline
            ):
                time.sleep(0.02)
            os.kill(client.pid, signal.SIGKILL)
            client.wait()
            after = stats()["attempts"]
            assert not [q for q in kept if after[q] > before.get(q, 0)], (
                "a stored reply was asked for again"
            )
        kept, before = stored(url, path, n), stats()["attempts"]
        began = time.time()
        replies = ask_all(url, path, n)
        seconds, counts = time.time() - began, stats()
        ends = check(replies, counts, url, n)
        assert not [q for q in kept if counts["attempts"][q] > before.get(q, 0)]
        twice = sum(times - 1 for times in counts["paid"].values())
        assert twice <= kills * CONCURRENCY, (
            "only what was in flight at a kill can have been paid for without being kept"
        )
        attempts = sum(counts["attempts"].values())
        return f"{n} requests, {kills} kills: ended {ends}; {attempts} attempts, {twice} paid twice (in flight at a kill), last leg {seconds:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--client", nargs=2, metavar=("URL", "STORE"), help="only ask; used by the storm itself"
    )
    arguments = parser.parse_args()
    if arguments.client:
        ask_all(arguments.client[0], Path(arguments.client[1]), arguments.requests)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(
            storm(
                Path(folder) / "replies.sqlite", arguments.requests, arguments.kills, arguments.seed
            )
        )


if __name__ == "__main__":
    main()

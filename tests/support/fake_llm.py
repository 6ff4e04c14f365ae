"""An OpenAI-compatible server in a thread that answers from a script: first each scripted answer
once, then the usual one.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    body: str
    status: int = 200
    headers: dict = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    drip: float = 0.0  # seconds between one byte of the body and the next
    claims: int = 0  # bytes announced beyond those sent: a connection that breaks off


@dataclass(frozen=True)
class Seen:
    at: float  # monotonic seconds
    path: str
    headers: dict
    body: dict


def completion(text: str | None, finish_reason: str = "stop", **message) -> Answer:
    """A chat completion of 7 tokens in and 3 out."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text, **message},
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return Answer(
        json.dumps(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )
    )


def failure(status: int, message: str, headers: dict | None = None, **fields) -> Answer:
    return Answer(json.dumps({"error": {"message": message, **fields}}), status, headers or {})


class FakeLLM:
    """`with FakeLLM([failure(500, "down")]) as server:` fails once, then says "ok" to everything;
    `server.seen` is what it was asked.

    `judge` may look at each request and return an Answer, or None to leave it to the script.
    """

    def __init__(self, script=(), models=("m",), judge=None):
        self.script, self.models, self.judge = list(script), models, judge
        self.seen: list[Seen] = []
        self.n_open = self.most_open = 0  # requests being answered at once
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that gave up is part of the test
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeLLM:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Answers nobody any more; may be called twice."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _next(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            self.n_open += 1
            self.most_open = max(self.most_open, self.n_open)
            judged = self.judge(seen) if self.judge else None
            return judged or (self.script.pop(0) if self.script else completion("ok"))

    def _handler(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = fake._next(Seen(time.monotonic(), self.path, dict(self.headers), body))
                fake._closing.wait(answer.delay)
                with fake._lock:
                    fake.n_open -= 1
                self._send(answer)

            def do_GET(self):
                self._send(
                    Answer(
                        json.dumps(
                            {
                                "object": "list",
                                "data": [{"id": name, "object": "model"} for name in fake.models],
                            }
                        )
                    )
                )

            def _send(self, answer: Answer):
                body = answer.body.encode()
                self.send_response(answer.status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body) + answer.claims),
                    **answer.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in (
                    [body] if not answer.drip else [body[i : i + 1] for i in range(len(body))]
                ):
                    fake._closing.wait(answer.drip)
                    self.wfile.write(piece)
                self.close_connection = bool(answer.claims)

            def log_message(self, *_):
                pass

        return Handler

"""Requests, replies, and the store that keeps every reply under the key of its request before anyone reads it.

The store also keeps what was found out about each model of each endpoint (`probing`).
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from core.errors import UsageError
from core.files import canonical_hash

LONG = 32_768  # characters of a reply above which it is kept compressed: log-probabilities of a question are megabytes of digits


def public_url(url: str) -> str:
    """The URL without user name, password, query and trailing slash: what may be written down."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/"), "", "")
    )


@dataclass(frozen=True)
class Request:
    """One question to one model. Its `key` is what a reply is stored under."""

    endpoint: str  # URL; credentials and query are dropped
    model: str
    messages: list[dict]
    parameters: dict = field(
        default_factory=dict
    )  # temperature, max_tokens, response_format, ...: sent as they are
    repetition: int = 0  # asking the same once more is another request

    def __post_init__(self):
        object.__setattr__(self, "endpoint", public_url(self.endpoint))

    @property
    def key(self) -> str:
        return canonical_hash(asdict(self))


@dataclass(frozen=True)
class Reply:
    """What came back for one request. `text` is None exactly when `error` says why; then `message` says it to a person."""

    key: str
    text: str | None
    finish_reason: str = ""  # stop, length, content_filter, ...; with length the text is cut off
    tokens_in: int = 0  # as the endpoint counts them; 0 when it does not
    tokens_out: int = 0  # reasoning included
    raw: str = ""  # JSON as received; empty when the provider failed
    error: str = ""  # kind of a Failure: refused, truncated, provider
    message: str = ""


def read_reply(key: str, raw: str) -> Reply:
    """The Reply in the JSON of a chat completion that `is_completion` accepted."""
    table = json.loads(raw)
    choice, usage = table["choices"][0], table.get("usage") or {}
    said, finish = choice.get("message") or {}, choice.get("finish_reason") or ""
    text = said.get("content")
    if isinstance(text, list):  # a few endpoints answer in parts
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    error = message = ""
    if prompt_logprobs(
        table
    ):  # what was asked about is the question; of its answer nothing is read
        text = text or ""
    elif not (text or "").strip():
        text, kind_of = None, {"length": "truncated", "content_filter": "refused"}
        error = "refused" if said.get("refusal") else kind_of.get(finish, "provider")
        message = one_line(
            said.get("refusal")
            or f"The reply holds no text (finish_reason {finish or 'not given'})."
        )
    return Reply(
        key,
        text,
        finish,
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        raw,
        error,
        message,
    )


def is_completion(raw: str) -> bool:
    """Whether `raw` is the whole JSON of a chat completion: not cut off, not a page of HTML, not an error sent with status 200."""
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    choices = table.get("choices") if isinstance(table, dict) else None
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict)


def prompt_logprobs(table: dict) -> list:
    """The tokens of the question with what could stand there, as vLLM tells them in a completion; empty elsewhere."""
    told = table.get("prompt_logprobs") or table["choices"][0].get("prompt_logprobs")
    return (
        told
        if isinstance(told, list) and any(isinstance(entry, dict) and entry for entry in told)
        else []
    )


def one_line(text, length: int = 300) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 3] + "..."


class ReplyStore:
    """Raw replies by the key of their request, in SQLite: one transaction each, safe to share between processes.

    The first reply to a request stays. Opening a file that is not a store raises UsageError.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, request TEXT NOT NULL, raw TEXT NOT NULL)"
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS probes (endpoint TEXT, model TEXT, found TEXT NOT NULL, PRIMARY KEY (endpoint, model))"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise UsageError(
                f"{path} cannot be used as a store of replies: {error}.",
                "Name another file; nothing was changed in this one.",
            ) from None

    def get(self, key: str) -> str | None:
        """The raw reply, or None."""
        found = self._database.execute("SELECT raw FROM replies WHERE key = ?", (key,)).fetchone()
        raw = found[0] if found else None
        return zlib.decompress(raw).decode() if isinstance(raw, bytes) else raw

    def put(self, request: Request, raw: str) -> None:
        question = json.dumps(asdict(request), ensure_ascii=False)
        kept = zlib.compress(raw.encode()) if len(raw) > LONG else raw
        self._database.execute(
            "INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (request.key, question, kept)
        )

    def probe(self, endpoint: str, model: str) -> dict | None:
        """What was found out about a model of an endpoint, or None."""
        found = self._database.execute(
            "SELECT found FROM probes WHERE endpoint = ? AND model = ?", (endpoint, model)
        ).fetchone()
        return json.loads(found[0]) if found else None

    def keep_probe(self, endpoint: str, model: str, found: dict) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO probes VALUES (?, ?, ?)", (endpoint, model, json.dumps(found))
        )

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(self, *_) -> None:
        self.close()

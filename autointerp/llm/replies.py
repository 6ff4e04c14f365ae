"""Requests, replies, and the store that keeps every reply under the key of its request.

The store also keeps what the probe found out about each model of each endpoint (`probe`).
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from core.errors import UsageError
from core.files import canonical_hash

# Characters above which a reply is compressed: log-probabilities of a question take megabytes.
LONG = 32_768


def public_url(url: str) -> str:
    """The URL without user name, password, query and trailing slash, which may be stored."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/"), "", "")
    )


@dataclass(frozen=True)
class Request:
    """One question to one model. Its reply is stored under its `key`."""

    endpoint: str  # URL; credentials and query are dropped
    model: str
    messages: list[dict]
    # temperature, max_tokens, response_format, ...: sent as they are
    parameters: dict = field(default_factory=dict)
    repetition: int = 0  # asking the same once more is another request

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoint", public_url(self.endpoint))

    @property
    def key(self) -> str:
        """SHA-256 of all fields."""
        return canonical_hash(asdict(self))


@dataclass(frozen=True)
class Reply:
    """The reply to one request.

    `text` is None exactly when `error` says why; then `message` explains it to a person.
    """

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
    if not (text or "").strip() and finish in ("", "stop") and not said.get("refusal"):
        text = thoughts(said)  # servers that take the whole answer for thoughts
    error = message = ""
    if prompt_logprobs(table):  # the question itself was asked about; its answer is not read
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


def thoughts(message: dict) -> str:
    """The text of a message that its server keeps apart as reasoning; empty without any."""
    texts = (message.get("reasoning_content"), message.get("reasoning"))
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def is_completion(raw: str) -> bool:
    """Whether `raw` is the whole JSON of a chat completion.

    False where it is cut off, a page of HTML, or an error that was sent with status 200, for the
    whole reply or in its choice.
    """
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    choices = table.get("choices") if isinstance(table, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    return choices[0].get("finish_reason") != "error" and not choices[0].get("error")


def stated_error(raw: str) -> Any:
    """The error in a reply with status 200: an object or a text, or None where it states none."""
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict):
        return None
    choices = table.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    return table.get("error") or (choice.get("error") if isinstance(choice, dict) else None)


def prompt_logprobs(table: dict) -> list:
    """The question's tokens with their alternatives, as vLLM returns them; empty elsewhere."""
    entries = table.get("prompt_logprobs") or table["choices"][0].get("prompt_logprobs")
    if not isinstance(entries, list):
        return []
    return entries if any(isinstance(entry, dict) and entry for entry in entries) else []


def one_line(text: object, length: int = 300) -> str:
    """`text` on one line of at most `length` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 3] + "..."


class ReplyStore:
    """Raw replies by the key of their request, in SQLite.

    Each write is one transaction, so processes may share a store. The first reply to a request
    stays. Opening a file that is not a store raises UsageError.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(key TEXT PRIMARY KEY, request TEXT NOT NULL, raw TEXT NOT NULL)"
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS probes (endpoint TEXT, model TEXT, "
                "found TEXT NOT NULL, PRIMARY KEY (endpoint, model))"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise UsageError(
                f"{path} cannot be used as a store of replies: {error}.",
                "Name another file; nothing was changed in this one.",
            ) from None

    def get(self, key: str) -> str | None:
        """The raw reply, or None."""
        row = self._database.execute("SELECT raw FROM replies WHERE key = ?", (key,)).fetchone()
        raw = row[0] if row else None
        return zlib.decompress(raw).decode() if isinstance(raw, bytes) else raw

    def put(self, request: Request, raw: str) -> None:
        """Store the raw reply to a request, unless there is one."""
        question = json.dumps(asdict(request), ensure_ascii=False)
        kept = zlib.compress(raw.encode()) if len(raw) > LONG else raw
        self._database.execute(
            "INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (request.key, question, kept)
        )

    def probe(self, endpoint: str, model: str) -> dict | None:
        """What the probe found out about a model of an endpoint, or None."""
        row = self._database.execute(
            "SELECT found FROM probes WHERE endpoint = ? AND model = ?", (endpoint, model)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def keep_probe(self, endpoint: str, model: str, abilities: dict) -> None:
        """Store what the probe found out."""
        self._database.execute(
            "INSERT OR REPLACE INTO probes VALUES (?, ?, ?)",
            (endpoint, model, json.dumps(abilities)),
        )

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

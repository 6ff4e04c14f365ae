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

from autointerp.llm.refusals import BROKEN_OFF
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


# What servers call the ends of a reply
FINISHES = {
    **dict.fromkeys(("max_tokens", "max_output_tokens", "model_length", "max_length"), "length"),
    **dict.fromkeys(("token_limit", "max_new_tokens", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "stop_token"), "stop"),
    **dict.fromkeys(("complete", "completed", "done", "finished", "end_of_turn"), "stop"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "stop"),
    **dict.fromkeys(
        ("safety", "content-filter", "content_filtered", "prohibited_content", "blocklist"),
        "content_filter",
    ),
    **dict.fromkeys(("recitation", "sensitive", "spii", "refusal", "blocked"), "content_filter"),
    **dict.fromkeys(("guardrail_intervened", "error_toxic"), "content_filter"),
}


def name_finish(choice: dict) -> str:
    """Why the reply of a choice ended: stop, length, content_filter, or what its server says.

    Google's servers put a reason behind it (`content_filter: SAFETY`), SGLang's an object in its
    place.
    """
    stated = choice.get("finish_reason")
    stated = stated.get("type") if isinstance(stated, dict) else stated
    name = str(stated or "").lower().partition(":")[0].strip()
    return FINISHES.get(name, name)


def read_reply(key: str, raw: str) -> Reply:
    """The Reply in the JSON of a chat completion that `is_completion` accepted."""
    table = json.loads(raw)
    choice, usage = table["choices"][0], table.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    said = choice.get("message")
    said = said if isinstance(said, dict) else {"content": said or choice.get("text")}
    finish = name_finish(choice)
    text = content_text(said)
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
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        raw,
        error,
        message,
    )


def content_text(message: dict) -> str | None:
    """The text of a message: its content, or the arguments of the call that it makes instead.

    A few endpoints answer in parts, or with the JSON object that was asked for.
    """
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    elif isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False)
    if isinstance(content, str) and content.strip():
        return content
    calls = message.get("tool_calls") or [{"function": message.get("function_call")}]
    first = calls[0] if isinstance(calls, list) and calls else None
    call = first.get("function") if isinstance(first, dict) else None
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    if isinstance(arguments, str) and arguments.strip():
        return arguments
    return content if isinstance(content, str) else None


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and value > 0 else 0


def join_chunks(raw: str) -> str:
    """The completion that a stream of events tells piece by piece, as JSON; other text as it is.

    A stream without its end stays as it is, so that it is no completion.
    """
    raw = raw.removeprefix("\ufeff")
    lines = [line.strip() for line in raw.splitlines()]
    if any(line.startswith(":") for line in lines[:1]):  # OpenRouter says that it is still there
        raw = "\n".join(line for line in lines if not line.startswith(":"))
    events = [line[5:].strip() for line in lines if line.startswith("data:")]
    if not events or raw.lstrip().startswith(("{", "[")):
        return raw
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    choice: dict[str, Any] = {"index": 0, "message": message}
    for event in events:
        if event == "[DONE]":
            continue
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError):
            return raw
        if not isinstance(chunk, dict) or chunk.get("error"):
            return event
        whole |= {k: v for k, v in chunk.items() if k != "choices" and v is not None}
        parts = chunk.get("choices")
        for part in parts[:1] if isinstance(parts, list) else ():
            if isinstance(part, dict):
                _add_delta(choice, message, part)
    if "finish_reason" not in choice and "[DONE]" not in events:
        return raw
    return json.dumps(whole | {"choices": [choice]}, ensure_ascii=False)


def _add_delta(choice: dict, message: dict, part: dict) -> None:
    """Append what one chunk of a stream says to the choice and its message."""
    delta = part.get("delta") or part.get("message") or {"content": part.get("text")}
    delta = delta if isinstance(delta, dict) else {"content": delta}
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        said = delta.get(name)
        if name == "content" and isinstance(said, list):
            said = content_text({"content": said})
        if isinstance(said, str):
            message[name] = (message.get(name) or "") + said
    calls = delta.get("tool_calls")
    if isinstance(calls, list) and calls and isinstance(calls[0], dict):
        _add_call(message, calls[0].get("function"))
    for name in ("finish_reason", "error"):
        if part.get(name):
            choice[name] = part[name]
    scored = part.get("logprobs")
    listed = scored.get("content") if isinstance(scored, dict) else None
    if isinstance(listed, list):
        choice.setdefault("logprobs", {"content": []})["content"] += listed


def _add_call(message: dict, function: Any) -> None:
    """Append the arguments that one chunk of a stream adds to the message's first call."""
    piece = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(piece, str):
        calls = message.setdefault("tool_calls", [{"function": {"arguments": ""}}])
        calls[0]["function"]["arguments"] += piece


def thoughts(message: dict) -> str:
    """The text of a message that its server keeps apart as reasoning; empty without any."""
    texts = (message.get("reasoning_content"), message.get("reasoning"))
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def is_completion(raw: str) -> bool:
    """Whether `raw` is the whole JSON of a chat completion.

    False where it is cut off, a page of HTML, or an error that was sent with status 200, for the
    whole reply or in its choice, and where the provider broke off within the reply.
    """
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    choices = table.get("choices") if isinstance(table, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    return name_finish(choices[0]) not in BROKEN_OFF and not choices[0].get("error")


def stated_error(raw: str) -> Any:
    """The error in a reply with status 200: an object or a text, or None where it states none."""
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    table = table[0] if isinstance(table, list) and table else table  # Google's errors
    if not isinstance(table, dict):
        return None
    choices = table.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    stated = table.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if isinstance(choice, dict) and not stated and name_finish(choice) in BROKEN_OFF:
        return f"the reply broke off (finish_reason {name_finish(choice)})"
    if stated or choices:
        return stated
    # without a choice, whatever explains it is the error
    names = ("detail", "errors", "message", "promptFeedback", "prompt_feedback", "base_resp")
    found = (table[name] for name in names if table.get(name))
    return next((said for said in found if not _is_turn(said)), None)


def _is_turn(said: Any) -> bool:
    """Whether what stands under `message` is a turn of another protocol, and no error."""
    return isinstance(said, dict) and "role" in said


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

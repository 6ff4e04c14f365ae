"""Documents from records: the forms in which corpora hold text and conversations.

    text          a string under "text", "content" or "prompt" (or the column that is named)
    instruction   "instruction", "input" and "output": a user's turn and an assistant's
    conversation  a list of turns under "messages", "conversations" or "conversation", each with
                  "role" or "from" and "content" or "value"; the list may be a JSON string, the
                  content a list of parts, or null beside tool calls

A record of no such form is counted with its reason, and the reading goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

COLUMNS = ("text", "messages", "conversations", "conversation", "prompt", "content", "instruction")
CHATS = ("messages", "conversations", "conversation")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "prompter": "user",
    "question": "user",
    "answer": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}


@dataclass(frozen=True)
class Document:
    """One document. A conversation has `turns`: (role, content) pairs.

    `spans` are the character ranges of `text` whose tokens are analysed, `compared` those by which
    near duplicates are found; None means all of it. `unread` counts the parts of turns, such as
    images, that are no text.
    """

    name: str
    text: str
    turns: tuple[tuple[str, str], ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None
    compared: tuple[tuple[int, int], ...] | None = None
    unread: int = 0


class Unusable(Exception):
    """What cannot be read: the reason that is counted, an example, and what to do about it."""

    def __init__(self, reason: str, example: str = "", advice: str = ""):
        super().__init__(reason)
        self.reason, self.example, self.advice = reason, example, advice


@dataclass
class LeftOut:
    """What was left out: how much for each reason, and one example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    advices: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, n: int = 1, advice: str = "") -> None:
        """Count `n` more for a reason; the first example and advice of each are kept."""
        if n:
            self.counts[reason] += n
            self.examples.setdefault(reason, example)
            self.advices.setdefault(reason, advice)

    def line(self) -> str:
        """The reasons, the commonest first, each with its example."""
        parts = []
        for reason, n in self.counts.most_common():
            example = self.examples[reason]
            parts.append(f"{n:,} {reason}" + (f" ({example})" if example else ""))
        return "; ".join(parts) or "it holds no document"

    def advice(self) -> str:
        """What to do about the commonest reason that has an advice; empty without one."""
        return next((self.advices[r] for r, _ in self.counts.most_common() if self.advices[r]), "")


def join_surrogates(text: str) -> str:
    """`text` with U+FFFD in the place of each half of a UTF-16 pair that stands alone.

    JSON may hold such halves, `"\\ud83d"`, where a text was cut within an emoji; no tokenizer reads
    them. Two halves that belong together become their character.
    """
    if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def text_hash(text: str) -> str:
    """The SHA-256 of the text in lower case, with each run of white space replaced by one space."""
    normal = " ".join(text.split()).lower()
    return hashlib.sha256(normal.encode(errors="surrogatepass")).hexdigest()


def make_document(name: str, record: Any, column: str = "") -> Document:
    """The document of one record; raises Unusable with the reason for one without text.

    A string is its own text. `column` names where the text stands; without it, it is the first of
    COLUMNS that the record has.
    """
    if isinstance(record, str):
        return _text_document(name, record)
    if isinstance(record, list) and record and all(isinstance(turn, dict) for turn in record):
        return _chat_document(name, record)
    if not isinstance(record, dict):
        raise Unusable("records that are no objects", name)
    key = column or next((k for c in COLUMNS for k in record if is_column(k, c)), "")
    if key not in record:
        known = ", ".join(map(str, record)) or "none"
        advice = f"One of its columns must be {', '.join(COLUMNS)}."
        raise Unusable("records without a column of text", f"{name} has {known}", advice)
    content = _read_bytes(name, record[key])
    if key.lower() == "instruction" and isinstance(record.get("output"), str):
        return _instruction_document(name, record)
    if isinstance(content, str) and key.lower() in CHATS and content.lstrip().startswith("["):
        try:
            content = json.loads(content)
        except ValueError:
            raise Unusable("conversations that are not JSON", name) from None
    if isinstance(content, list) and content and all(isinstance(p, str) for p in content):
        if key.lower() in CHATS:
            raise Unusable("conversations whose turns do not say who speaks", name)
        content = "\n".join(content)  # a text as a list of its paragraphs or sentences
    if isinstance(content, list):
        return _chat_document(name, content)
    if content is None:
        raise Unusable(f"records whose {key} is null", name)
    if not isinstance(content, str):
        kind = type(content).__name__
        raise Unusable(f"records whose {key} is no text", f"{name} has a {kind}")
    return _text_document(name, content)


def is_column(name: Any, wanted: str = "") -> bool:
    """Whether a column's name is the one that is wanted, or one of COLUMNS in any case."""
    plain = str(name).strip()
    return plain == wanted or plain.lower() in ((wanted,) if wanted else COLUMNS)


def _read_bytes(name: str, content: Any) -> Any:
    """A text that its file keeps as bytes, as Parquet may; what is none stays as it is."""
    if not isinstance(content, bytes):
        return content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable("records whose bytes are not UTF-8", name) from None


def _text_document(name: str, text: str) -> Document:
    if not text.strip():
        raise Unusable("records without a word", name)
    return Document(name, text)


def _instruction_document(name: str, record: dict[str, Any]) -> Document:
    asked = [record.get("instruction"), record.get("input")]
    question = "\n\n".join(part for part in asked if isinstance(part, str) and part.strip())
    if not question:
        raise Unusable("records without a word", name)
    return _from_turns(name, [("user", question), ("assistant", record["output"])])


def _chat_document(name: str, content: list[Any]) -> Document:
    turns = [turn for item in content for turn in _read_turns(name, item) if turn[1].strip()]
    if not turns:
        raise Unusable("conversations without a turn", name)
    return replace(_from_turns(name, turns), unread=sum(map(_count_unread, content)))


def _count_unread(turn: Any) -> int:
    """The parts of a turn's content that hold no text."""
    said = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
    parts = said if isinstance(said, list) else []
    return sum(isinstance(part, dict) and not any(_list_texts(part)) for part in parts)


def _from_turns(name: str, turns: list[tuple[str, str]]) -> Document:
    return Document(name, "\n".join(text for _, text in turns), tuple(turns))


def _read_turns(name: str, item: Any) -> list[tuple[str, str]]:
    """The turns of one entry: its own, or a turn under the name of each speaker."""
    if isinstance(item, dict) and not item.keys() & {"role", "from"}:
        spoken = {key: str(key).casefold() for key in item}
        known = {*ROLES, *ROLES.values(), "system"}
        if spoken and all(role in known for role in spoken.values()):
            return [
                (ROLES.get(role, role), _read_content(name, item[key]))
                for key, role in spoken.items()
            ]
    return [_read_turn(name, item)]


def _read_turn(name: str, item: Any) -> tuple[str, str]:
    """(role, content) of one turn in any of the common forms."""
    if not isinstance(item, dict):
        raise Unusable("conversations whose turns are no objects", name)
    role = item.get("role", item.get("from"))
    if not isinstance(role, str):
        raise Unusable("conversations whose turns have no role", name)
    said = next((item[key] for key in ("content", "value", "text") if key in item), None)
    content = _read_content(name, said)
    calls = item.get("tool_calls") or item.get("function_call")
    if calls:
        said = "\n".join(
            _write_call(call) for call in (calls if isinstance(calls, list) else [calls])
        )
        content = f"{content}\n{said}" if content else said
    return ROLES.get(role.lower(), role.lower()), content


def _read_content(name: str, content: Any) -> str:
    """The text of a turn: a string, the text parts of a list, or nothing for null."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    found = list(_list_texts(content))
    if not found:
        raise Unusable("conversations with a turn that holds no text", name)
    return "\n".join(found)


def _list_texts(part: Any) -> Iterator[str]:
    """The texts of a part of a turn: a string, a list, or an object that holds one of these."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for inner in part:
            yield from _list_texts(inner)
    elif isinstance(part, dict):
        if part.get("type") in ("tool_use", "tool_call") and "name" in part:
            yield _write_call(
                {k: v for k, v in part.items() if k in ("name", "input", "arguments")}
            )
        else:
            yield from _list_texts(
                next((part[k] for k in ("text", "content", "value") if part.get(k)), None)
            )


def _write_call(call: Any) -> str:
    """A tool call as the JSON of its name and arguments."""
    inner = call.get("function", call) if isinstance(call, dict) else call
    return json.dumps(inner, ensure_ascii=False, default=str)

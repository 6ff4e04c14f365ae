"""Turn documents into tokens with character offsets, chats and generated continuations included."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import UsageError
from core.files import read_json, write_json
from core.progress import progress
from core.records import Site
from core.subject.subject import Subject
from core.text.documents import Document, text_hash

if TYPE_CHECKING:
    from tokenizers import Encoding

BATCH = 64  # documents tokenised at once
PROMPTS = 32  # prompts continued at once


@dataclass(frozen=True)
class Encoded:
    """One document and its tokens.

    `counted` is False on tokens whose firings are not analysed, such as those of a chat template.
    """

    name: str
    text: str
    ids: np.ndarray  # (n,) token ids
    starts: np.ndarray  # (n,) character offset at which each token starts
    ends: np.ndarray  # (n,) character offset at which it ends
    counted: np.ndarray  # (n,) bool


@dataclass(frozen=True)
class Chat:
    """How documents are read as chats."""

    every: bool = False  # a document without turns is a user's turn; conversations are always chats
    turns: str = "all"  # all, user or assistant: whose tokens are counted
    answer: bool = False  # the text ends where the assistant's next turn begins


PLAIN = Chat()


def encode_documents(
    subject: Subject, documents: Iterable[Document], max_tokens: int = 0, chat: Chat = PLAIN
) -> tuple[list[Encoded], dict[str, int]]:
    """Tokenise documents: (documents with their tokens, reason -> number of documents left out).

    Exact copies and documents of under two tokens are left out, and so is every document after
    the first `max_tokens` tokens (0: no limit); past the limit a stream is not read any further.
    Raises UsageError when no document remains.
    """
    kept: list[Encoded] = []
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    total, limit = 0, max_tokens or float("inf")
    batches = _split_into_batches(documents)
    for batch in batches:
        if chat.every or any(d.turns for d in batch):
            batch = [apply_chat_template(subject, d, chat) for d in batch]
        encodings = subject.tokenizer.backend_tokenizer.encode_batch(
            [d.text for d in batch], add_special_tokens=False
        )
        for document, encoding in zip(batch, encodings, strict=True):
            key = text_hash(document.text)
            if total >= limit:
                left_out["documents past the token limit"] += 1
            elif key in seen:
                left_out["documents that copy another"] += 1
            elif len(encoding.ids) < 2:
                left_out["documents under two tokens"] += 1
            else:
                seen.add(key)
                kept.append(_to_encoded(document, encoding))
                total += len(encoding.ids)
        if total >= limit and isinstance(documents, list):
            left_out["documents past the token limit"] += sum(map(len, batches))
        elif total >= limit:
            break
    if not kept:
        raise UsageError(
            f"No document of the corpus can be used: {dict(left_out)}.",
            "Give documents of at least two tokens.",
        )
    return kept, {reason: n for reason, n in left_out.items() if n}


def _split_into_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    source = iter(documents)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


def _to_encoded(document: Document, encoding: Encoding) -> Encoded:
    """Take the tokenizer's offsets, but give a token the white space that they trim before it."""
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    gap = np.r_[starts[0], starts[1:] - ends[:-1]]
    for i in np.flatnonzero(gap > 0):
        before = int(ends[i - 1]) if i else 0
        if document.text[before : int(starts[i])].isspace():
            starts[i] = before
    counted = np.ones(len(starts), bool)
    if document.spans is not None:
        counted[:] = False
        for start, end in document.spans:
            counted |= (starts < end) & (ends > start)
    return Encoded(
        document.name, document.text, np.array(encoding.ids, dtype=np.int64), starts, ends, counted
    )


# ---------------------------------------------------------------- chats


def apply_chat_template(subject: Subject, document: Document, chat: Chat) -> Document:
    """The document in the subject's chat template, with the character spans of the counted turns.

    A document without turns is one turn of the user. Raises UsageError for a turn that the
    template changes, because its tokens could not be told from those of the template.
    """
    turns = document.turns or (("user", document.text),)
    text = subject.chat_text(list(turns), answer=chat.answer)
    spans, at = [], 0
    for role, content in turns:
        start = text.find(content.strip(), at)
        if start < 0:
            raise UsageError(
                f"The chat template changes the {role}'s turn in {document.name}.",
                "Remove that conversation from the corpus.",
            )
        at = start + len(content.strip())
        if chat.turns in ("all", role):
            spans.append((start, at))
    return replace(document, text=text, spans=tuple(spans))


# ---------------------------------------------------------------- continuations


@dataclass(frozen=True)
class Continuation:
    """How the subject continues each prompt."""

    n_new: int  # tokens, at most
    temperature: float  # 0 is greedy
    seed: int
    counted: bool = True  # whether the generated tokens are counted


def continue_prompts(
    subject: Subject, prompts: list[Encoded], how: Continuation, folder: Path, site: Site
) -> list[Encoded]:
    """Each prompt with a continuation by the subject.

    Every batch is kept in `folder` until the capture is committed, so that a killed capture
    continues after the last one. Raises UsageError when the context has no room for a prompt.
    """
    if subject.context - how.n_new - 1 < 1:
        raise UsageError(
            f"--generate {how.n_new} leaves no room for a prompt in a context of "
            f"{subject.context}.",
            "Generate fewer tokens.",
        )
    out = []
    for start in progress(range(0, len(prompts), PROMPTS), "generate", unit="batch"):
        batch, path = prompts[start : start + PROMPTS], folder / f"generated-{start:07d}.json"
        if not path.exists():
            seeds = [how.seed * 1_000_003 + start + i for i in range(len(batch))]
            generations = subject.generate(
                [p.text for p in batch],
                how.n_new,
                site,
                temperature=how.temperature,
                seeds=seeds,
            )
            write_json(path, [g.tokens[g.n_prompt :] for g in generations])
        out += [
            _append_tokens(subject, prompt, new, how.counted)
            for prompt, new in zip(batch, read_json(path), strict=True)
        ]
    return out


def forget_continuations(folder: Path) -> None:
    """Remove the batches that `continue_prompts` kept in `folder`."""
    for path in folder.glob("generated-*.json"):
        path.unlink()


def _append_tokens(subject: Subject, prompt: Encoded, new: list[int], counts: bool) -> Encoded:
    """Append generated tokens to a prompt.

    The text of a token is the difference between decoding with and without it.
    """
    text, starts, ends = "", [], []
    for i in range(len(new)):
        longer = subject.text_after(prompt.ids[-1:].tolist(), new[: i + 1])
        whole = longer if i + 1 == len(new) else longer.rstrip("\ufffd")
        starts.append(len(prompt.text) + len(text))
        text = whole if len(whole) >= len(text) else text
        ends.append(len(prompt.text) + len(text))
    return Encoded(
        prompt.name,
        prompt.text + text,
        np.r_[prompt.ids, np.array(new, dtype=np.int64)],
        np.r_[prompt.starts, np.array(starts, dtype=np.int64)],
        np.r_[prompt.ends, np.array(ends, dtype=np.int64)],
        np.r_[prompt.counted, np.full(len(new), counts)],
    )

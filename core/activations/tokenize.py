"""Turn documents into tokens with character offsets, chats and generated continuations included."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import UsageError
from core.files import read_json, write_json
from core.progress import progress, say
from core.records import Site
from core.subject.chat import TurnChanged, locate_turns
from core.subject.subject import Subject
from core.subject.token_texts import cut_broken
from core.text.documents import Corpus, Document, text_hash
from core.text.forms import LeftOut, join_surrogates
from core.text.tokens import cut

if TYPE_CHECKING:
    from tokenizers import Encoding

BATCH = 64  # documents tokenised at once
IDLE = 10_000  # documents of a stream in a row that are left out, after which it is not read on
PROMPTS = 32  # prompts continued at once


@dataclass(frozen=True)
class Encoded:
    """One document and its tokens.

    `counted` is False on tokens whose firings are not analysed, such as those of a chat template;
    `compared` on those that make no near duplicates: the template's, and those of a system prompt.
    """

    name: str
    text: str
    ids: np.ndarray  # (n,) token ids
    starts: np.ndarray  # (n,) character offset at which each token starts
    ends: np.ndarray  # (n,) character offset at which it ends
    counted: np.ndarray  # (n,) bool
    compared: np.ndarray  # (n,) bool


@dataclass(frozen=True)
class Chat:
    """How documents are read."""

    every: bool = False  # a document without turns is a user's turn; conversations are always chats
    turns: str = "all"  # all, user or assistant: whose tokens are counted
    answer: bool = False  # the text ends where the assistant's next turn begins
    thoughts: bool = False  # a turn is kept whole where the template strips its thoughts
    special: bool = False  # special tokens that are written in a text are counted


PLAIN = Chat()


def encode_documents(
    subject: Subject, documents: Corpus, max_tokens: int = 0, chat: Chat = PLAIN
) -> Iterator[Encoded]:
    """Yield documents with their tokens, and count what is left out in `documents.left_out`.

    Exact copies, documents of under two tokens and chats that the template refuses or changes are
    left out, and so is every document after the first `max_tokens` tokens (0: no limit); past the
    limit a stream is not read any further. Raises UsageError when no document remains. No document
    is held but those of a batch, and of each a hash.
    """
    left_out = documents.left_out
    seen: set[bytes] = set()
    total, idle, limit = 0, 0, max_tokens or float("inf")
    batches = _split_into_batches(documents)
    with progress(total=max_tokens or None, label="read", unit="tok") as bar:
        for batch in batches:
            for document in batch:
                if document.unread:
                    left_out.add(UNREAD, document.name, document.unread)
            batch = [_mend_halves(d, left_out) for d in batch]
            batch = [d for d in map(partial(_to_text, subject, chat, left_out), batch) if d]
            for document, encoding in zip(
                batch, subject.encode([d.text for d in batch]), strict=True
            ):
                encoded = _to_encoded(subject, document, encoding)
                if reason := _why_left_out(encoded, seen, total >= limit):
                    left_out.add(reason, document.name)
                    idle += 1
                    continue
                idle = 0
                total += len(encoded.ids)
                bar.update(len(encoded.ids))
                yield encoded if chat.special else _uncount_special(subject, encoded, left_out)
            if documents.streamed and idle >= IDLE:
                say(f"{idle:,} documents in a row are left out; the stream is read no further")
                break
            if total >= limit:
                if not documents.streamed:
                    left_out.add(PAST, "", sum(map(len, batches)))
                break
    if not seen:
        raise UsageError(
            f"No document of the corpus can be used: {left_out.line()}.",
            left_out.advice() or "Give documents of at least two tokens.",
        )


def _mend_halves(document: Document, left_out: LeftOut) -> Document:
    """The document without halves of characters, which are counted."""
    text = join_surrogates(document.text)
    if text == document.text:
        return document
    left_out.add("documents with halves of characters, read as U+FFFD", document.name)
    turns = tuple((role, join_surrogates(said)) for role, said in document.turns)
    return replace(document, text=text, turns=turns)


UNREAD = "parts of turns that are no text, such as images"
PAST = "documents past the token limit"


def _why_left_out(encoded: Encoded, seen: set[bytes], past: bool) -> str:
    """The reason to leave a document out, or nothing; `seen` holds the hashes of those before."""
    if past:
        return PAST
    if (key := bytes.fromhex(text_hash(encoded.text))) in seen:
        return "documents that copy another"
    if len(encoded.ids) < 2:
        return "documents under two tokens"
    seen.add(key)
    return ""


def _uncount_special(subject: Subject, encoded: Encoded, left_out: LeftOut) -> Encoded:
    """The document with its special tokens as context only."""
    special = encoded.counted & np.isin(encoded.ids, subject.special_ids)
    if not special.any():
        return encoded
    left_out.add("special tokens written in a text, not counted", encoded.name, int(special.sum()))
    return replace(encoded, counted=encoded.counted & ~special)


def spell_prompt(subject: Subject, text: str) -> list[str]:
    """The text of each token of `Subject.prompt_tokens(text)`, as it stands in the text.

    A later part of a character is told by its bytes, such as `<0x9B>`.
    """
    text = join_surrogates(text)
    encoding = subject.encode([text])[0]
    ids = np.array(encoding.ids, dtype=np.int64)
    shown = cut(text, *_close_gaps(subject, text, ids, encoding.offsets))
    vocabulary = subject.token_texts()
    texts = [own or vocabulary[i] for own, i in zip(shown, encoding.ids, strict=True)]
    if subject.bos is not None and encoding.ids[:1] != [subject.bos]:
        texts = [vocabulary[subject.bos], *texts]
    return texts


def _split_into_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    source = iter(documents)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


def _to_encoded(subject: Subject, document: Document, encoding: Encoding) -> Encoded:
    """The tokens of one document without a leading BOS, which every row has already."""
    ids = np.array(encoding.ids, dtype=np.int64)
    starts, ends = _close_gaps(subject, document.text, ids, encoding.offsets)
    if subject.bos is not None and ids[:1].tolist() == [subject.bos]:
        ids, starts, ends = ids[1:], starts[1:], ends[1:]
    counted = _are_inside(starts, ends, document.spans)
    compared = _are_inside(starts, ends, document.compared)
    return Encoded(document.name, document.text, ids, starts, ends, counted, compared)


def _are_inside(
    starts: np.ndarray, ends: np.ndarray, spans: tuple[tuple[int, int], ...] | None
) -> np.ndarray:
    """bool (n,): the token holds a character of one of the spans; all of them where it is None."""
    if spans is None:
        return np.ones(len(starts), bool)
    inside = np.zeros(len(starts), bool)
    for start, end in spans:
        inside |= (starts < end) & (ends > start)
    return inside


def _close_gaps(
    subject: Subject, text: str, ids: np.ndarray, offsets: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The tokenizer's offsets, but what no token covers belongs to the token after it.

    That is white space that some tokenizers trim, and what their normalisers drop; at the end of
    the text it belongs to the last token. A token that is a space, or that the tokenizer put in
    front of a word, holds no letter of the word.
    """
    table = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = _split_bytes(text, table[:, 0].copy(), table[:, 1].copy())
    for i in np.flatnonzero(subject.are_spaces[ids]):
        inner = text[int(starts[i]) : int(ends[i])]
        ends[i] = starts[i] + len(inner) - len(inner.lstrip())
    ends[-1:] = len(text)
    reach = np.r_[0, np.maximum.accumulate(ends)[:-1]]
    return np.minimum(starts, reach), ends


def _split_bytes(text: str, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The offsets with one character for each of several tokens that are the bytes of one stretch.

    Unigram models give each byte of a stretch that they do not know the offsets of all of it.
    """
    alike = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1]) & (ends[1:] > starts[1:] + 1)
    edges = np.flatnonzero(np.diff(np.r_[False, alike, False].astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        start = int(starts[first])
        sizes = [len(c.encode()) for c in text[start : int(ends[first])]]
        if sum(sizes) == last - first + 1:
            owners = np.repeat(np.arange(len(sizes)), sizes)
            starts[first : last + 1] = start + owners
            ends[first : last + 1] = start + owners + 1
    return starts, ends


# ---------------------------------------------------------------- chats


def _to_text(
    subject: Subject, chat: Chat, left_out: LeftOut, document: Document
) -> Document | None:
    """The document as the subject reads it; None for a chat that cannot be read, which is counted.

    Raises UsageError for a chat where the subject has no template.
    """
    if not chat.every and not document.turns:
        return document
    try:
        return apply_chat_template(subject, document, chat)
    except TurnChanged as error:
        what = "whose thoughts the chat template strips" if error.thought else ""
        reason = f"conversations {what or f'whose {error.role} turns the chat template changes'}"
        advice = "Keep the thoughts: capture RUN --thoughts." if error.thought else ""
        left_out.add(reason, document.name, advice=advice)
    except UsageError as error:
        if not subject.tokenizer.chat_template:
            raise
        left_out.add("conversations that the chat template refuses", f"{document.name}: {error}")
    return None


def apply_chat_template(subject: Subject, document: Document, chat: Chat) -> Document:
    """The document in the subject's chat template, with the character spans of the counted turns.

    A document without turns is one turn of the user. Raises what `locate_turns` raises.
    """
    turns = document.turns or (("user", document.text),)
    made = locate_turns(subject.tokenizer, turns, chat.answer, chat.thoughts)
    spans = [(a, b) for role, a, b in made.spans if chat.turns in ("all", role)]
    said = tuple((a, b) for role, a, b in made.spans if role != "system")
    return replace(document, text=made.text, spans=tuple(spans), compared=said)


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
        whole = cut_broken(longer)
        starts.append(len(prompt.text) + len(text))
        text = whole if len(whole) >= len(text) else text
        ends.append(len(prompt.text) + len(text))
    return Encoded(
        prompt.name,
        prompt.text + text,
        np.r_[prompt.ids, np.array(new, dtype=np.int64)],
        np.r_[prompt.starts, np.array(starts, dtype=np.int64)],
        np.r_[prompt.ends, np.array(ends, dtype=np.int64)],
        np.r_[prompt.counted, counts & ~np.isin(new, subject.special_ids)],
        np.r_[prompt.compared, np.ones(len(new), bool)],
    )

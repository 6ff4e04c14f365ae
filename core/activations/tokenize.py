"""Documents -> tokens with character offsets: chats in the subject's template, prompts with their continuations, copies left out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import UsageError
from core.files import read_json, write_json
from core.progress import progress
from core.records import Site
from core.settings import CaptureSettings
from core.subject.subject import Subject
from core.text.documents import Document, text_hash

BATCH = 64  # documents tokenised at once


@dataclass(frozen=True)
class Encoded:
    """One document with its token ids (n,), the character offsets of each token in its text, and whether each counts: firings on
    the others, such as the template of a chat, are not looked at."""

    name: str
    text: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counted: np.ndarray


def encode_documents(
    subject: Subject, documents: Iterable[Document], settings: CaptureSettings
) -> tuple[list[Encoded], dict[str, int]]:
    """(documents with their tokens, what was left out and why). Exact copies and documents under two tokens are left out, and all
    that come after `settings.tokens` tokens unless it is 0; of a stream, those are never read."""
    kept, seen, left_out, total, limit = [], set(), Counter(), 0, settings.tokens
    batches = _batches(documents)
    for batch in batches:
        batch = (
            [chat_document(subject, d, settings) for d in batch]
            if settings.chat or any(d.turns for d in batch)
            else batch
        )
        found = subject.tokenizer.backend_tokenizer.encode_batch(
            [d.text for d in batch], add_special_tokens=False
        )
        for document, encoding in zip(batch, found, strict=True):
            key = text_hash(document.text)
            if limit and total >= limit:
                left_out["documents past the token limit"] += 1
            elif key in seen:
                left_out["documents that copy another"] += 1
            elif len(encoding.ids) < 2:
                left_out["documents under two tokens"] += 1
            else:
                seen.add(key)
                kept.append(_encoded(document, encoding))
                total += len(encoding.ids)
        if limit and total >= limit and isinstance(documents, list):
            left_out["documents past the token limit"] += sum(map(len, batches))
        elif limit and total >= limit:
            break
    if not kept:
        raise UsageError(
            f"No document of the corpus can be used: {dict(left_out)}.",
            "Give documents of at least two tokens.",
        )
    return kept, {reason: n for reason, n in left_out.items() if n}


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    source = iter(documents)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


def _encoded(document: Document, encoding) -> Encoded:
    """Offsets as the tokenizer gives them, except that white space before a token that some tokenizers trim belongs to the token."""
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


def chat_document(subject: Subject, document: Document, settings: CaptureSettings) -> Document:
    """The document in the subject's chat template, with the character spans of the turns that count.

    A document without turns is one turn of the user. With `generate`, the text ends where the assistant begins.
    Raises UsageError for a turn that the template does not reproduce, since its tokens could not be told from the template's.
    """
    turns = document.turns or (("user", document.text),)
    text, spans, at = subject.chat_text(list(turns), answer=bool(settings.generate)), [], 0
    for role, content in turns:
        start = text.find(content.strip(), at)
        if start < 0:
            raise UsageError(
                f"The chat template changes the {role}'s turn in {document.name}.",
                "Take that conversation out of the corpus.",
            )
        at = start + len(content.strip())
        if settings.turns in ("all", role):
            spans.append((start, at))
    return replace(document, text=text, spans=tuple(spans))


# ---------------------------------------------------------------- continuations


def continue_prompts(
    subject: Subject,
    prompts: list[Encoded],
    settings: CaptureSettings,
    folder: Path,
    site: Site,
    seed: int,
) -> list[Encoded]:
    """Each prompt with a continuation by the subject. Done batches are kept in the partial folder, so a killed capture goes on."""
    room = subject.context - settings.generate - 1
    if room < 1:
        raise UsageError(
            f"--generate {settings.generate} leaves no room for a prompt in a context of {subject.context}.",
            "Generate fewer tokens.",
        )
    out = []
    for start in progress(range(0, len(prompts), 32), "generate", unit="batch"):
        batch, kept = prompts[start : start + 32], folder / f"generated-{start:07d}.json"
        if not kept.exists():
            seeds = [seed * 1_000_003 + start + i for i in range(len(batch))]
            made = subject.generate(
                [p.text for p in batch],
                settings.generate,
                site,
                temperature=settings.temperature,
                seeds=seeds,
            )
            write_json(kept, [g.tokens[g.n_prompt :] for g in made])
        out += [
            _continued(subject, p, new, settings.turns != "user")
            for p, new in zip(batch, read_json(kept), strict=True)
        ]
    return out


def _continued(subject: Subject, prompt: Encoded, new: list[int], counts: bool) -> Encoded:
    """The prompt with its generated tokens: their text is what they add when the continuation is decoded one token longer."""
    text, starts, ends = "", [], []
    for i in range(len(new)):
        longer = subject.text_after(prompt.ids[-1:].tolist(), new[: i + 1])
        whole = longer if i + 1 == len(new) else longer.rstrip("\ufffd")
        starts.append(len(prompt.text) + len(text))
        text = whole if len(whole) >= len(text) else text
        ends.append(len(prompt.text) + len(text))
    tail = lambda a, b: np.r_[a, np.array(b, dtype=np.int64)]  # noqa: E731
    counted = np.r_[prompt.counted, np.full(len(new), counts)]
    return Encoded(
        prompt.name,
        prompt.text + text,
        tail(prompt.ids, new),
        tail(prompt.starts, starts),
        tail(prompt.ends, ends),
        counted,
    )

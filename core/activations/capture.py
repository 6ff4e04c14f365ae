"""Stage `capture`: documents -> tokens, rows, splits, and the activations of every kept token.

A row holds tokens of one document only and starts with BOS where the subject has one. If a row
held several documents, attention would cross between them, and activations of a test document
would depend on train text. The first position of a row is an attention sink and is never kept:
that is BOS, or, without a BOS, the row's first token, which the summary counts as left out.

Several runs that differ in their site only are captured in one pass through the subject. While
the subject reads a shard, the shard before it is written into the partial folders; a killed
capture continues with the first shard that is missing. A run that loads a published SAE stores no
activations unless --store yes asks for them. The run of a transcoder stores both of its sites, the
one that is predicted in the folder `out`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.activations.layout import OUT, Layout, write_layout
from core.activations.passes import TextRows
from core.activations.shards import (
    ShardMaker,
    capture_shards,
    forget_choices,
    keep_dtype,
    measure_batch_size,
    read_dtype,
    shard_rows,
)
from core.activations.tokenize import (
    Chat,
    Continuation,
    Encoded,
    continue_prompts,
    encode_documents,
    forget_continuations,
)
from core.errors import UsageError
from core.progress import say
from core.records import SPLITS, Site
from core.run import Run, differences
from core.settings import CaptureSettings, key_table
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.text import splits as corpus
from core.text.documents import read_corpus, text_hash
from core.text.tokens import find_respelled, write_arrays, write_texts
from core.text.word_tree import word_tree, write_word_tree
from core.workers import Engine

SHARD_TOKENS = 131_072  # in a shard file, about
STREAM_TOKENS = 2_000_000  # read of a streamed dataset where --max-tokens does not say
LARGE_GROUP = 0.05  # share of the documents from which a near-duplicate group is told
# bytes on disk of a token without its activation: id, offsets, counted, copied, share of the text
TEXT_BYTES = 19


def capture(run: Run, settings: CaptureSettings, folder: Path) -> dict[str, Any]:
    """Write the unit `capture` of one run into `folder`."""
    return capture_sites({run: folder}, settings)


def check_together(runs: list[Run]) -> None:
    """Raises UsageError when the runs differ in more than their site."""
    for other in runs[1:]:
        ours, theirs = (
            {**key_table(run.settings), "site": "", "site_out": ""} for run in (runs[0], other)
        )
        if changed := differences(ours, theirs):
            raise UsageError(
                f"{other.name} differs from {runs[0].name} in more than its site: "
                f"{'; '.join(changed)}.",
                "Capture it alone.",
            )


@dataclass(frozen=True)
class _Target:
    """What is captured, and where it goes: one place for each site."""

    run: Run  # the first of the runs; the others differ in their site only
    subject: Subject
    folders: list[Path]  # of each run
    sites: list[Site]
    places: list[Path]  # of each site: its run's folder, or `out` in it
    widths: list[int]  # D of each site

    @property
    def dtype(self) -> str:
        return str(self.subject.model.dtype).removeprefix("torch.")


def capture_sites(folders: dict[Run, Path], settings: CaptureSettings) -> dict[str, Any]:
    """Capture the sites of several runs in one pass, each into its folder; the summary of each."""
    target = _open_target(folders)
    context = min(settings.context, target.subject.context)
    if context < 2:
        raise UsageError(
            f"A context of {context} holds no token but the first, which is never kept.",
            "Use --context 2 or more.",
        )
    stored = settings.store == "yes" or settings.store == "auto" and not target.run.settings.sae
    encoded, left_out = _encode(target, settings, stored)
    tables, left_out_tokens = lay_out(encoded, context, target.subject.bos is not None)
    for folder in target.folders:
        write_arrays(folder, tables)
    shards = shard_rows(tables["row_offsets"], SHARD_TOKENS)
    with do_in_background(
        partial(describe, target.folders, tables, encoded, target.subject)
    ) as summary:
        if stored:
            _store_activations(target, tables, shards, settings)
    bounds = [int(tables["row_offsets"][row]) for row, _ in shards] + [len(tables["ids"])]
    for place, width in zip(target.places, target.widths, strict=True):
        write_layout(place, Layout(stored, target.dtype, width, bounds))
    for folder in target.folders:
        forget_continuations(folder)
        forget_choices(folder)
    return summary() | {"left_out": left_out | left_out_tokens, "dtype": target.dtype}


def _open_target(places: dict[Run, Path]) -> _Target:
    """Load the subject; raises UsageError for a site that it does not have, before reading text."""
    run, folders = next(iter(places)), list(places.values())
    subject = load_subject(run, read_dtype(folders) or run.settings.dtype)
    both = {folder: other.settings.site for other, folder in places.items()}
    for other, folder in places.items():
        if other.settings.site_out:
            (folder / OUT).mkdir(exist_ok=True)
            both[folder / OUT] = other.settings.site_out
    sites = [Site.parse(site) for site in both.values()]
    for site in sites:
        subject.module(site)
    hidden = subject.read_sites(sites, torch.tensor([[subject.bos or 0]]))
    widths = [h.shape[-1] for h in hidden]
    target = _Target(run, subject, folders, sites, list(both), widths)
    keep_dtype(folders, target.dtype)
    return target


def _encode(
    target: _Target, settings: CaptureSettings, stored: bool
) -> tuple[list[Encoded], dict[str, int]]:
    """The documents as tokens, with their continuations, and how many were left out and why.

    Raises UsageError when none of the tokens is counted.
    """
    chat = Chat(
        settings.chat,
        settings.turns,
        answer=bool(settings.generate),
        thoughts=settings.thoughts,
        special=settings.special,
    )
    documents = read_corpus(target.run.settings.corpus, settings.cut)
    limit = settings.max_tokens
    if documents.streamed and not limit:
        limit = STREAM_TOKENS
        say(f"A streamed dataset is read up to {limit:,} tokens; --max-tokens sets another limit.")
    encoded, left_out = encode_documents(target.subject, documents, limit, chat)
    say_left_out(encoded, left_out)
    activation_bytes = sum(target.widths) * target.subject.model.dtype.itemsize if stored else 0
    say_size(encoded, settings.generate, activation_bytes + TEXT_BYTES * len(target.folders))
    if settings.generate:
        how = Continuation(
            settings.generate,
            settings.temperature,
            target.run.settings.seed,
            counted=settings.turns != "user",
        )
        encoded = continue_prompts(target.subject, encoded, how, target.folders[0], target.sites[0])
    if not any(d.counted.any() for d in encoded):
        raise UsageError(
            f"No token belongs to a turn of the {settings.turns}.", "Choose other --turns."
        )
    return encoded, left_out


def _store_activations(
    target: _Target,
    tables: dict[str, np.ndarray],
    shards: list[tuple[int, int]],
    settings: CaptureSettings,
) -> None:
    subject = target.subject
    rows = TextRows(tables["ids"], tables["row_offsets"], tables["first"], subject.bos)
    batch_tokens = settings.batch_tokens or measure_batch_size(
        target.folders[0], subject, target.sites, rows
    )
    maker = partial(ShardMaker, target.run.path, target.places, target.sites, shards, batch_tokens)
    engine = Engine.choose(settings, target.run, uses_gpu=True)
    capture_shards(maker, subject, len(shards), len(tables["ids"]), engine)


def say_left_out(encoded: list[Encoded], left_out: dict[str, int]) -> None:
    """Print what was left out and why, and what one document alone cannot do."""
    if left_out:
        say("left out: " + "; ".join(f"{n:,} {reason}" for reason, n in left_out.items()))
    if len(encoded) == 1:
        say(
            "The corpus is one document, so only one split has text. Give more documents, or cut "
            "it at its blank lines: --cut yes."
        )


def say_size(encoded: list[Encoded], generate: int, bytes_a_token: int) -> None:
    """Print what will be written, before the first byte is."""
    n = sum(len(d.ids) + generate for d in encoded)
    say(
        f"{len(encoded)} documents, {'at most ' if generate else ''}{n:,} tokens; "
        f"{n * bytes_a_token / 1e6:,.0f} MB on disk"
    )


# ---------------------------------------------------------------- tokens -> tables


def lay_out(
    encoded: list[Encoded], context: int, has_bos: bool
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Cut documents into rows: (arrays of `core.text.tokens`, reason -> number of tokens left out).

    The array `first` (R,) holds the id of the token in front of each row, -1 where that is BOS.
    """
    size = context - 1 if has_bos else context
    drop = 0 if has_bos else 1
    keep, first = [], []  # keep: (document, first token, number of tokens) of each row
    for number, document in enumerate(encoded):
        for start in range(0, len(document.ids), size):
            length = min(size, len(document.ids) - start) - drop
            if length < 1:
                continue
            keep.append((number, start + drop, length))
            first.append(-1 if has_bos else int(document.ids[start]))

    def gather(name: str) -> np.ndarray:
        return np.concatenate([getattr(encoded[d], name)[s : s + n] for d, s, n in keep])

    row_document = np.array([d for d, _, _ in keep], dtype=np.int64)
    row_lengths = np.array([n for _, _, n in keep], dtype=np.int64)
    document_lengths = np.bincount(row_document, weights=row_lengths, minlength=len(encoded))
    kind = np.uint16 if max(int(d.ids.max()) for d in encoded) < 2**16 else np.uint32
    tables = {
        "ids": gather("ids").astype(kind),
        "starts": gather("starts").astype(np.uint32),
        "ends": gather("ends").astype(np.uint32),
        "counted": gather("counted"),
        "row_offsets": _to_offsets(row_lengths),
        "row_document": row_document,
        "document_offsets": _to_offsets(document_lengths),
        "first": np.array(first, dtype=np.int64),
    }
    total = sum(len(d.ids) for d in encoded)
    return tables, {} if has_bos else {"first tokens of rows (no BOS)": total - len(tables["ids"])}


def _to_offsets(lengths: np.ndarray) -> np.ndarray:
    return np.asarray(np.r_[0, np.cumsum(lengths)], dtype=np.int64)


# ---------------------------------------------------------------- beside the passes


@contextlib.contextmanager
def do_in_background(work: Callable[[], dict[str, Any]]) -> Iterator[Callable[[], dict[str, Any]]]:
    """Context manager: runs `work` in a thread while the block runs and waits for it at the end.

    Yields a function that returns what `work` returned. What `work` raises is raised at the end.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield future.result
        future.result()


def describe(
    folders: list[Path], tables: dict[str, np.ndarray], encoded: list[Encoded], subject: Subject
) -> dict[str, Any]:
    """Write splits, copies, texts and the tree over words; returns the summary of the capture."""
    vocabulary = subject.token_texts()
    texts = [d.text.encode("utf-8", errors="surrogatepass") for d in encoded]
    more = split_documents(tables, encoded)
    more["text_offsets"] = _to_offsets(np.array([len(t) for t in texts]))
    more["respelled"] = find_respelled(tables, (d.text for d in encoded), vocabulary)
    used, counts = np.unique(tables["ids"], return_counts=True)
    words = word_tree(
        [vocabulary[token] for token in used],
        counts,
        subject.embeddings(torch.from_numpy(used.astype(np.int64))).numpy(),
    )
    for folder in folders:
        write_arrays(folder, more)
        write_texts(folder, [d.name for d in encoded], texts, vocabulary)
        write_word_tree(folder, used, words)
    return summarise(tables | more, vocabulary, encoded)


def split_documents(tables: dict[str, np.ndarray], encoded: list[Encoded]) -> dict[str, np.ndarray]:
    """The arrays `group`, `split` (documents,) and `copied` (n,).

    `group` numbers the near-duplicate groups. `copied` marks the tokens that scores leave out:
    those that are copied and those that are not counted.
    """
    group = corpus.group_near_duplicates([d.ids[d.compared] for d in encoded])
    largest = int(np.bincount(group).max())
    if largest > max(1, LARGE_GROUP * len(encoded)):
        say(
            f"{largest:,} of {len(encoded):,} documents are near copies of one another, or linked "
            "by such copies; they are all in one split."
        )
    split = corpus.assign_splits([text_hash(d.text) for d in encoded], group)
    documents = np.split(tables["ids"], tables["document_offsets"][1:-1])
    copied = corpus.mark_copied_tokens(documents, split)
    return {"group": group, "split": split, "copied": copied | ~tables["counted"]}


# ---------------------------------------------------------------- summary


def summarise(
    tables: dict[str, np.ndarray], vocabulary: list[str], encoded: list[Encoded]
) -> dict[str, Any]:
    """The summary of a capture: documents, tokens, lengths, frequent tokens, splits, copies."""
    lengths, split = np.diff(tables["document_offsets"]), tables["split"]
    counts = np.bincount(tables["ids"], minlength=len(vocabulary))
    held_out = (np.repeat(split, lengths) != SPLITS.index("train")) & tables["counted"]
    copied = round(float(tables["copied"][held_out].mean()), 4) if held_out.any() else 0.0
    return {
        "documents": len(encoded),
        "tokens": len(tables["ids"]),
        "characters": sum(len(d.text) for d in encoded),
        "rows": len(tables["row_document"]),
        "document_tokens": {
            q: int(np.quantile(lengths, v))
            for q, v in (("min", 0), ("median", 0.5), ("p90", 0.9), ("max", 1))
        },
        "frequent_tokens": [
            [vocabulary[i], int(counts[i])] for i in np.argsort(-counts, kind="stable")[:20]
        ],
        "tokens_used": int((counts > 0).sum()),
        "vocabulary": len(vocabulary),
        "splits": {
            name: {"documents": int((split == i).sum()), "tokens": int(lengths[split == i].sum())}
            for i, name in enumerate(SPLITS)
        },
        "largest_near_duplicate_group": int(np.bincount(tables["group"]).max()),
        "near_duplicate_documents": int((tables["group"] != np.arange(len(encoded))).sum()),
        "counted": int(tables["counted"].sum()),
        "copied_share_of_held_out": copied,
    }

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
import itertools
from collections.abc import Callable, Iterable, Iterator
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
from core.activations.tables import ARRAYS, Tables, copy_files, write_tables
from core.activations.tokenize import (
    Chat,
    Continuation,
    Encoded,
    continue_prompts,
    encode_documents,
    forget_continuations,
)
from core.errors import UsageError
from core.files import ArrayWriter, create_array, write_array, write_json
from core.progress import say
from core.records import SPLITS, Site
from core.run import Run, differences
from core.settings import CaptureSettings, key_table
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.text import splits as corpus
from core.text.documents import read_corpus
from core.text.spools import Ragged
from core.text.tokens import (
    DOCUMENTS,
    PIECE,
    RESPELLED,
    TEXT,
    VOCABULARY,
    count_tokens,
    find_respelled,
    read_text,
)
from core.text.word_tree import LEAVES, SPANS, word_tree, write_word_tree
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
    tables, left_out = _write_text(target, settings, context, stored)
    shards = shard_rows(tables["row_offsets"], SHARD_TOKENS)
    with do_in_background(partial(describe, target.folders, tables, target.subject)) as summary:
        if stored:
            _store_activations(target, shards, settings)
    bounds = [int(tables["row_offsets"][row]) for row, _ in shards] + [tables.tokens]
    for place, width in zip(target.places, target.widths, strict=True):
        write_layout(place, Layout(stored, target.dtype, width, bounds))
    for folder in target.folders:
        forget_continuations(folder)
        forget_choices(folder)
    return summary() | {"left_out": left_out | tables.left_out, "dtype": target.dtype}


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


def _write_text(
    target: _Target, settings: CaptureSettings, context: int, stored: bool
) -> tuple[Tables, dict[str, int]]:
    """The tables of the documents with their continuations, and how many were left out and why.

    Raises UsageError when none of the tokens is counted.
    """
    chat = Chat(
        settings.chat,
        settings.turns,
        answer=bool(settings.generate),
        thoughts=settings.thoughts,
        special=settings.special,
    )
    folder, subject = target.folders[0], target.subject
    documents = read_corpus(target.run.settings.corpus, settings.cut, folder)
    limit = settings.max_tokens
    if documents.streamed and not limit:
        limit = STREAM_TOKENS
        say(f"A streamed dataset is read up to {limit:,} tokens; --max-tokens sets another limit.")
    encoded: Iterable[Encoded] = encode_documents(subject, documents, limit, chat)
    activation_bytes = sum(target.widths) * subject.model.dtype.itemsize if stored else 0
    bytes_a_token = activation_bytes + TEXT_BYTES * len(target.folders)
    if settings.generate:  # prompts are held: they are few, since continuing them takes so long
        prompts = list(encoded)
        n = sum(len(d.ids) + settings.generate for d in prompts)
        say_size(len(prompts), n, bytes_a_token, at_most=True)
        how = Continuation(
            settings.generate,
            settings.temperature,
            target.run.settings.seed,
            counted=settings.turns != "user",
        )
        encoded = continue_prompts(subject, prompts, how, folder, target.sites[0])
    n_vocabulary = len(subject.token_texts())
    tables = write_tables(folder, encoded, context, subject.bos is not None, n_vocabulary)
    left_out = dict(documents.left_out.counts)
    say_left_out(len(tables.names), left_out)
    if not settings.generate:
        say_size(len(tables.names), tables.read, bytes_a_token)
    if not tables.counted:
        raise UsageError(
            f"No token belongs to a turn of the {settings.turns}.", "Choose other --turns."
        )
    return tables, left_out


def _store_activations(
    target: _Target, shards: list[tuple[int, int]], settings: CaptureSettings
) -> None:
    subject = target.subject
    rows = TextRows.open(target.folders[0], subject.bos)
    batch_tokens = settings.batch_tokens or measure_batch_size(
        target.folders[0], subject, target.sites, rows
    )
    maker = partial(ShardMaker, target.run.path, target.places, target.sites, shards, batch_tokens)
    engine = Engine.choose(settings, target.run, uses_gpu=True)
    capture_shards(maker, subject, len(shards), len(rows.ids), engine)


def say_left_out(n_documents: int, left_out: dict[str, int]) -> None:
    """Print what was left out and why, and what one document alone cannot do."""
    if left_out:
        say("left out: " + "; ".join(f"{n:,} {reason}" for reason, n in left_out.items()))
    if n_documents == 1:
        say(
            "The corpus is one document, so only one split has text. Give more documents, or cut "
            "it at its blank lines: --cut yes."
        )


def say_size(n_documents: int, n_tokens: int, bytes_a_token: int, at_most: bool = False) -> None:
    """Print what will be written, before the first activation is."""
    say(
        f"{n_documents} documents, {'at most ' if at_most else ''}{n_tokens:,} tokens; "
        f"{n_tokens * bytes_a_token / 1e6:,.0f} MB on disk"
    )


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


def describe(folders: list[Path], tables: Tables, subject: Subject) -> dict[str, Any]:
    """Write splits, copies and the tree over words; returns the summary of the capture.

    They are written into the first of `folders`, where the tables are, and copied to the others
    with these.
    """
    vocabulary, folder = subject.token_texts(), folders[0]
    split_documents(tables)
    write_respelled(tables, vocabulary)
    counts = count_tokens(tables["ids"], len(vocabulary))
    used = np.flatnonzero(counts).astype(tables.ids_type)
    words = word_tree(
        [vocabulary[token] for token in used.tolist()],
        counts[used],
        subject.embeddings(torch.from_numpy(used.astype(np.int64))).numpy(),
    )
    write_word_tree(folder, used, words)
    write_json(folder / DOCUMENTS, tables.names)
    write_json(folder / VOCABULARY, vocabulary)
    arrays = [f"{name}.npy" for name in ("ids", *ARRAYS, "group", "split", "copied")]
    more = (RESPELLED, LEAVES, SPANS, DOCUMENTS, VOCABULARY, TEXT)
    copy_files(folder, (*arrays, *more), folders[1:])
    return summarise(tables, vocabulary, counts)


def split_documents(tables: Tables) -> None:
    """Write the arrays `group`, `split` (documents,) and `copied` (n,).

    `group` numbers the near-duplicate groups. `copied` marks the tokens that scores leave out:
    those that are copied and those that are not counted.
    """
    folder, n = tables.folder, len(tables.names)
    group = corpus.group_near_duplicates(tables.compared(), folder)
    largest = int(np.bincount(group).max())
    if largest > max(1, LARGE_GROUP * n):
        say(
            f"{largest:,} of {n:,} documents are near copies of one another, or linked by such "
            "copies; they are all in one split."
        )
    split = corpus.assign_splits(tables.hashes, group)
    write_array(folder / "group.npy", group)
    write_array(folder / "split.npy", split)
    documents, counted = Ragged(tables["ids"], tables["document_offsets"]), tables["counted"]
    with create_array(folder / "copied.npy", tables.tokens, np.bool_) as copied:
        corpus.mark_copied_tokens(documents, split, copied, folder)
        for start in range(0, len(copied), PIECE):
            copied[start : start + PIECE] |= ~counted[start : start + PIECE]


def write_respelled(tables: Tables, vocabulary: list[str]) -> None:
    """Write the ordinals of the tokens whose text in their document is another."""
    offsets, places = tables["document_offsets"], tables["text_offsets"]
    starts, ends, ids = (tables[name] for name in ("starts", "ends", "ids"))
    with ArrayWriter(tables.folder / RESPELLED, np.int64) as writer:
        for number, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
            text, own = read_text(tables.folder, places, number), slice(begin, end)
            found = find_respelled(text, starts[own], ends[own], ids[own], vocabulary)
            writer.append(begin + found)


# ---------------------------------------------------------------- summary


def summarise(tables: Tables, vocabulary: list[str], counts: np.ndarray) -> dict[str, Any]:
    """The summary of a capture: documents, tokens, lengths, frequent tokens, splits, copies.

    `counts` (V,) says how often each token stands in it.
    """
    offsets, split, group = tables["document_offsets"], tables["split"], tables["group"]
    lengths = np.diff(offsets)
    counted, copied = (
        np.array([np.count_nonzero(flags) for flags in Ragged(tables[name], offsets)])
        for name in ("counted", "copied")
    )
    held_out = split != SPLITS.index("train")
    n_held_out = int(counted[held_out].sum())  # counted tokens; those that are not count as copied
    n_copied = int((copied - lengths + counted)[held_out].sum())
    return {
        "documents": len(tables.names),
        "tokens": tables.tokens,
        "characters": tables.characters,
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
        "largest_near_duplicate_group": int(np.bincount(group).max()),
        "near_duplicate_documents": int((group != np.arange(len(group))).sum()),
        "counted": tables.counted,
        "copied_share_of_held_out": round(n_copied / n_held_out, 4) if n_held_out else 0.0,
    }

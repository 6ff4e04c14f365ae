"""Stage `capture`: documents -> tokens, rows, splits, and the activations of every kept token.

A row holds tokens of one document only and starts with BOS where the subject has one. Packing several documents into a row would
let attention cross between them, and then a score document's activations would depend on explain text. The first position of a row
is an attention sink and is never kept: that is BOS, or, without a BOS, the row's first token, which is counted as left out.

Shards are written one after the other into the partial folder; a killed capture goes on with the first shard that is missing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core import corpus
from core.activations import shard_name, write_shard
from core.errors import UsageError
from core.files import read_json, write_array, write_json
from core.progress import progress, say
from core.records import SPLITS, Manifest, Site
from core.run import Run
from core.settings import CaptureSettings
from core.subject import Subject

UNIT, VERSION = "capture", 1
BYTES_BESIDE = 18  # a token, on disk beside its activation: id, offsets, copied, its share of the text


@dataclass(frozen=True)
class Encoded:
    """One document with its token ids, and the character offsets of each token in its text."""

    name: str
    text: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def capture(run: Run, settings: CaptureSettings, redo: bool = False) -> Manifest:
    work = run.begin(UNIT, VERSION, settings, [], redo)
    if work is None:
        return run.manifest(UNIT)
    subject = load_subject(run)
    site = Site.parse(run.settings.site)
    subject.module(site)  # a site that is not there is told before anything is read
    context = min(settings.context, subject.context)
    if context < 2:
        raise UsageError(f"A context of {context} holds no token but the first, which is never kept.", "Use --context 2 or more.")
    encoded, left_out = encode_documents(subject, corpus.read_corpus(run.settings.corpus), settings.tokens)
    n, width = sum(len(d.ids) + settings.generate for d in encoded), subject.read(site, torch.tensor([[subject.bos or 0]])).shape[-1]
    size = n * (width * subject.model.dtype.itemsize + BYTES_BESIDE)
    say(f"{len(encoded)} documents, {'at most ' if settings.generate else ''}{n:,} tokens; {size / 1e6:,.0f} MB on disk")
    if settings.generate:
        encoded = continue_prompts(subject, encoded, settings, work.folder, site, run.settings.seed)
    tables, left_out_tokens = lay_out(encoded, context, subject.bos is not None)
    write_tables(work.folder, tables, encoded, subject)
    rows = row_batches(tables, settings.shard_tokens)
    capture_shards(work.folder, subject, site, tables, rows, settings.batch_tokens)
    bounds = [int(tables["row_offsets"][r]) for r in [*(start for start, _ in rows), len(tables["row_document"])]]
    write_json(work.folder / "shards.json", {"dtype": str(subject.model.dtype).removeprefix("torch."), "width": width, "bounds": bounds})
    for kept in work.folder.glob("generated-*.json"):  # their text and tokens are in the tables
        kept.unlink()
    return work.commit(statistics(tables, subject, encoded, left_out | left_out_tokens))


def load_subject(run: Run) -> Subject:
    """The subject that the run is about."""
    s = run.settings
    return Subject.load(s.subject, s.revision, s.device, s.dtype, s.weights, s.seed)


# ---------------------------------------------------------------- documents -> tokens


def encode_documents(subject: Subject, documents: list[corpus.Document], limit: int) -> tuple[list[Encoded], dict[str, int]]:
    """(documents with their tokens, what was left out and why). Exact copies and documents under two tokens are left out, and all
    that come after `limit` tokens unless it is 0."""
    kept, seen, left_out, total = [], set(), Counter(), 0
    for start in range(0, len(documents), 64):
        batch = documents[start : start + 64]
        found = subject.tokenizer.backend_tokenizer.encode_batch([d.text for d in batch], add_special_tokens=False)
        for document, encoding in zip(batch, found, strict=True):
            key = corpus.text_hash(document.text)
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
    if not kept:
        raise UsageError(f"No document of the corpus can be used: {dict(left_out)}.", "Give documents of at least two tokens.")
    return kept, dict(left_out)


def _encoded(document: corpus.Document, encoding) -> Encoded:
    """Offsets as the tokenizer gives them, except that white space before a token that some tokenizers trim belongs to the token."""
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    gap = np.r_[starts[0], starts[1:] - ends[:-1]]
    for i in np.flatnonzero(gap > 0):
        before = int(ends[i - 1]) if i else 0
        if document.text[before : int(starts[i])].isspace():
            starts[i] = before
    return Encoded(document.name, document.text, np.array(encoding.ids, dtype=np.int64), starts, ends)


def continue_prompts(subject: Subject, prompts: list[Encoded], settings: CaptureSettings, folder: Path, site: Site, seed: int) -> list[Encoded]:
    """Each prompt with a continuation by the subject. Done batches are kept in the partial folder, so a killed capture goes on."""
    room = subject.context - settings.generate - 1
    if room < 1:
        raise UsageError(f"--generate {settings.generate} leaves no room for a prompt in a context of {subject.context}.", "Generate fewer tokens.")
    out = []
    for start in progress(range(0, len(prompts), 32), "generate", unit="batch"):
        batch, kept = prompts[start : start + 32], folder / f"generated-{start:07d}.json"
        if not kept.exists():
            seeds = [seed * 1_000_003 + start + i for i in range(len(batch))]
            made = subject.generate([p.text for p in batch], settings.generate, site, temperature=settings.temperature, seeds=seeds)
            write_json(kept, [g.tokens[g.n_prompt :] for g in made])
        out += [_continued(subject, p, new) for p, new in zip(batch, read_json(kept), strict=True)]
    return out


def _continued(subject: Subject, prompt: Encoded, new: list[int]) -> Encoded:
    """The prompt with its generated tokens: their text is what they add when the continuation is decoded one token longer."""
    text, starts, ends = "", [], []
    for i in range(len(new)):
        longer = subject.tokenizer.decode(new[: i + 1], clean_up_tokenization_spaces=False)
        whole = longer if i + 1 == len(new) else longer.rstrip("\ufffd")
        starts.append(len(prompt.text) + len(text))
        text = whole if len(whole) >= len(text) else text
        ends.append(len(prompt.text) + len(text))
    tail = lambda a, b: np.r_[a, np.array(b, dtype=np.int64)]  # noqa: E731
    return Encoded(prompt.name, prompt.text + text, tail(prompt.ids, new), tail(prompt.starts, starts), tail(prompt.ends, ends))


# ---------------------------------------------------------------- tokens -> tables


def lay_out(encoded: list[Encoded], context: int, has_bos: bool) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The arrays of `corpus.Tokens`, `first` (R,) beside them: the id of the token in front of each row."""
    size = context - 1 if has_bos else context
    drop = 0 if has_bos else 1
    keep, first, row_lengths, row_document = [], [], [], []
    for number, document in enumerate(encoded):
        for start in range(0, len(document.ids), size):
            length = min(size, len(document.ids) - start) - drop
            if length < 1:
                continue
            keep.append((number, start + drop, length))
            first.append(-1 if has_bos else int(document.ids[start]))
            row_lengths.append(length)
            row_document.append(number)
    gather = lambda name: np.concatenate([getattr(encoded[d], name)[s : s + n] for d, s, n in keep])  # noqa: E731
    document_lengths = np.bincount(row_document, weights=row_lengths, minlength=len(encoded)).astype(np.int64)
    offsets = lambda lengths: np.r_[0, np.cumsum(lengths)].astype(np.int64)  # noqa: E731
    kind = np.uint16 if max(int(d.ids.max()) for d in encoded) < 2**16 else np.uint32
    tables = {
        "ids": gather("ids").astype(kind),
        "starts": gather("starts").astype(np.uint32),
        "ends": gather("ends").astype(np.uint32),
        "row_offsets": offsets(row_lengths),
        "row_document": np.array(row_document, dtype=np.int64),
        "document_offsets": offsets(document_lengths),
        "first": np.array(first, dtype=np.int64),
        "text_offsets": offsets([len(d.text.encode("utf-8", errors="surrogatepass")) for d in encoded]),
    }
    documents = [d.ids for d in encoded]
    tables["group"] = corpus.near_duplicate_groups(documents)
    tables["split"] = corpus.assign_splits([corpus.text_hash(d.text) for d in encoded], tables["group"])
    kept = [tables["ids"][a:b] for a, b in zip(tables["document_offsets"][:-1], tables["document_offsets"][1:], strict=True)]
    tables["copied"] = corpus.copied_tokens(kept, tables["split"])
    total = sum(len(d.ids) for d in encoded)
    return tables, {} if has_bos else {"first tokens of rows (no BOS)": total - len(tables["ids"])}


def write_tables(folder: Path, tables: dict[str, np.ndarray], encoded: list[Encoded], subject: Subject) -> None:
    for name, array in tables.items():
        write_array(folder / f"{name}.npy", array)
    write_json(folder / "documents.json", [d.name for d in encoded])
    write_json(folder / "vocabulary.json", subject.token_texts())
    with open(folder / "text.txt", "wb") as handle:
        handle.writelines(d.text.encode("utf-8", errors="surrogatepass") for d in encoded)


# ---------------------------------------------------------------- tokens -> activations


def row_batches(tables: dict[str, np.ndarray], shard_tokens: int) -> list[tuple[int, int]]:
    """(first row, row past the last) of each shard, cut where `shard_tokens` is passed."""
    offsets, shards, start = tables["row_offsets"], [], 0
    while start < len(offsets) - 1:
        end = int(np.searchsorted(offsets, offsets[start] + shard_tokens, side="left"))
        end = min(max(end, start + 1), len(offsets) - 1)
        shards.append((start, end))
        start = end
    return shards


def capture_shards(folder: Path, subject: Subject, site: Site, tables: dict[str, np.ndarray], shards: list[tuple[int, int]], batch_tokens: int) -> None:
    offsets = tables["row_offsets"]
    with progress(total=int(offsets[-1]), label="capture", unit="tok") as bar:
        for index, (start, end) in enumerate(shards):
            if not (folder / shard_name(index)).exists():
                write_shard(folder, index, read_rows(subject, site, tables, start, end, batch_tokens, bar))
            else:
                bar.update(int(offsets[end] - offsets[start]))


def read_rows(subject: Subject, site: Site, tables: dict[str, np.ndarray], start: int, end: int, batch_tokens: int, bar) -> torch.Tensor:
    """Activations (kept tokens of rows start..end, D), rows of like length read together."""
    offsets, ids, first = tables["row_offsets"], tables["ids"], tables["first"]
    lengths = np.diff(offsets[start : end + 1])
    by_length = np.argsort(-lengths, kind="stable") + start
    base, out, at = int(offsets[start]), None, 0
    while at < len(by_length):
        count = max(1, batch_tokens // (int(lengths[by_length[at] - start]) + 1))
        rows = by_length[at : at + count]
        at += count
        tokens = torch.full((len(rows), int(lengths[rows - start].max()) + 1), subject.bos or 0)
        for i, row in enumerate(rows):
            tokens[i, 0] = subject.bos if first[row] < 0 else int(first[row])
            tokens[i, 1 : 1 + int(lengths[row - start])] = torch.from_numpy(ids[offsets[row] : offsets[row + 1]].astype(np.int64))
        hidden = subject.read(site, tokens).cpu()
        if out is None:
            out = torch.empty(int(offsets[end]) - base, hidden.shape[-1], dtype=hidden.dtype)
        for i, row in enumerate(rows):
            out[int(offsets[row]) - base : int(offsets[row + 1]) - base] = hidden[i, 1 : 1 + int(lengths[row - start])]
        bar.update(int(lengths[rows - start].sum()))
    return out


# ---------------------------------------------------------------- summary


def statistics(tables: dict[str, np.ndarray], subject: Subject, encoded: list[Encoded], left_out: dict) -> dict:
    """Summary statistics of the training data: documents, tokens, lengths, frequent tokens, splits, what was left out and why."""
    lengths, split = np.diff(tables["document_offsets"]), tables["split"]
    counts = np.bincount(tables["ids"], minlength=subject.n_vocabulary)
    texts = subject.token_texts()
    held = np.repeat(split, lengths) != SPLITS.index("explain")
    splits = {name: {"documents": int((split == i).sum()), "tokens": int(lengths[split == i].sum())} for i, name in enumerate(SPLITS)}
    return {
        "documents": len(encoded),
        "tokens": len(tables["ids"]),
        "characters": sum(len(d.text) for d in encoded),
        "rows": len(tables["row_document"]),
        "document_tokens": {q: int(np.quantile(lengths, v)) for q, v in (("min", 0), ("median", 0.5), ("p90", 0.9), ("max", 1))},
        "frequent_tokens": [[texts[i], int(counts[i])] for i in np.argsort(-counts, kind="stable")[:20]],
        "tokens_used": int((counts > 0).sum()),
        "vocabulary": subject.n_vocabulary,
        "splits": splits,
        "near_duplicate_documents": int((tables["group"] != np.arange(len(encoded))).sum()),
        "copied_share_of_held_out": round(float(tables["copied"][held].mean()), 4) if held.any() else 0.0,
        "left_out": left_out,
        "dtype": str(subject.model.dtype).removeprefix("torch."),
    }

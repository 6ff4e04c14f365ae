"""Stage `capture`: documents -> tokens, rows, splits, and the activations of every kept token.

A row holds tokens of one document only and starts with BOS where the subject has one. Packing several documents into a row would
let attention cross between them, and then a test document's activations would depend on train text. The first position of a row
is an attention sink and is never kept: that is BOS, or, without a BOS, the row's first token, which is counted as left out.

Several runs that differ in their site only are captured in one pass through the subject. Shards are written one after the other into
the partial folders, behind the pass that makes the next; a killed capture goes on with the first shard that is missing. A run that
loads a published SAE stores no activations unless it is told to.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from core.activations.passes import Reader, TextRows, read_rows
from core.activations.store import shard_name, write_shard
from core.activations.tokenize import Encoded, continue_prompts, encode_documents
from core.errors import UsageError
from core.files import read_json, write_array, write_json
from core.parallel import each_shard
from core.progress import progress, say
from core.records import SPLITS, Manifest, Site
from core.run import Run, Work, differences
from core.settings import CaptureSettings, key_table
from core.subject.subject import Subject, load_subject
from core.text import splits as corpus
from core.text.documents import read_corpus, text_hash
from core.text.word_tree import word_tree, write_fields

UNIT, VERSION = "capture", 3
BYTES_BESIDE = 19  # a token, on disk beside its activation: id, offsets, counted, copied, its share of the text


def capture(run: Run, settings: CaptureSettings, redo: bool = False) -> Manifest:
    return capture_together([run], settings, redo)[0]


def capture_together(
    runs: list[Run], settings: CaptureSettings, redo: bool = False
) -> list[Manifest]:
    """Capture the sites of all `runs` in one pass; raises UsageError when they differ in more than their site."""
    for other in runs[1:]:
        ours, theirs = ({**key_table(run.settings), "site": ""} for run in (runs[0], other))
        if changed := differences(ours, theirs):
            raise UsageError(
                f"{other.name} differs from {runs[0].name} in more than its site: {'; '.join(changed)}.",
                "Capture it alone.",
            )
    works = {run: work for run in runs if (work := run.begin(UNIT, VERSION, settings, [], redo))}
    if works:
        _capture(works, settings)
    return [run.manifest(UNIT) for run in runs]


def _capture(works: dict[Run, Work], settings: CaptureSettings) -> None:
    (first, *_), folders = works, [work.folder for work in works.values()]
    subject, sites = load_subject(first), [Site.parse(run.settings.site) for run in works]
    for site in sites:  # a site that is not there is told before anything is read
        subject.module(site)
    context = min(settings.context, subject.context)
    if context < 2:
        raise UsageError(
            f"A context of {context} holds no token but the first, which is never kept.",
            "Use --context 2 or more.",
        )
    encoded, left_out = encode_documents(subject, read_corpus(first.settings.corpus), settings)
    stored = settings.store == "yes" or settings.store == "auto" and not first.settings.sae
    widths = [h.shape[-1] for h in subject.read_sites(sites, torch.tensor([[subject.bos or 0]]))]
    say_size(
        encoded,
        settings.generate,
        sum(widths) * subject.model.dtype.itemsize * stored + BYTES_BESIDE * len(works),
    )
    if settings.generate:
        encoded = continue_prompts(
            subject, encoded, settings, folders[0], sites[0], first.settings.seed
        )
    if not any(d.counted.any() for d in encoded):
        raise UsageError(
            f"No token belongs to a turn of the {settings.turns}.", "Choose other --turns."
        )
    tables, left_out_tokens = lay_out(encoded, context, subject.bos is not None)
    for folder in folders:
        write_tables(folder, tables)
    shards, summary = shard_rows(tables["row_offsets"], settings.shard_tokens), {}
    with in_background(lambda: summary.update(describe(folders, tables, encoded, subject))):
        if stored:
            rows = TextRows(tables["ids"], tables["row_offsets"], tables["first"], subject.bos)
            batch_tokens = settings.batch_tokens or fastest_batch(folders[0], subject, sites, rows)
            maker = partial(ShardMaker, first.path, folders, sites, shards, batch_tokens)
            capture_shards(maker, subject, len(shards), len(tables["ids"]), settings.workers)
    bounds = [
        int(tables["row_offsets"][r])
        for r in [*(start for start, _ in shards), len(tables["row_document"])]
    ]
    for folder, width in zip(folders, widths, strict=True):
        write_json(
            folder / "shards.json",
            {
                "stored": stored,
                "dtype": str(subject.model.dtype).removeprefix("torch."),
                "width": width,
                "bounds": bounds,
            },
        )
        for kept in [
            *folder.glob("generated-*.json"),
            *folder.glob(".batch.json"),
        ]:  # needed no more
            kept.unlink()
    for work in works.values():
        work.commit(
            summary
            | {
                "left_out": left_out | left_out_tokens,
                "dtype": str(subject.model.dtype).removeprefix("torch."),
            }
        )


def say_size(encoded: list[Encoded], generate: int, bytes_a_token: int) -> None:
    """Say what is coming before the first byte is written."""
    n = sum(len(d.ids) + generate for d in encoded)
    say(
        f"{len(encoded)} documents, {'at most ' if generate else ''}{n:,} tokens; {n * bytes_a_token / 1e6:,.0f} MB on disk"
    )


# ---------------------------------------------------------------- tokens -> tables


def lay_out(
    encoded: list[Encoded], context: int, has_bos: bool
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
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
    document_lengths = np.bincount(
        row_document, weights=row_lengths, minlength=len(encoded)
    ).astype(np.int64)
    offsets = lambda lengths: np.r_[0, np.cumsum(lengths)].astype(np.int64)  # noqa: E731
    kind = np.uint16 if max(int(d.ids.max()) for d in encoded) < 2**16 else np.uint32
    tables = {
        "ids": gather("ids").astype(kind),
        "starts": gather("starts").astype(np.uint32),
        "ends": gather("ends").astype(np.uint32),
        "counted": gather("counted"),
        "row_offsets": offsets(row_lengths),
        "row_document": np.array(row_document, dtype=np.int64),
        "document_offsets": offsets(document_lengths),
        "first": np.array(first, dtype=np.int64),
    }
    total = sum(len(d.ids) for d in encoded)
    return tables, {} if has_bos else {"first tokens of rows (no BOS)": total - len(tables["ids"])}


def write_tables(folder: Path, tables: dict[str, np.ndarray]) -> None:
    for name, array in tables.items():
        write_array(folder / f"{name}.npy", array)


# ---------------------------------------------------------------- what no pass waits for


@contextlib.contextmanager
def in_background(work: Callable[[], None]):
    """Do `work` in a thread while the block runs; what it raises is raised at the block's end."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def describe(
    folders: list[Path], tables: dict[str, np.ndarray], encoded: list[Encoded], subject: Subject
) -> dict:
    """Write splits, copies, texts and the tree of words; the summary of all."""
    texts, parts = (
        subject.token_texts(),
        [d.text.encode("utf-8", errors="surrogatepass") for d in encoded],
    )
    more = split_up(tables, encoded) | {
        "text_offsets": np.r_[0, np.cumsum([len(p) for p in parts])].astype(np.int64)
    }
    used, counts = np.unique(tables["ids"], return_counts=True)
    fields = word_tree(
        [texts[token] for token in used],
        counts,
        subject.embeddings(torch.from_numpy(used.astype(np.int64))).numpy(),
    )
    for folder in folders:
        write_tables(folder, more)
        write_json(folder / "documents.json", [d.name for d in encoded])
        write_json(folder / "vocabulary.json", texts)
        with open(folder / "text.txt", "wb") as handle:
            handle.writelines(parts)
        write_fields(folder, used, fields)
    return statistics(tables | more, texts, encoded)


def split_up(tables: dict[str, np.ndarray], encoded: list[Encoded]) -> dict[str, np.ndarray]:
    """Near-duplicate group and split of each document; whether each token is left out of scores, being copied or not counted."""
    group = corpus.near_duplicate_groups([d.ids for d in encoded])
    split = corpus.assign_splits([text_hash(d.text) for d in encoded], group)
    copied = corpus.copied_tokens(np.split(tables["ids"], tables["document_offsets"][1:-1]), split)
    return {"group": group, "split": split, "copied": copied | ~tables["counted"]}


# ---------------------------------------------------------------- tokens -> activations


def shard_rows(offsets: np.ndarray, shard_tokens: int) -> list[tuple[int, int]]:
    """(first row, row past the last) of each shard, cut where `shard_tokens` is passed; `offsets` (R + 1,) are those of the rows."""
    shards, start = [], 0
    while start < len(offsets) - 1:
        end = int(np.searchsorted(offsets, offsets[start] + shard_tokens, side="left"))
        end = min(max(end, start + 1), len(offsets) - 1)
        shards.append((start, end))
        start = end
    return shards


def fastest_batch(folder: Path, subject: Subject, sites: list[Site], rows: TextRows) -> int:
    """Tokens a pass with which the subject reads some rows fastest, measured once and kept in the partial folder: in bfloat16 the size
    of a pass shows in the last bits, and a resumed capture should go on as it began."""
    kept = folder / ".batch.json"
    if kept.exists():
        return read_json(kept)["batch_tokens"]
    sizes = (8192, 32_768, 131_072) if subject.device.type == "cuda" else (1024, 2048, 4096, 8192)
    sample = np.arange(max(1, int(np.searchsorted(rows.offsets, sizes[-1])) - 1))
    seconds = {}
    for size in (sizes[0], *sizes):  # the first one twice: it also warms up
        start = time.perf_counter()
        read_rows(subject, sites, rows, sample, size)
        seconds[size] = time.perf_counter() - start
    best = min(seconds, key=seconds.get)
    write_json(kept, {"batch_tokens": best, "seconds": seconds})
    say(
        f"{best} tokens a pass: "
        + ", ".join(
            f"{size}: {rows.offsets[sample[-1] + 1] / s:,.0f} tok/s" for size, s in seconds.items()
        )
    )
    return best


class ShardMaker:
    """Reads shards of text at every site and writes them where they are missing. A context manager."""

    def __init__(
        self,
        run: Path,
        folders: list[Path],
        sites: list[Site],
        shards: list[tuple[int, int]],
        batch_tokens: int,
        subject: Subject | None = None,
    ):
        subject = subject or load_subject(Run.open(str(run)))
        ids, offsets, first = (
            np.load(folders[0] / f"{name}.npy") for name in ("ids", "row_offsets", "first")
        )
        self.passes = Reader(
            subject, sites, TextRows(ids, offsets, first, subject.bos), batch_tokens
        )
        self.folders, self.sites, self.shards, self.offsets = folders, sites, shards, offsets

    def __enter__(self) -> ShardMaker:
        self.passes.__enter__()
        return self

    def __exit__(self, *raised) -> None:
        self.passes.__exit__(*raised)

    def start(self, number: int) -> Callable[[], list[Callable[[], None]]]:
        """Begin to read shard `number`; what it gives waits for that and returns what writes the files that are missing."""
        missing = [
            (folder, site)
            for folder, site in zip(self.folders, self.sites, strict=True)
            if not (folder / shard_name(number)).exists()
        ]
        if not missing:
            return list
        found = self.passes.start(np.arange(*self.shards[number]), [site for _, site in missing])
        return lambda: [
            partial(write_shard, folder, number, h)
            for (folder, _), h in zip(missing, found(), strict=True)
        ]

    def n_tokens(self, number: int) -> int:
        start, end = self.shards[number]
        return int(self.offsets[end] - self.offsets[start])

    def make(self, number: int) -> int:
        """Make shard `number`; the number of its tokens."""
        with self:
            for write in self.start(number)():
                write()
        return self.n_tokens(number)


def capture_shards(
    maker: Callable[..., ShardMaker], subject: Subject, n_shards: int, n_tokens: int, workers: int
) -> None:
    """Make every shard: in `workers` processes, or in this one, where one shard is written and another begun while one is read."""
    with progress(total=n_tokens, label="capture", unit="tok") as bar:
        if workers > 1:
            each_shard(range(n_shards), maker, ShardMaker.make, workers, bar.update)
            return
        with maker(subject=subject) as one, ThreadPoolExecutor(1) as writer:
            writing: list[Future] = []
            reading = one.start(0)
            for number in range(n_shards):
                following = one.start(number + 1) if number + 1 < n_shards else list
                jobs, reading = reading(), following
                for done in writing:  # no more than one shard waits to be written
                    done.result()
                writing = [writer.submit(job) for job in jobs]
                bar.update(one.n_tokens(number))
            for done in writing:
                done.result()


# ---------------------------------------------------------------- summary


def statistics(tables: dict[str, np.ndarray], texts: list[str], encoded: list[Encoded]) -> dict:
    """Summary statistics of the training data: documents, tokens, lengths, frequent tokens, splits."""
    lengths, split = np.diff(tables["document_offsets"]), tables["split"]
    counts = np.bincount(tables["ids"], minlength=len(texts))
    held = np.repeat(split, lengths) != SPLITS.index("train")
    splits = {
        name: {"documents": int((split == i).sum()), "tokens": int(lengths[split == i].sum())}
        for i, name in enumerate(SPLITS)
    }
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
            [texts[i], int(counts[i])] for i in np.argsort(-counts, kind="stable")[:20]
        ],
        "tokens_used": int((counts > 0).sum()),
        "vocabulary": len(texts),
        "splits": splits,
        "near_duplicate_documents": int((tables["group"] != np.arange(len(encoded))).sum()),
        "counted": int(tables["counted"].sum()),
        "copied_share_of_held_out": round(
            float(tables["copied"][held & tables["counted"]].mean()), 4
        )
        if (held & tables["counted"]).any()
        else 0.0,
    }

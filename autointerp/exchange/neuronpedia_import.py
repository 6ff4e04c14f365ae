"""Other people's explanations of this run's features as a label set, which every scorer scores like our own.

Reads a folder of a source as neuronpedia publishes it, explanations/ (or explanations-LLM/) and activations/ with batch-N.jsonl.gz or
.jsonl, and folders that `export --to neuronpedia` wrote. Nothing of it is trusted: rows that cannot be read are counted.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UsageError
from core.files import canonical_hash, sha256, write_table
from core.firings.postings import Postings
from core.records import Failure, Label, Manifest
from core.run import Run

VERSION = 1
RESERVED = ("rules", "hand")


def import_neuronpedia(run: Run, folder: Path, name: str) -> Manifest:
    """Commit label/NAME: one label for each feature that has an explanation (the first one found; all are kept in explanations.parquet),
    a Failure for each live feature without one, and the source's own activations.

    Raises UsageError when there are no explanations, or they are of features that this run's SAE does not have.
    """
    if (
        name in RESERVED
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        or name.startswith((".", "llm-"))
    ):
        raise UsageError(
            f"{name!r} cannot be the name of an imported set.",
            "Use letters, digits and dashes: --set neuronpedia.",
        )
    files = {
        kind: sorted(p for d in folder.rglob(f"{kind}*") if d.is_dir() for p in d.glob("*.jsonl*"))
        for kind in ("explanations", "activations")
    }
    skipped: Counter = Counter()
    explanations = list(explanation_rows(files["explanations"], skipped))
    if not explanations:
        raise UsageError(
            f"There are no explanations under {folder}.",
            "Give the folder of a source: it holds explanations/batch-0.jsonl.gz.",
        )
    postings = Postings(run.folder("index"), run.folder("capture"))
    beyond = max(e["feature"] for e in explanations)
    if beyond >= postings.n_features:
        raise UsageError(
            f"The source has a feature {beyond}; this run has features 0 to {postings.n_features - 1}.",
            "Import into a run on the same autoencoder.",
        )
    decides = {
        "source": canonical_hash(
            {str(p.relative_to(folder)): sha256(p) for paths in files.values() for p in paths}
        )
    }
    work = run.begin(
        f"label/{name}", VERSION, decides, ["index"], redo=run.find(f"label/{name}") is not None
    )
    table = pd.DataFrame(explanations)
    first = table.drop_duplicates("feature").sort_values("feature")
    labels = [
        Label(int(r.feature), name, r.description, float("nan"), r.typeName)
        for r in first.itertuples()
    ]
    live = np.flatnonzero(postings.n_firings > 0)
    failures = [
        Failure("import", int(f), "none", "the source has no explanation of it")
        for f in sorted(set(live.tolist()) - set(first["feature"]))
    ]
    write_table(work.folder / "labels.parquet", as_table(labels, Label))
    write_table(work.folder / "failures.parquet", as_table(failures, Failure))
    write_table(work.folder / "explanations.parquet", table)
    activations = list(activation_rows(files["activations"], postings.n_features, skipped))
    write_table(
        work.folder / "activations.parquet",
        pd.DataFrame(
            activations, columns=["feature", "tokens", "values", "binMin", "binMax", "binContains"]
        ),
    )
    return work.commit({
        "labels": len(labels), "live": len(live), "explanations": len(table), "activations": len(activations), "skipped": dict(skipped),
        "models": sorted(set(table["explanationModelName"].dropna())), "failures": dict(Counter(f.kind for f in failures)),
    })  # fmt: skip


def as_table(records: list, kind) -> pd.DataFrame:
    return pd.DataFrame([asdict(r) for r in records], columns=list(kind.__annotations__))


def explanation_rows(paths: list[Path], skipped: Counter) -> Iterator[dict]:
    for row in rows_of(paths, skipped):
        text = row.get("description")
        if not isinstance(text, str) or not text.strip():
            skipped["explanation without a text"] += 1
            continue
        plain = {
            k: row.get(k) if isinstance(row.get(k), str) else None
            for k in ("id", "modelId", "layer", "authorId", "explanationModelName")
        }
        yield {
            "feature": row["feature"],
            "description": text.strip(),
            "typeName": str(row.get("typeName") or ""),
            **plain,
        }


def activation_rows(paths: list[Path], n_features: int, skipped: Counter) -> Iterator[dict]:
    for row in rows_of(paths, skipped):
        tokens, values = row.get("tokens"), row.get("values")
        fits = (
            isinstance(tokens, list)
            and isinstance(values, list)
            and len(tokens) == len(values)
            and row["feature"] < n_features
        )
        if (
            not fits
            or not all(isinstance(t, str) for t in tokens)
            or not all(isinstance(v, (int, float)) for v in values)
        ):
            skipped["activation that cannot be read"] += 1
            continue
        number = lambda name, row=row: (
            float(row[name]) if isinstance(row.get(name), (int, float)) else float("nan")
        )
        bins = {name: number(name) for name in ("binMin", "binMax", "binContains")}
        yield {
            "feature": row["feature"],
            "tokens": tokens,
            "values": [float(v) for v in values],
            **bins,
        }


def rows_of(paths: list[Path], skipped: Counter) -> Iterator[dict]:
    """The objects of JSONL files with their `index`, text or number, as the number `feature`."""
    for path in paths:
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
                lines = (
                    handle.read().decode("utf-8", "replace").split("\n")
                )  # and not splitlines: a token may be U+2028
        except (OSError, EOFError, zlib.error):
            skipped["file that cannot be read"] += 1
            continue
        for line in filter(None, map(str.strip, lines)):
            try:
                row = json.loads(line)
                yield row | {"feature": index_of(row["index"])}
            except (ValueError, KeyError, TypeError):
                skipped["row that cannot be read"] += 1


def index_of(value) -> int:
    """A feature's number from "12" or 12; raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).isdecimal():
        raise ValueError(value)
    return int(value)

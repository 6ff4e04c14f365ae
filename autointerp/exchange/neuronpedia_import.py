"""Import explanations from neuronpedia as a label set, which every scorer scores like our own.

Reads the folder of a source as neuronpedia publishes it: explanations/ (or explanations-LLM/) and
activations/ with batch-N.jsonl.gz or .jsonl; also folders that `export --to neuronpedia` wrote.
Nothing in them is trusted: rows that cannot be read are skipped and counted.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autointerp.labels.unit import HAND, RULES, unit_of, write_imported, write_labels
from core.errors import UsageError
from core.files import canonical_hash, sha256
from core.firings.postings import Postings
from core.records import Failure, Label, Manifest
from core.run import Run

VERSION = 1
RESERVED = (RULES, HAND)
BOUNDS = ("binMin", "binMax", "binContains")
EXPLAINED = (
    "id",
    "modelId",
    "layer",
    "authorId",
    "explanationModelName",
)  # kept where they are text
Row = dict[str, Any]


def import_neuronpedia(run: Run, folder: Path, name: str) -> Manifest:
    """Commit the label set `name` from the source in `folder`.

    The first explanation of a feature becomes its label; the unit also keeps all explanations and
    the source's own activations. Each alive feature without an explanation is a Failure.

    Raises UsageError when `name` cannot be the name of an imported set, when there are no
    explanations, or when they are of features that this run's SAE does not have.
    """
    check_name(name)
    files = {kind: find_files(folder, kind) for kind in ("explanations", "activations")}
    skipped: Counter[str] = Counter()
    explanations = list(explanation_rows(files["explanations"], skipped))
    if not explanations:
        raise UsageError(
            f"There are no explanations under {folder}.",
            "Give the folder of a source: it holds explanations/batch-0.jsonl.gz.",
        )
    postings = Postings(run.folder("index"), run.folder("capture"))
    check_features(explanations, postings.n_features)
    paths = [path for part in files.values() for path in part]
    hashes = {str(path.relative_to(folder)): sha256(path) for path in paths}
    unit = unit_of(name)
    settings = {"source": canonical_hash(hashes)}
    work = run.begin(unit, VERSION, settings, ["index"], redo=run.find(unit) is not None)
    if work is None:
        return run.manifest(unit)
    table = pd.DataFrame(explanations)
    labels, failures = make_labels(table, name, postings.n_firings > 0)
    write_labels(work.folder, labels, failures)
    activations = list(activation_rows(files["activations"], postings.n_features, skipped))
    columns = ["feature", "tokens", "values", *BOUNDS]
    write_imported(work.folder, table, pd.DataFrame(activations, columns=columns))
    return work.commit(
        {
            "labels": len(labels),
            "alive": int((postings.n_firings > 0).sum()),
            "explanations": len(table),
            "activations": len(activations),
            "skipped": dict(skipped),
            "models": sorted(set(table["explanationModelName"].dropna())),
            "failures": dict(Counter(f.kind for f in failures)),
        }
    )


def check_name(name: str) -> None:
    """Raise UsageError when `name` cannot be the name of an imported set."""
    plain = name.translate(str.maketrans("", "", "-_.")).isalnum()
    if name in RESERVED or not plain or name.startswith((".", "llm-")):
        raise UsageError(
            f"{name!r} cannot be the name of an imported set.",
            "Use letters, digits and dashes: --labels neuronpedia.",
        )


def check_features(explanations: list[Row], n_features: int) -> None:
    """Raise UsageError when an explanation is of a feature beyond the run's."""
    largest = max(row["feature"] for row in explanations)
    if largest >= n_features:
        raise UsageError(
            f"The source has a feature {largest}; this run has features 0 to {n_features - 1}.",
            "Import into a run on the same autoencoder.",
        )


def make_labels(
    table: pd.DataFrame, name: str, alive: np.ndarray
) -> tuple[list[Label], list[Failure]]:
    """Return a label for each feature in `table`, and a failure for every other that is `alive`."""
    first = table.drop_duplicates("feature").sort_values("feature")
    rows: list[Any] = first.to_dict("records")
    labels = [
        Label(row["feature"], name, row["description"], math.nan, row["typeName"]) for row in rows
    ]
    left = sorted(set(np.flatnonzero(alive).tolist()) - set(first["feature"]))
    message = "the source has no explanation of it"
    return labels, [Failure("import", feature, "none", message) for feature in left]


# ---------------------------------------------------------------- read the source


def find_files(folder: Path, kind: str) -> list[Path]:
    """Return the JSONL files in all folders whose name begins with `kind`."""
    folders = (path for path in folder.rglob(f"{kind}*") if path.is_dir())
    return sorted(path for part in folders for path in part.glob("*.jsonl*"))


def explanation_rows(paths: list[Path], skipped: Counter[str]) -> Iterator[Row]:
    """Yield the explanations that have a text."""
    for row in read_rows(paths, skipped):
        text = row.get("description")
        if not isinstance(text, str) or not text.strip():
            skipped["explanation without a text"] += 1
            continue
        texts = {k: row.get(k) if isinstance(row.get(k), str) else None for k in EXPLAINED}
        yield {
            "feature": row["feature"],
            "description": text.strip(),
            "typeName": str(row.get("typeName") or ""),
            **texts,
        }


def activation_rows(paths: list[Path], n_features: int, skipped: Counter[str]) -> Iterator[Row]:
    """Yield the activations that have as many numbers as tokens and belong to a feature."""
    for row in read_rows(paths, skipped):
        tokens: Any = row.get("tokens")
        values: Any = row.get("values")
        if row["feature"] >= n_features or not is_snippet(tokens, values):
            skipped["activation that cannot be read"] += 1
            continue
        yield {
            "feature": row["feature"],
            "tokens": tokens,
            "values": [float(v) for v in values],
            **{name: to_number(row.get(name)) for name in BOUNDS},
        }


def is_snippet(tokens: Any, values: Any) -> bool:
    """Whether these are lists of one length, of texts and of numbers."""
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        return False
    texts = all(isinstance(t, str) for t in tokens)
    return texts and all(isinstance(v, (int, float)) for v in values)


def to_number(value: Any) -> float:
    """Return a number as it is, NaN for anything else."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def read_rows(paths: list[Path], skipped: Counter[str]) -> Iterator[Row]:
    """Yield the objects of JSONL files, with their `index` (text or number) as int `feature`."""
    for path in paths:
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
                text = handle.read().decode("utf-8", "replace")
        except (OSError, EOFError, zlib.error):
            skipped["file that cannot be read"] += 1
            continue
        for line in filter(None, map(str.strip, text.split("\n"))):  # a token may be U+2028
            try:
                row = json.loads(line)
                yield row | {"feature": parse_index(row["index"])}
            except (ValueError, KeyError, TypeError):
                skipped["row that cannot be read"] += 1


def parse_index(value: Any) -> int:
    """Return a feature's number from "12" or 12; raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).isdecimal():
        raise ValueError(value)
    return int(value)

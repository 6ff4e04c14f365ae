"""Export all that is known of every feature as a table: CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from autointerp.card import Card
from autointerp.exchange.neuronpedia import SNIPPETS
from autointerp.features import Features
from autointerp.scores.unit import COVERAGE
from core.files import replace_file
from core.progress import progress

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so
STATS = ["feature", "status", "density", "n_firings", "n_documents", "max"]
COLUMNS = [
    *STATS, "group", "title", "x", "y", "promoted",
    "set", "label", COVERAGE, "gain", "precision", "confidence",
]  # fmt: skip
PROMOTED = 10  # tokens that a row names, as a JSON list
ENDINGS = {"": "value", "_low": "low", "_high": "high", "_null": "null"}  # column ending -> field


def export_table(features: Features, folder: Path, kind: str) -> list[Path]:
    """Write one table into `folder` and return its path.

    `kind` csv writes features.csv, a row for each feature and label set; jsonl writes
    features.jsonl, a whole card a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"features.{kind}"
    counts = SNIPPETS if kind == "jsonl" else {}
    total = features.evidence.n_features
    cards = progress(features.cards.walk(counts), "export", total=total, unit="feat")
    with (
        replace_file(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as handle,
    ):
        if kind == "jsonl":
            write_lines(handle, cards)
        else:
            places = features.table()[["x", "y"]].to_numpy().tolist()
            write_csv(handle, cards, sorted(set(features.scores["kind"])), places)
    return [path]


def write_lines(handle: TextIO, cards: Iterable[Card]) -> None:
    """Write a card a line, as JSON."""
    for card in cards:
        handle.write(json.dumps(card.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(
    handle: TextIO, cards: Iterable[Card], kinds: list[str], places: list[list[float]]
) -> None:
    """Write a row for each feature and label set.

    `kinds` are the kinds of score, `places` (F, 2) where each feature stands on the map, NaN for
    one without a place.
    """
    endings = (kind + ending for kind in kinds for ending in ENDINGS)
    names = list(dict.fromkeys([*COLUMNS, *endings]))
    writer = csv.DictWriter(handle, names)
    writer.writeheader()
    for card in cards:
        x, y = (None if value != value else round(value, 5) for value in places[card.feature])
        rows = (row | {"x": x, "y": y} for row in csv_rows(card))
        writer.writerows({k: quote_formula(v) for k, v in row.items()} for row in rows)


def csv_rows(card: Card) -> Iterator[dict[str, Any]]:
    """Yield the row of each label; one row without a label where there is none."""
    cluster = card.cluster or {"group": None, "title": None}
    tokens = json.dumps([row["token"] for row in card.promoted[:PROMOTED]], ensure_ascii=False)
    base = {name: getattr(card, name) for name in STATS} | cluster | {"promoted": tokens}
    for label in card.labels or [{"set": None, "text": None, "confidence": None, "scores": []}]:
        row = base | {
            "set": label["set"],
            "label": label["text"],
            "confidence": label["confidence"],
        }
        for score in label["scores"]:
            if score["kind"] == COVERAGE:
                gains = [gain for gain in score["gains"].values() if gain is not None]
                row |= {"precision": score["precision"], "gain": min(gains, default=None)}
            row |= {score["kind"] + ending: score[key] for ending, key in ENDINGS.items()}
        yield row


def quote_formula(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would compute; it then shows the text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

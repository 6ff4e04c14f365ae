"""All that is known of every feature as a table: CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from autointerp.exchange.neuronpedia import SNIPPETS
from autointerp.features import Features
from core.files import replacing
from core.progress import progress

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins so


def export_table(features: Features, folder: Path, kind: str) -> list[Path]:
    """features.csv, one row for each feature and label set, or features.jsonl, one whole card a line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"features.{kind}"
    cards = progress(features.cards(SNIPPETS if kind == "jsonl" else {}), "export", unit="feat")
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as handle,
    ):
        if kind == "jsonl":
            handle.writelines(
                json.dumps(card, ensure_ascii=False, allow_nan=False) + "\n" for card in cards
            )
        else:
            kinds = sorted(set(features.scores["kind"]))
            columns = [
                "feature",
                "status",
                "density",
                "n_firings",
                "n_documents",
                "max",
                "group",
                "title",
                "set",
                "label",
                "confidence",
            ]
            writer = csv.DictWriter(
                handle,
                [*columns, *(f"{k}{end}" for k in kinds for end in ("", "_low", "_high", "_null"))],
            )
            writer.writeheader()
            writer.writerows(
                {k: safe(v) for k, v in row.items()} for card in cards for row in csv_rows(card)
            )
    return [path]


def csv_rows(card: dict) -> Iterator[dict]:
    group = card["cluster"] or {"group": None, "title": None}
    base = {
        k: card[k] for k in ("feature", "status", "density", "n_firings", "n_documents", "max")
    } | group
    for label in card["labels"] or [{"set": None, "text": None, "confidence": None, "scores": []}]:
        row = base | {
            "set": label["set"],
            "label": label["text"],
            "confidence": label["confidence"],
        }
        for score in label["scores"]:
            row |= {
                score["kind"] + end: score[key]
                for end, key in (
                    ("", "value"),
                    ("_low", "low"),
                    ("_high", "high"),
                    ("_null", "null"),
                )
            }
        yield row


def safe(value):
    """A text that a spreadsheet would take for a formula with an apostrophe in front, which it shows as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

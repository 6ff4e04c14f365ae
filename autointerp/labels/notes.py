"""What people wrote about features: append-only, never changed by a stage."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from core.errors import UsageError


def read_notes(run_folder: Path) -> list[dict]:
    """What people wrote, oldest first: feature, text, time. A half-written last line is passed over."""
    path = run_folder / "notes.jsonl"
    if not path.exists():
        return []
    notes = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            notes.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return notes


def add_note(run_folder: Path, feature: int, text: str) -> None:
    """Append a note; nothing ever changes one."""
    if not text.strip():
        raise UsageError(
            "The note is empty.", 'Write what you think: note RUN 1234 "what I think it is"'
        )
    with open(run_folder / "notes.jsonl", "a", encoding="utf-8") as handle:
        handle.write(
            json.dumps(
                {
                    "feature": feature,
                    "text": text.strip(),
                    "time": datetime.now().isoformat(timespec="seconds"),
                },
                ensure_ascii=False,
            )
            + "\n"
        )

"""Notes that people write about features: one file that is only ever appended to."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from core.errors import UsageError

NOTES = "notes.jsonl"


def read_notes(run_folder: Path) -> list[dict[str, Any]]:
    """Return the notes (feature, text, time), oldest first; a line that was cut off is skipped."""
    path = run_folder / NOTES
    if not path.exists():
        return []
    notes = []
    for line in path.read_text(encoding="utf-8").split("\n"):  # a note may hold U+2028
        try:
            notes.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return notes


def add_note(run_folder: Path, feature: int, text: str) -> None:
    """Append a note on a feature; raises UsageError when `text` is blank."""
    if not text.strip():
        raise UsageError(
            "The note is empty.", 'Write what you think: note RUN 1234 "what I think it is"'
        )
    time = datetime.now().isoformat(timespec="seconds")
    note = {"feature": feature, "text": text.strip(), "time": time}
    line = json.dumps(note, ensure_ascii=False) + "\n"
    with open(run_folder / NOTES, "ab+") as handle:
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":  # the last note was cut off
                line = "\n" + line
        handle.write(line.encode())

"""Which features a command is about: `1,2,5-9`, `@file` with such text, or nothing for all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from core.errors import UsageError


def parse_features(text: str, known: Iterable[int]) -> list[int]:
    """Feature numbers, ascending, each once; raises UsageError for one that is not among `known`."""
    every = {int(f) for f in known}
    if not text.strip():
        return sorted(every)
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{text[1:]} cannot be read: {error.strerror}.", "Give --features @FILE with numbers in it, or --features 1,2,5-9.") from None
    chosen: set[int] = set()
    for part in re.split(r"[\s,]+", text.strip()):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found:
            raise UsageError(f"{part!r} is not a feature number.", "Write --features 1,2,5-9, or @FILE.")
        chosen |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    if unknown := sorted(chosen - every):
        raise UsageError(f"Feature {unknown[0]} does not exist here, or never fires, or has no label.", "List those that do: python main.py list RUN")
    return sorted(chosen)

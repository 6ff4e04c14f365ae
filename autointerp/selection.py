"""Which features a command is about: `1,2,5-9`, `@file` with such text, or nothing for all; and what it leaves of a table that is there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

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


def staying(path: Path, current: bool, redone: Iterable[int]) -> pd.DataFrame:
    """The rows of a committed table that a command leaves alone: those of features that are not `redone`, and none where the unit is not `current`,
    since rows that were made in two ways do not belong together. Empty where there is no table."""
    if not (current and path.exists()):
        return pd.DataFrame({"feature": []})
    table = pd.read_parquet(path)
    return table[~table["feature"].isin(list(redone))]

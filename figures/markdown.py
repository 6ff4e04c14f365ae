"""Markdown of the report: tables, text of a corpus as code, pictures for both themes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from figures.text import to_line


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows under a header; a pipe in a cell does not end it."""
    lines = [_row(header), "|" + "---|" * len(header), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def code(text: str) -> str:
    """Return text of a corpus as inline code that cannot end its own quotes or become markup.

    A space at either end is kept.
    """
    line = to_line(text)
    ticks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if not line or line[0] in "` " or line[-1] in "` " else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def mark_peak(snippet: dict) -> str:
    """Return a snippet as code, its peak between double brackets."""
    peak, tokens = snippet["peak"], snippet["tokens"]
    return code("".join(tokens[:peak]) + "⟦" + tokens[peak] + "⟧" + "".join(tokens[peak + 1 :]))


def picture(name: str, figures: dict[str, dict]) -> str:
    """Return a figure for both themes with its caption; nothing where it was not drawn."""
    if name not in figures:
        return ""
    alt, caption = html.escape(figures[name]["alt"]), figures[name]["caption"].strip()
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">'
    shown = f'<picture>{dark}<img alt="{alt}" src="{name}.png"></picture>'
    return f"{shown}\n\n*{figures[name]['alt']}.* {caption}" if caption else shown

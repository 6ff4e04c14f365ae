"""Markdown of the report: tables, text of a corpus as code, pictures for both themes."""

from __future__ import annotations

import html
import re

from figures.text import visible


def table(header: list[str], rows: list[list]) -> str:
    cell = lambda v: str(v).replace("|", "\\|")
    return "\n".join(
        [
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(map(cell, r)) + " |" for r in rows),
        ]
    )


def code(text: str) -> str:
    """Text from a corpus as inline code that can neither end its own quotes nor become markup; a space at either end is kept."""
    shown = visible(text)
    ticks = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    space = " " if not shown or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def marked(snippet: dict) -> str:
    """A snippet as code, its peak between double brackets."""
    peak, tokens = snippet["peak"], snippet["tokens"]
    return code("".join(tokens[:peak]) + "⟦" + tokens[peak] + "⟧" + "".join(tokens[peak + 1 :]))


def picture(name: str, figures: dict[str, dict]) -> str:
    """A figure for both themes and its caption; nothing where it was not drawn."""
    if name not in figures:
        return ""
    alt, caption = html.escape(figures[name]["alt"]), figures[name]["caption"].strip()
    shown = f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png"><img alt="{alt}" src="{name}.png"></picture>'
    return f"{shown}\n\n*{figures[name]['alt']}.* {caption}" if caption else shown

"""Lines that fit a terminal: its width, tables, wrapped text, snippets around their peak, bars."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from figures.text import to_line

NARROWEST, WIDEST = 80, 200  # columns
PIPE = 120  # columns where standard output is no terminal
RAMP = (230, 222, 214, 208, 202)  # 256-colour backgrounds, pale yellow to orange
BARS = " ▁▂▃▄▅▆▇█"
SHORTEST = 12  # columns that a flexible column keeps
GAP = 2  # columns between two columns of a table


def terminal_width() -> int:
    """Columns of the terminal, from 80 to 200; 120 where there is none."""
    columns = shutil.get_terminal_size((PIPE, 24)).columns
    return min(max(columns, NARROWEST), WIDEST)


def use_colour() -> bool:
    """Whether standard output is a terminal, and NO_COLOR is not set."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


# ---------------------------------------------------------------- text


def fit_text(text: str, width: int) -> str:
    """Cut `text` between two words, so that it fits `width` columns with a … at its end.

    A word that is longer than `width` is cut inside.
    """
    if cell_len(text) <= width:
        return text
    kept = ""
    for word in text.split(" "):
        longer = f"{kept} {word}" if kept else word
        if cell_len(longer) > width - 1:
            break
        kept = longer
    if not kept.strip():
        kept = cut_cells(text, width - 1)
    return kept.rstrip() + "…"


def cut_cells(text: str, width: int) -> str:
    """The beginning of `text` that fits `width` columns."""
    used = 0
    for i, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:i]
    return text


def join_fitting(parts: Sequence[str], width: int) -> str:
    """The first of `parts`, with spaces between, as many as fit `width` columns."""
    line = ""
    for part in parts:
        longer = f"{line} {part}" if line else part
        if line and cell_len(longer) > width:
            break
        line = longer
    return line


def wrap_text(text: str, width: int) -> list[str]:
    """Break `text` between words into lines of `width` columns; a longer word stays whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers stand `right`; a `flexible` one gives way when room is short."""

    name: str
    right: bool = False
    flexible: bool = False


def lay_table(columns: Sequence[Column], rows: list[list[str]], width: int) -> str:
    """Rows under a header, one line a row; flexible columns are cut between words to fit."""
    needed = [
        max([cell_len(column.name), *(cell_len(row[i]) for row in rows)])
        for i, column in enumerate(columns)
    ]
    widths = share_width(columns, needed, width - GAP * (len(columns) - 1))
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for column, columns_wide in zip(columns, widths, strict=True):
        justify: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(
            Text(column.name, "bold"), width=columns_wide, justify=justify, no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(fit_text(cell, w)) for cell, w in zip(row, widths, strict=True)))
    total = sum(widths) + GAP * len(widths)
    out = io.StringIO()
    colour = use_colour()
    Console(
        file=out, width=total, force_terminal=colour, color_system="256" if colour else None
    ).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def share_width(columns: Sequence[Column], needed: list[int], room: int) -> list[int]:
    """The width of every column; flexible ones share what the others leave."""
    widths = list(needed)
    flexible = [i for i, column in enumerate(columns) if column.flexible]
    left = room - sum(needed[i] for i in range(len(columns)) if i not in flexible)
    for count, i in enumerate(sorted(flexible, key=lambda i: needed[i])):
        widths[i] = min(needed[i], max(SHORTEST, left // (len(flexible) - count)))
        left -= widths[i]
    return widths


# ---------------------------------------------------------------- activations


def show_snippet(
    tokens: Sequence[str],
    activations: Sequence[float],
    top: float,
    peak: int,
    width: int,
    colour: bool,
) -> str:
    """As many tokens around the peak as fit `width` columns, shaded by activation / `top`.

    Without colour, tokens over half of the top stand in «», the peak in «« »».
    """
    texts = [to_line(token) for token in tokens]
    if not colour:
        texts = [
            mark_token(text, activation, top, i == peak)
            for i, (text, activation) in enumerate(zip(texts, activations, strict=True))
        ]
    sizes = [cell_len(text) for text in texts]
    start, end = choose_window(sizes, peak, width)
    shown = texts[start:end]
    if sum(sizes[start:end]) > width:
        shown = [fit_text(texts[peak], width)]
    if colour:
        values = activations[start:end]
        shown = [
            shade_token(t, a / top if top > 0 else 0.0) for t, a in zip(shown, values, strict=True)
        ]
    return ("…" if start else "") + "".join(shown) + ("…" if end < len(texts) else "")


def choose_window(sizes: list[int], peak: int, width: int) -> tuple[int, int]:
    """The tokens start to end around `peak` whose sizes fit `width`, with a … at each cut end."""
    start, end, used = peak, peak + 1, sizes[peak]
    while True:
        grown = False
        for left in (True, False):
            a, b = (start - 1, end) if left else (start, end + 1)
            if a < 0 or b > len(sizes):
                continue
            more = sizes[a] if left else sizes[b - 1]
            if used + more + (a > 0) + (b < len(sizes)) <= width:
                start, end, used, grown = a, b, used + more, True
        if not grown:
            return start, end


def mark_token(text: str, activation: float, top: float, is_peak: bool) -> str:
    if is_peak and activation > 0:
        return f"««{text}»»"
    return f"«{text}»" if top > 0 and activation / top > 0.5 else text


def shade_token(text: str, share: float) -> str:
    """The token on a background for its share (0 to 1) of the largest activation."""
    if share <= 0:
        return text
    shade = RAMP[min(len(RAMP) - 1, int(share * len(RAMP)))]
    style = Style(color="color(16)", bgcolor=f"color({shade})")
    return style.render(text, color_system=ColorSystem.EIGHT_BIT)


def sparkline(counts: Sequence[int]) -> str:
    """Counts as bars on a logarithmic scale; an empty bin is a blank."""
    heights = np.log1p(np.asarray(counts, dtype=float))
    scale = (len(BARS) - 1) / (heights.max(initial=0.0) or 1.0)
    return "".join(BARS[max(1, round(h * scale))] if h else BARS[0] for h in heights)

"""Clamps that work, side by side with the unclamped text: a page and a figure."""

from __future__ import annotations

import difflib
import html
import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.clamps.experiments import Experiment
from core.files import replace_file
from figures.plots.doses import describe_sizes, dose_curves
from figures.style import COLOURS, DARK, LIGHT, escape_text, save, use_theme
from figures.text import to_line

COLUMNS, LINES = 58, 4  # characters in a line of the figure, and lines of each text
SIZE, LEADING = 8.0, 1.45  # points, and line height as a multiple
WIDTH = 9.6  # inches of the figure
CHARACTER = 0.602  # width of a character of DejaVu Sans Mono, as a share of its size
STYLE = f"""
:root{{color-scheme:light dark}}
body{{margin:2rem auto;max-width:62rem;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;
color:{LIGHT["ink"]};background:{LIGHT["page"]}}}
.pair{{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem;border-top:1px solid #8884;
padding:.8rem 0}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px;margin:.3rem 0}}
.prompt,.faint{{opacity:.72}}
mark{{color:inherit;background:#ffd9bf;box-shadow:inset 0 -2px #d55e00}}
img{{max-width:100%}}h3{{margin:0;font-size:14px}}
@media(prefers-color-scheme:dark){{body{{color:{DARK["ink"]};background:{DARK["page"]}}}
mark{{background:#4a2a17}}}}
@media(max-width:40rem){{.pair{{grid-template-columns:1fr}}}}
"""

Parts = list[tuple[str, bool]]  # pieces of a text; True for those that the other text lacks


def split_words(text: str) -> list[str]:
    """Return words, runs of white space, and every other character by itself."""
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def mark_differences(baseline: str, clamped: str) -> tuple[Parts, Parts]:
    """Split both texts into (piece, the other text lacks it), by their longest matching blocks."""
    a, b = split_words(baseline), split_words(clamped)
    only_a, only_b = [True] * len(a), [True] * len(b)
    for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        only_a[block.a : block.a + block.size] = [False] * block.size
        only_b[block.b : block.b + block.size] = [False] * block.size
    return list(zip(a, only_a, strict=True)), list(zip(b, only_b, strict=True))


def write_gallery(records: list[Experiment], folder: Path, subject: str) -> Path:
    """Write gallery.html, gallery.png and a dose figure of each record, in both themes.

    Called again with one more record, it draws the dose figure of that one alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for dark, end in ((False, ""), (True, "-dark")):
        save(gallery_figure(records, dark), folder / f"gallery{end}.png")
        for record in records:
            path = folder / f"dose-{record.features[0]}{end}.png"
            if record is records[-1] or not path.exists():
                save(dose_curves(record, dark), path)
    with replace_file(folder / "gallery.html") as temporary:
        temporary.write_text(render_page(records, subject), encoding="utf-8", errors="replace")
    return folder


def useful_measure(record: Experiment) -> tuple[dict, str, str]:
    """Return (what the useful dose did, key of the measure that shows it, its words)."""
    if record.shown_by == "useful_found":
        what = "of its maximum is found again when the unclamped subject reads the text"
        return record.useful_found or {}, "found", what
    return record.useful or {}, "own", "of the tokens it writes are its own"


# ---------------------------------------------------------------- the page


def render_page(records: list[Experiment], subject: str) -> str:
    """The gallery as one HTML page; `subject` names the subject and the site."""
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Clamps</title><style>{STYLE}</style>"
    )
    lead = (
        f"<h1>Clamps: {escape(subject)}</h1>"
        "<p>Both texts of a pair are drawn with the same random numbers; only the clamp differs. "
        "The dose was chosen on other prompts than these.</p>"
    )
    return head + lead + "".join(map(render_section, records)) + "</html>\n"


def render_section(record: Experiment) -> str:
    """One record: its label, what its useful dose did, the pairs of texts, the dose figure."""
    feature = record.features[0]
    title = f"Set to {useful_measure(record)[0]['dose']:g} times its maximum"
    pairs = []
    for i, prompt in enumerate(record.prompts):
        a, b = mark_differences(record.baseline[i], record.clamped[i])
        left, right = (
            render_text("Unclamped", a, False, prompt),
            render_text(title, b, True, prompt),
        )
        pairs.append(f'<div class="pair">{left}{right}</div>')
    source = f'<source media="(prefers-color-scheme: dark)" srcset="dose-{feature}-dark.png">'
    picture = f'<picture>{source}<img alt="Dose and response" src="dose-{feature}.png"></picture>'
    sizes = ""
    if measured := describe_sizes(record):
        text = f"Measured on {escape(measured)}. Intervals: 95 % over rows or prompts."
        sizes = f'<p class="faint">{text}</p>'
    heading = f"<h2>{feature}: {escape(record.label(feature))}</h2>"
    return f"<section>{heading}{render_effect(record)}{''.join(pairs)}{picture}{sizes}</section>"


def render_effect(record: Experiment) -> str:
    """The tokens that the feature promotes, and how often its useful dose wrote or showed them."""
    useful, key, what = useful_measure(record)
    tokens = " ".join(f"<code>{escape(t)}</code>" for t in record.promoted[:6])
    low, high = (min(1.0, max(0.0, useful[f"{key}{end}"])) for end in ("_low", "_high"))
    span = f"[{low:.0%}, {high:.0%}]"
    random = f"{useful[f'random_{key}']:.0%} along a random direction of equal length"
    unclamped = f"{useful[f'unclamped_{key}']:.0%} unclamped"
    share = f"{useful[key]:.0%} {what} {span}; {random}, {unclamped}."
    return f"<p>Promotes {tokens}. {share}</p>"


def render_text(title: str, parts: Parts, marks: bool, prompt: str) -> str:
    """A text under its title; with `marks`, what the other text lacks is marked."""
    body = "".join(
        f"<mark>{escape_lines(text)}</mark>"
        if only and marks and text.strip()
        else escape_lines(text)
        for text, only in parts
    )
    begin = f'<span class="prompt">{escape_lines(prompt)}</span>'
    return f"<div><h3>{title}</h3><pre>{begin}{body}</pre></div>"


def escape(text: str) -> str:
    return html.escape(to_line(text))


def escape_lines(text: str) -> str:
    return "\n".join(escape(line) for line in text.split("\n"))


# ---------------------------------------------------------------- the figure


def gallery_figure(records: list[Experiment], dark: bool = False) -> Figure:
    """One row for each record: its label, then the text without and with the clamp in columns.

    Words that only the clamped text has are marked.
    """
    row = (LINES + 2.6) * SIZE * LEADING / 72
    with use_theme(dark) as theme:
        figure = Figure(figsize=(WIDTH, row * len(records) + 0.3))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, WIDTH * 72), ylim=(-figure.get_figheight() * 72, 0))
        for i, record in enumerate(records):
            draw_record(axes, record, -(0.15 + i * row) * 72, theme)
    return figure


def draw_record(axes: Axes, record: Experiment, top: float, theme: dict) -> None:
    """One record below `top` (points)."""
    feature, step = record.features[0], SIZE * LEADING
    heading = escape_text(f"{feature}  {to_line(record.label(feature))}"[:90])
    font: dict[str, Any] = {
        "fontsize": 10.5,
        "fontweight": "bold",
        "color": theme["ink"],
        "va": "center",
    }
    axes.text(14, top - step, heading, **font)
    best = choose_pair(record)
    prompt = record.prompts[best][-24:]
    a, b = mark_differences(record.baseline[best], record.clamped[best])
    dose = f"set to {useful_measure(record)[0]['dose']:g}× its maximum"
    for x, title, parts, marks in ((14, "unclamped", a, False), (WIDTH * 36 + 6, dose, b, True)):
        axes.text(x, top - 2.2 * step, title, fontsize=7.5, color=theme["faint"], va="center")
        shown = [(prompt, None), *[(text, only and marks) for text, only in parts]]
        draw_text(axes, shown, (x, top - 3.3 * step), theme)


def choose_pair(record: Experiment) -> int:
    """Choose the pair whose clamped text has the feature's own tokens and repeats itself least."""
    own = {t.strip() for t in record.promoted if t.strip()}
    words = [[p for p in split_words(text) if p.strip()] for text in record.clamped]

    def rank(i: int) -> tuple[bool, int, int]:
        return len(own & set(words[i])) > 0, len(set(words[i])), sum(p in own for p in words[i])

    return max(range(len(words)), key=rank)


def draw_text(
    axes: Axes, parts: list[tuple[str, bool | None]], at: tuple[float, float], theme: dict
) -> None:
    """Monospaced text on a grid, broken at COLUMNS.

    A part is faint (None), plain (False) or marked (True).
    """
    line, column = 0, 0
    for text, kind in parts:
        shown = to_line(re.sub(r"\n\s*", "\n", text))
        for start in range(0, len(shown), COLUMNS):
            piece = shown[start : start + COLUMNS]
            if column + len(piece) > COLUMNS:
                line, column, piece = line + 1, 0, piece.lstrip()
            if line >= LINES:
                return
            place = at[0] + column * SIZE * CHARACTER, at[1] - line * SIZE * LEADING
            draw_piece(axes, piece, kind, place, theme)
            column += len(piece)


def draw_piece(
    axes: Axes, piece: str, kind: bool | None, at: tuple[float, float], theme: dict
) -> None:
    box = None
    if kind and piece.strip():
        box = {"facecolor": COLOURS["clamped"], "alpha": 0.28, "edgecolor": "none"}
        box |= {"boxstyle": "square,pad=0.12"}
    font: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": SIZE, "va": "center"}
    colour = theme["faint"] if kind is None else theme["ink"]
    axes.text(*at, escape_text(piece), color=colour, bbox=box, **font)

"""Clamps that work, for people who read nothing else: a page and a figure of texts side by side, what differs marked."""

from __future__ import annotations

import difflib
import html
import re
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.files import replacing
from figures.plots.doses import dose_curves, dose_sizes
from figures.style import COLOURS, DARK, LIGHT, plain, save, themed
from figures.text import visible

COLUMNS, LINES = 58, 4  # characters in a line of the figure, and lines of each text
SIZE, LEADING = 8.0, 1.45  # points, and line height as a multiple


def pieces(text: str) -> list[str]:
    """Words, runs of white space, and every other character by itself."""
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def differing(baseline: str, clamped: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts as (piece, it is not in the other), by their longest matching blocks."""
    a, b = pieces(baseline), pieces(clamped)
    in_a, in_b = [True] * len(a), [True] * len(b)
    for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        in_a[block.a : block.a + block.size] = [False] * block.size
        in_b[block.b : block.b + block.size] = [False] * block.size
    return list(zip(a, in_a, strict=True)), list(zip(b, in_b, strict=True))


def write_gallery(records: list[dict], folder: Path, subject: str) -> Path:
    """Write gallery.html, gallery.png and gallery-dark.png, and a dose figure of each record in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    for dark, end in ((False, ""), (True, "-dark")):
        save(gallery_figure(records, dark), folder / f"gallery{end}.png")
        for record in records:
            save(dose_curves(record, dark), folder / f"dose-{record['features'][0]}{end}.png")
    with replacing(folder / "gallery.html") as temporary:
        temporary.write_text(gallery_page(records, subject), encoding="utf-8", errors="replace")
    return folder


# ---------------------------------------------------------------- the page


def gallery_page(records: list[dict], subject: str) -> str:
    style = (
        f":root{{color-scheme:light dark}}body{{margin:2rem auto;max-width:62rem;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:{LIGHT['ink']};background:{LIGHT['page']}}}"
        ".pair{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem;border-top:1px solid #8884;padding:.8rem 0}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px;margin:.3rem 0}"
        ".prompt,.faint{opacity:.72}mark{color:inherit;background:#ffd9bf;box-shadow:inset 0 -2px #d55e00}img{max-width:100%}h3{margin:0;font-size:14px}"
        f"@media(prefers-color-scheme:dark){{body{{color:{DARK['ink']};background:{DARK['page']}}}mark{{background:#4a2a17}}}}@media(max-width:40rem){{.pair{{grid-template-columns:1fr}}}}"
    )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Clamps</title><style>{style}</style>'
    lead = f"<h1>Clamps: {escaped(subject)}</h1><p>Each pair of texts is drawn with the same random numbers; what differs is the clamp. The dose was chosen on other prompts than these.</p>"
    return head + lead + "".join(section(record) for record in records) + "</html>\n"


def section(record: dict) -> str:
    feature, (useful, key, what) = record["features"][0], shown_by(record)
    label = record["labels"].get(str(feature), "")
    tokens = " ".join(f"<code>{escaped(t)}</code>" for t in record["promoted"][:6])
    span = f"[{max(0.0, useful[f'{key}_low']):.0%}, {useful[f'{key}_high']:.0%}]"
    share = f"{useful[key]:.0%} {what} {span}; {useful[f'random_{key}']:.0%} along a random direction of equal length, {useful[f'unclamped_{key}']:.0%} unclamped."
    title = f"Set to {useful['dose']:g} times its maximum"
    rows = "".join(
        f'<div class="pair">{column("Unclamped", a, False, prompt)}{column(title, b, True, prompt)}</div>'
        for prompt, (a, b) in zip(
            record["prompts"], map(differing, record["baseline"], record["clamped"]), strict=True
        )
    )
    picture = f'<picture><source media="(prefers-color-scheme: dark)" srcset="dose-{feature}-dark.png"><img alt="Dose and response" src="dose-{feature}.png"></picture>'
    sizes = (
        f'<p class="faint">Measured on {escaped(dose_sizes(record))}. Intervals: 95 % over rows or prompts.</p>'
        if dose_sizes(record)
        else ""
    )
    return f"<section><h2>{feature}: {escaped(label)}</h2><p>Promotes {tokens}. {share}</p>{rows}{picture}{sizes}</section>"


def shown_by(record: dict) -> tuple[dict, str, str]:
    """(what its useful dose did, the measure, in words): by what is written, or by what the unclamped subject finds again."""
    if record.get("shown_by") == "useful_found":
        return (
            record["useful_found"],
            "found",
            "of its maximum is found again when the unclamped subject reads the text",
        )
    return record["useful"], "own", "of the tokens it writes are its own"


def column(title: str, marked: list[tuple[str, bool]], marks: bool, prompt: str) -> str:
    body = "".join(
        f"<mark>{escaped_lines(t)}</mark>" if new and marks and t.strip() else escaped_lines(t)
        for t, new in marked
    )
    return f'<div><h3>{title}</h3><pre><span class="prompt">{escaped_lines(prompt)}</span>{body}</pre></div>'


def escaped(text: str) -> str:
    return html.escape(visible(text))


def escaped_lines(text: str) -> str:
    return "\n".join(escaped(line) for line in text.split("\n"))


# ---------------------------------------------------------------- the figure


def gallery_figure(records: list[dict], dark: bool = False) -> Figure:
    """One row for each record: its label, the text without and with the clamp in columns, words that only the clamp wrote marked."""
    row = (LINES + 2.6) * SIZE * LEADING / 72
    with themed(dark) as theme:
        figure = Figure(figsize=(9.6, row * len(records) + 0.3))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 9.6 * 72), ylim=(-figure.get_figheight() * 72, 0))
        for i, record in enumerate(records):
            draw_record(axes, record, -(0.15 + i * row) * 72, theme)
    return figure


def draw_record(axes: Axes, record: dict, top: float, theme: dict) -> None:
    feature, step = record["features"][0], SIZE * LEADING
    label = record["labels"].get(str(feature), "")
    axes.text(
        14,
        top - step,
        plain(f"{feature}  {visible(label)}"[:90]),
        fontsize=10.5,
        fontweight="bold",
        color=theme["ink"],
        va="center",
    )
    best = telling(record)
    a, b = differing(record["baseline"][best], record["clamped"][best])
    for x, title, marked, marks in (
        (14, "unclamped", a, False),
        (9.6 * 36 + 6, f"set to {shown_by(record)[0]['dose']:g}× its maximum", b, True),
    ):
        axes.text(x, top - 2.2 * step, title, fontsize=7.5, color=theme["faint"], va="center")
        draw_text(
            axes,
            [(record["prompts"][best][-24:], None), *[(t, new and marks) for t, new in marked]],
            (x, top - 3.3 * step),
            theme,
        )


def telling(record: dict) -> int:
    """The pair whose clamped text has the feature's own tokens and repeats itself least."""
    own = {t.strip() for t in record["promoted"] if t.strip()}
    words = [[p for p in pieces(text) if p.strip()] for text in record["clamped"]]
    return max(
        range(len(words)),
        key=lambda i: (
            len(own & set(words[i])) > 0,
            len(set(words[i])),
            sum(p in own for p in words[i]),
        ),
    )


def draw_text(
    axes: Axes, parts: list[tuple[str, bool | None]], at: tuple[float, float], theme: dict
) -> None:
    """Monospaced text on a grid, broken at COLUMNS; a part is faint (None), plain (False) or marked (True)."""
    width, step = SIZE * 0.602, SIZE * LEADING  # of a character of DejaVu Sans Mono
    line, place = 0, 0
    for text, kind in parts:
        shown = visible(re.sub(r"\n\s*", "\n", text))
        for start in range(0, len(shown), COLUMNS):
            piece = shown[start : start + COLUMNS]
            if place + len(piece) > COLUMNS:
                line, place, piece = line + 1, 0, piece.lstrip()
            if line >= LINES:
                return
            x, y = at[0] + place * width, at[1] - line * step
            box = (
                {
                    "facecolor": COLOURS["clamped"],
                    "alpha": 0.28,
                    "edgecolor": "none",
                    "boxstyle": "square,pad=0.12",
                }
                if kind and piece.strip()
                else None
            )
            colour = theme["faint"] if kind is None else theme["ink"]
            axes.text(
                x,
                y,
                plain(piece),
                family="DejaVu Sans Mono",
                fontsize=SIZE,
                color=colour,
                va="center",
                bbox=box,
            )
            place += len(piece)

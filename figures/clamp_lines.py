"""What `clamp` and `replay` print: continuations without and with the clamp, then its doses."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from core.clamps.experiments import Experiment
from figures.layout import Column, fit_text, lay_table, terminal_width, wrap_text
from figures.text import describe_change, describe_useful, quote, short_label, to_line

MEASURES = (  # key in the row of a dose, name, format
    ("target", "own tokens, nats", "+.2f"),
    ("own", "own tokens written, share", ".2f"),
    ("found", "found again, of maximum", ".2f"),
    ("kl", "KL, nats a token", ".3f"),
    ("loss", "loss on neutral text", "+.3f"),
    ("perplexity", "perplexity", ".1f"),
    ("distinct", "distinct pairs", ".2f"),
)
MEASURE, DOSE = 29, 8  # columns of a measure's name and of a dose


def clamp_text(record: Experiment) -> str:
    """Continuations without and with the clamp, one above the other, then what doses do."""
    width = terminal_width()
    lines = [
        fit_text(f"{clamp}   {short_label(record.label(feature))}".rstrip(), width)
        for clamp, feature in zip(record.clamps, record.features, strict=True)
    ]
    for other in record.also:
        for clamp in other.clamps:
            what = f"{clamp.mode} {clamp.feature}={clamp.value:.4g}"
            lines.append(f"{what}   in run {other.run}")
    if said := describe_change(record):
        lines += wrap_text(said, width)
    texts = zip(record.prompts, record.seeds, record.baseline, record.clamped, strict=True)
    for prompt, seed, baseline, clamped in texts:
        lines += wrap_text(f"-- {to_line(prompt)}   (seed {seed})", width)
        lines += hang_text("   baseline  ", on_one_line(baseline), width)
        lines += hang_text("   clamped   ", on_one_line(clamped), width)
    for entry in record.next_tokens or ():
        lines += ["", *next_token_lines(entry, width)]
    if record.doses is not None:
        lines += ["", *dose_lines(record, width)]
    return "\n".join(lines)


def next_token_lines(entry: dict[str, Any], width: int) -> list[str]:
    """The next tokens at a prompt's end: probabilities without and with the clamp, and the change.

    The change is that of the log-probability, in nats.
    """
    columns = [
        Column("   next token"),
        Column("baseline", right=True),
        Column("clamped", right=True),
        Column("nats", right=True),
    ]
    rows = [
        [
            f"   {quote(row['token'])}",
            f"{math.exp(row['baseline']):.2%}",
            f"{math.exp(row['clamped']):.2%}",
            f"{row['clamped'] - row['baseline']:+.2f}",
        ]
        for row in entry["tokens"]
    ]
    table = lay_table(columns, rows, width).splitlines()
    written = written_lines(entry.get("written") or [], width)
    return [*wrap_text(f"-- {to_line(entry['prompt'])} ...", width), *table, *written]


def written_lines(entries: list[dict[str, Any]], width: int) -> list[str]:
    """Each token of the clamped text, and what was likeliest there without the clamp."""
    if not entries:
        return []
    columns = [
        Column("   written"),
        Column("baseline", right=True),
        Column("clamped", right=True),
        Column("nats", right=True),
        Column("likeliest without the clamp"),
    ]
    rows = []
    for entry in entries:
        best = max(entry["tokens"], key=lambda row: row["baseline"])
        rows.append(
            [
                f"   {quote(entry['token'])}",
                f"{math.exp(entry['baseline']):.2%}",
                f"{math.exp(entry['clamped']):.2%}",
                f"{entry['clamped'] - entry['baseline']:+.2f}",
                f"{quote(best['token'])} {math.exp(best['baseline']):.1%}",
            ]
        )
    return ["", *lay_table(columns, rows, width).splitlines()]


def on_one_line(text: str) -> str:
    """The text with ↵ for each line end, and the indentation behind it left out."""
    return to_line(re.sub(r"\n[ \t]*", "\n", text))


def hang_text(name: str, text: str, width: int) -> list[str]:
    """Text behind a name, wrapped between words and behind line ends.

    Only what is longer than a line is cut inside: a subject may write that.
    """
    behind = text.replace("↵", "↵ ")
    rows = textwrap.wrap(behind, width - len(name), break_on_hyphens=False) or [""]
    return [(name if i == 0 else " " * len(name)) + row for i, row in enumerate(rows)]


def dose_lines(record: Experiment, width: int) -> list[str]:
    """Each measure by dose, and below it that of a random direction of equal length.

    Doses that do not fit beside each other follow in a second table.
    """
    doses, lines = record.doses or (), []
    fitting = max(1, (width - MEASURE) // DOSE)
    for start in range(0, len(doses), fitting):
        part = doses[start : start + fitting]
        heads = [f"{row['dose']:g}x" for row in part]
        lines.append(join_doses("   dose", heads))
        for key, name, form in MEASURES:
            lines.append(join_doses(f"   {name}", [format_dose(row[key], form) for row in part]))
            random = [format_dose(row[f"random_{key}"], form) for row in part]
            lines.append(join_doses("     random direction", random))
        lines.append("")
    for entry, key, what in (
        (record.useful, "own", "of the tokens written are its own"),
        (record.useful_found, "found", "of its maximum is found again"),
    ):
        if entry is not None:
            lines += hang_text("   ", describe_useful(entry, key, what), width)
    return lines


def join_doses(name: str, cells: Iterable[str]) -> str:
    return f"{name:{MEASURE}}" + "".join(f"{cell:>{DOSE}}" for cell in cells)


def format_dose(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

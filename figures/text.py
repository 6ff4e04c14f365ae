"""Text of a subject made printable on one line, and sentences about a useful dose."""

from __future__ import annotations

import unicodedata

from autointerp.clamps import beats_controls
from autointerp.rules.language import parts_of
from core.clamps.experiments import Experiment

UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn")  # Unicode categories: control, format, surrogate, ...
SIGNS = {"\n": "↵", "\t": "→"}


def to_line(text: str) -> str:
    """Return `text` on one line: ↵ for a newline, → for a tab, \\uXXXX for other controls.

    Characters that change the direction of writing count as control characters.
    """
    return "".join(SIGNS.get(c) or (_code_point(c) if _unprintable(c) else c) for c in text)


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in UNPRINTABLE


def _code_point(character: str) -> str:
    return f"\\u{ord(character):04x}"


def short_label(text: str) -> str:
    """Return the first part of a label on one line, and how many parts are folded away."""
    first, *others = parts_of(text)
    return to_line(first) + (f" (+{len(others)})" if others else "")


def quote(text: str) -> str:
    """Return `text` on one line between ‹ and ›, so that white space at its ends can be seen."""
    return f"‹{to_line(text)}›"


def describe_useful(useful: dict, key: str, what: str) -> str:
    """Say the useful dose by one measure, and what it does on prompts that did not choose it.

    A dose that those prompts do not confirm (the lower bound is above every control) is none.
    """
    if useful["dose"] is None:
        return (
            f"no useful dose (share {what}): on {useful['sought_on']} prompts none beat the "
            "controls in readable text"
        )
    span = ""
    if useful[f"{key}_low"] is not None:
        low, high = (min(1.0, max(0.0, useful[f"{key}{end}"])) for end in ("_low", "_high"))
        span = f" [{low:.1%}, {high:.1%}]"
    value = f"on {useful['reported_on']} others {share_of(useful[key])}{span} {what}"
    random = f"{share_of(useful[f'random_{key}'])} along a random direction"
    unclamped = f"{share_of(useful[f'unclamped_{key}'])} unclamped"
    seen = f"{value}, {random}, {unclamped}"
    chosen = f"chosen on {useful['sought_on']} prompts"
    if beats_controls(useful, key):
        return f"useful dose {useful['dose']:g}x, {chosen}; {seen}"
    return f"no useful dose: {useful['dose']:g}x, {chosen}, is not confirmed; {seen}"


def share_of(value: float | None) -> str:
    """A share as percent, or `unknown`."""
    return "unknown" if value is None else f"{value:.1%}"


def telling_row(record: Experiment) -> dict | None:
    """The dose to tell of: a confirmed useful one, else the one nearest to 1; None without any."""
    found = ((record.useful, "own"), (record.useful_found, "found"))
    doses = [useful["dose"] for useful, key in found if useful and beats_controls(useful, key)]
    wanted = doses[0] if doses else 1.0
    rows = [row for row in record.doses or () if row["dose"] > 0]
    return min(rows, key=lambda row: abs(row["dose"] - wanted), default=None)


def describe_change(record: Experiment) -> str:
    """Say what the clamp changed against a random direction of equal length; "" without doses."""
    row = telling_row(record)
    if row is None or row.get("target") is None:
        return ""
    said = f"At {row['dose']:g}x: its own tokens {row['target']:+.1f} nats"
    if row.get("random_target") is not None:
        said += f" (random direction {row['random_target']:+.1f})"
    for key, what in (
        ("own", "of what it writes are its own"),
        ("found", "of its maximum found again"),
    ):
        if row.get(key) is not None and row.get(f"random_{key}") is not None:
            said += f", {max(0.0, row[key]):.0%} {what} ({max(0.0, row[f'random_{key}']):.0%})"
    return said + "."

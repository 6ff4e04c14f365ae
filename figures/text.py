"""Text of a subject made printable on one line, and sentences about a useful dose."""

from __future__ import annotations

import unicodedata

from autointerp.rules.language import parts_of

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
    """Say the useful dose by one measure, and what it does on prompts that did not choose it."""
    if useful["dose"] is None:
        return f"on {useful['sought_on']} prompts no readable dose beat the controls (share {what})"
    span = ""
    if useful[f"{key}_low"] is not None:
        span = f" [{max(0.0, useful[f'{key}_low']):.1%}, {useful[f'{key}_high']:.1%}]"
    chosen = f"useful dose {useful['dose']:g}x, chosen on {useful['sought_on']} prompts"
    value = f"on {useful['reported_on']} others {useful[key]:.1%}{span} {what}"
    random = f"{useful[f'random_{key}']:.1%} along a random direction"
    unclamped = f"{useful[f'unclamped_{key}']:.1%} unclamped"
    return f"{chosen}; {value}, {random}, {unclamped}"

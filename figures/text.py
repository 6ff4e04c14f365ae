"""Text of the subject made readable: visible whitespace, quotes."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """The text on one line: newlines as ↵, tabs as →, other control and bidirectional characters as their code point."""
    out = []
    for character in text:
        if character == "\n":
            out.append("↵")
        elif character == "\t":
            out.append("→")
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn"):
            out.append(f"\\u{ord(character):04x}")
        else:
            out.append(character)
    return "".join(out)


def quoted(text: str) -> str:
    return f"‹{visible(text)}›"


def useful_text(useful: dict, key: str, what: str) -> str:
    """The useful dose by one measure, and what it does on prompts that it was not sought on."""
    if useful["dose"] is None:
        return f"on {useful['sought_on']} prompts no readable dose beat the controls (share {what})"
    span = (
        ""
        if useful[f"{key}_low"] is None
        else f" [{max(0.0, useful[f'{key}_low']):.1%}, {useful[f'{key}_high']:.1%}]"
    )
    return (
        f"useful dose {useful['dose']:g}x, sought on {useful['sought_on']} prompts; on {useful['reported_on']} others {useful[key]:.1%}{span} {what}, "
        f"{useful[f'random_{key}']:.1%} along a random direction, {useful[f'unclamped_{key}']:.1%} unclamped"
    )

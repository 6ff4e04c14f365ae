"""What `why` prints: the parts of a logit, the strongest features, and what ablation measured."""

from __future__ import annotations

from collections.abc import Iterable

from core.attribution.record import Attribution, Firing
from figures.layout import Column, lay_table, terminal_width, wrap_text
from figures.text import quote, short_label, to_line

WHICH = {"strongest": "the strongest", "random": "random ones", "all": "every firing"}


def why_text(record: Attribution) -> str:
    """The logit and its parts, the firings that were ablated, and how well it was predicted.

    Other runs that the logit was attributed to follow, and the edges between them.
    """
    width = terminal_width()
    about = f"next token {quote(record.token)}, probability {record.probability:.1%}"
    if record.against:
        about += f"; its logit less that of {quote(record.against)}: {record.logit:+.2f}"
    else:
        about += f", logit {record.logit:+.2f}"
    lines = [*wrap_text(f"... {to_line(record.prompt[-width:])}", width), about, ""]
    lines += [lay_table(PARTS, part_rows(record), width), ""]
    if not record.firings:
        return "\n".join([*lines, "No feature fires on the prompt."])
    strongest = record.firings[: record.strongest]
    lines += [firing_table(record, "strongest", strongest, width), ""]
    random = [record.firings[i] for i in record.random]
    if random:
        lines += [firing_table(record, "random, of like size", random, width), ""]
    lines.append(lay_table(TOGETHER, together_rows(record), width))
    if record.rank_correlation is not None:
        lines.append(
            f"rank correlation of predicted with measured, each ablated alone: "
            f"{record.rank_correlation:.2f}"
        )
    for other in record.also:
        about = f"-- {other.run}, at {other.site}: features {other.features:+.3f} logits"
        firings = other.firings[: other.strongest]
        lines += ["", about, firing_table(other, "strongest", firings, width)]
    if record.edges:
        lines += ["", lay_table(EDGES, edge_rows(record), width)]
    return "\n".join(lines)


def edge_rows(record: Attribution) -> list[list[str]]:
    """A row for each of the largest edges: from the feature of one run to that of another."""
    return [
        [
            f"{e.lower} {e.lower_feature} at {e.lower_position}",
            f"{e.upper} {e.upper_feature} at {e.upper_position}",
            f"{e.weight:+.3f}",
        ]
        for e in record.edges[:EDGES_SHOWN]
    ]


EDGES_SHOWN = 15
EDGES = (
    Column("from", right=False, flexible=True),
    Column("to", right=False, flexible=True),
    Column("logits through it", right=True, flexible=False),
)
PARTS = (
    Column("part", right=False, flexible=False),
    Column("logits", right=True, flexible=False),
    Column("what it is", right=False, flexible=True),
)
TOGETHER = (
    Column("ablated together", right=False, flexible=False),
    Column("firings", right=True, flexible=False),
    Column("predicted", right=True, flexible=False),
    Column("measured", right=True, flexible=False),
)


def part_rows(record: Attribution) -> list[list[str]]:
    """A row for each part of the logit; they add up to it."""
    parts = (
        ("features", record.features, f"{len(record.firings)} firings, activation times gradient"),
        ("errors", sum(record.errors), "what the autoencoder does not reconstruct"),
        ("bias", record.bias, "the decoder's bias"),
        *([("skip", record.skip, "the skip connection")] if record.skip else []),
        ("first token", record.first, "where no feature counts"),
        ("rest", record.rest, "constants behind the site, and what is not linear"),
    )
    return [[name, f"{value:+.3f}", what] for name, value, what in parts]


def firing_table(record: Attribution, name: str, firings: Iterable[Firing], width: int) -> str:
    """A row for each firing: what its ablation is predicted to change, and what it changed."""
    columns = (
        Column(name, right=True, flexible=False),
        Column("at", right=True, flexible=False),
        Column("token", right=False, flexible=False),
        Column("activation", right=True, flexible=False),
        Column("predicted", right=True, flexible=False),
        Column("measured", right=True, flexible=False),
        Column("label", right=False, flexible=True),
    )
    rows = [
        [
            str(f.feature),
            str(f.position),
            quote(record.tokens[f.position]),
            f"{f.activation:.2f}",
            f"{-f.attribution:+.3f}",
            "-" if f.change is None else f"{f.change:+.3f}",
            short_label(record.label(f.feature)),
        ]
        for f in firings
    ]
    return lay_table(columns, rows, width)


def together_rows(record: Attribution) -> list[list[str]]:
    """A row for each group of firings that was ablated together."""
    return [
        [WHICH[t.which], str(t.firings), f"{t.predicted:+.3f}", f"{t.change:+.3f}"]
        for t in record.together
    ]

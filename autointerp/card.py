"""All that is known of one feature as one record, and the code that assembles it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.evidence import TokenEffect
from autointerp.examples import Firings
from autointerp.labels.notes import read_notes
from autointerp.scores.mistakes import MistakeFinder
from core.records import Snippet

if TYPE_CHECKING:
    from autointerp.features import Features

SNIPPETS = {"top": 5, "strata": 1, "near_miss": 2}  # of each stratum, where nothing else is asked
Row = dict[str, Any]  # plain values, as JSON holds them


@dataclass(frozen=True, repr=False)
class Card:
    """All that is known of one feature. `to_dict` gives what `show --json` prints."""

    feature: int
    status: str  # alive, rare, dense, dead
    density: float  # share of kept tokens on which it fires
    n_firings: int
    n_documents: int
    max: float  # largest activation, SAE units
    labels: list[Row]  # text, set, kind, confidence, evidence, scores; the best set first
    measured: list[Row]  # token, change (nats): what a clamp makes likelier, most first
    promoted: list[Row]  # token, logit; the most promoted output token first
    suppressed: list[Row]  # token, logit
    neighbours: list[Row]  # feature, cosine, label of the nearest decoder directions
    family: Row | None  # family, title, solid, kind, members (feature, label); None without one
    cluster: Row | None  # group, title at the finest level; None before `cluster`
    groups: list[Row]  # layer, group, title of the feature's clusters, coarsest level first
    partners: list[Row]  # feature, phi, shared, label of those that fire on the same tokens
    related: list[Row]  # kind, feature, other, strength: duplicates, splitting, absorption
    isolated: bool  # far from every other direction
    histogram: Row  # counts (bins), edges (bins + 1) of the non-zero activations
    strata: list[Row]  # stratum, low, firings, mass; see `evidence.strata`
    notes: list[Row]  # feature, text, time of what people wrote
    failures: list[Row]  # unit, kind, message of attempts that gave no value
    snippets: list[Row]  # stratum, split, document, start, peak, ordinal, tokens, ...

    @property
    def label(self) -> str:
        """The text of the best label, or an empty text."""
        return self.labels[0]["text"] if self.labels else ""

    @property
    def scores(self) -> dict[str, Row]:
        """{kind: score} of the best label."""
        return {score["kind"]: score for score in self.labels[0]["scores"]} if self.labels else {}

    def to_dict(self) -> Row:
        """Return the fields as plain values that JSON can hold."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        return f"Card(feature={self.feature}, status={self.status!r}, label={self.label!r})"

    def _repr_html_(self) -> str:
        """Return labels, scores, histogram and snippets as HTML for a notebook, text escaped."""
        parts = [
            f"<p><b>feature {self.feature}</b> &nbsp; {self.status}, fires on {self.density:.3%} "
            f"of tokens, maximum {self.max:.2f}</p>"
        ]
        for label in self.labels:
            scores = ", ".join(map(score_html, label["scores"])) or "not scored"
            name, text = visible_html(label["set"]), visible_html(label["text"])
            parts.append(f"<p><code>{name}</code> {text}<br><small>{scores}</small></p>")
        parts.append(histogram_svg(self.histogram["counts"]))
        for snippet in self.snippets:
            pairs = zip(snippet["tokens"], snippet["activations"], strict=True)
            tokens = "".join(token_html(token, value / (self.max or 1)) for token, value in pairs)
            parts.append(
                f"<div><small>{snippet['stratum']}</small> "
                f'<span style="font-family:monospace;white-space:pre-wrap">{tokens}</span></div>'
            )
        return "\n".join(parts)


class Cards:
    """Assembles cards from the evidence and from what the stages said."""

    def __init__(self, features: Features):
        self.features = features
        self.evidence, self.lookup = features.evidence, features.lookup

    def make(self, feature: int, counts: dict[str, int] | None = None, split: str = "all") -> Card:
        """Return the card of one feature.

        `counts` says how many snippets of each stratum it holds. The key "failing" asks for so many
        places of each kind where the label of each set is wrong. Raises UsageError when there is no
        such feature.
        """
        firings = self.evidence.postings.firings(self.evidence.check(feature))
        return self._assemble(feature, firings, counts, split, read_notes(self.features.run.path))

    def walk(
        self, counts: dict[str, int], start: int = 0, end: int | None = None
    ) -> Iterator[Card]:
        """Yield the cards of features `start` to `end` from one walk over the index."""
        notes = read_notes(self.features.run.path)
        for first, block in self.evidence.postings.blocks(start, end):
            for feature, firings in enumerate(block, first):
                yield self._assemble(feature, firings, counts, "all", notes)

    def prepare(self, counts: dict[str, int]) -> None:
        """Compute what all cards share, so that processes forked later do not repeat it."""
        self.evidence.prepare()
        self.lookup.prepare()
        if counts.get("failing"):
            self._failing.prepare()

    # ------------------------------------------------------------ assembling

    def _assemble(
        self,
        feature: int,
        firings: Firings,
        counts: dict[str, int] | None,
        split: str,
        notes: list[Row],
    ) -> Card:
        evidence, labels = self.evidence.of(feature, firings), self.lookup.labels_of(feature)
        stats, cluster = evidence.stats, self.lookup.cluster_of(feature)
        return Card(
            feature=feature,
            status=stats.status,
            density=stats.density,
            n_firings=stats.n_firings,
            n_documents=stats.n_documents,
            max=stats.max,
            labels=labels,
            measured=[{"token": t, "change": v} for t, v in self.evidence.measured(feature)],
            promoted=token_rows(self.evidence.promoted(feature)),
            suppressed=token_rows(self.evidence.suppressed(feature)),
            neighbours=self.lookup.neighbours_of(feature),
            family=self.lookup.family_of(feature),
            cluster=cluster and {"group": int(cluster["group"]), "title": cluster["title"]},
            groups=self.lookup.clusters_of(feature),
            partners=self.lookup.partners_of(feature),
            related=self.lookup.related_to(feature),
            isolated=cluster is not None and cluster["status"] == "isolated",
            histogram={"counts": evidence.counts.tolist(), "edges": evidence.edges.tolist()},
            strata=evidence.strata,
            notes=[note for note in notes if note["feature"] == feature],
            failures=self.lookup.failures_of(feature),
            snippets=self._snippets(feature, firings, labels, counts, split),
        )

    def _snippets(
        self,
        feature: int,
        firings: Firings,
        labels: list[Row],
        counts: dict[str, int] | None,
        split: str,
    ) -> list[Row]:
        """Snippets by stratum, then the places where labels fail."""
        wanted = dict(SNIPPETS if counts is None else counts)
        n_failing = wanted.pop("failing", 0)
        rng = np.random.default_rng([self.features.run.settings.seed, feature])
        snippets = self.evidence.examples.snippets(feature, split, wanted, rng, firings)
        rows = [self._snippet_row(snippet) for snippet in snippets]
        if n_failing:
            rows += self._where_labels_fail(feature, firings, labels, n_failing)
        return rows

    def _where_labels_fail(
        self, feature: int, firings: Firings, labels: list[Row], count: int
    ) -> list[Row]:
        """Snippets with the `set` whose label fails there; a text that two sets share, once."""
        misses = self.lookup.misses_of(feature)
        set_of = {label["text"]: label["set"] for label in reversed(labels)}
        rows = []
        for text, name in reversed(set_of.items()):
            kept = [miss for miss in misses if miss["set"] == name]
            snippets = self._failing.snippets(feature, firings, text, count, kept)
            rows += [self._snippet_row(snippet) | {"set": name} for snippet in snippets]
        return rows

    def _snippet_row(self, snippet: Snippet) -> Row:
        return {
            "stratum": snippet.stratum,
            "split": snippet.split,
            "document": self.evidence.tokens.names[snippet.document],
            "start": snippet.start,
            "peak": snippet.peak,
            "ordinal": self._first_ordinals[snippet.document] + snippet.start + snippet.peak,
            "tokens": list(snippet.tokens),
            "activations": list(snippet.activations),
        }

    @cached_property
    def _first_ordinals(self) -> list[int]:
        """The ordinal of the first token of each document."""
        offsets: list[int] = np.asarray(self.evidence.tokens.document_offsets, np.int64).tolist()
        return offsets

    @cached_property
    def _failing(self) -> MistakeFinder:
        return MistakeFinder(self.evidence.examples, self.features.run.settings.seed)


def token_rows(effects: list[TokenEffect]) -> list[Row]:
    """Return output tokens as plain rows."""
    return [effect._asdict() for effect in effects]


# ---------------------------------------------------------------- HTML


def visible_html(text: str) -> str:
    """Return `text` escaped for HTML; a line break becomes ↵, other control characters ·."""
    marks = {"\n": "↵", "\t": "→"}
    return escape("".join(c if c.isprintable() else marks.get(c, "·") for c in text))


def token_html(token: str, share: float) -> str:
    """Return a token shaded by its activation as a share (0 to 1) of the feature's largest."""
    text = visible_html(token)
    if share <= 0:
        return text
    return f'<span style="background:rgba(255,140,0,{0.1 + 0.8 * min(share, 1):.2f})">{text}</span>'


def score_html(score: Row) -> str:
    """Return one score in words: kind, value, interval and null, or why it is undefined."""
    if score["value"] is None:
        return f"{visible_html(score['kind'])}: {visible_html(score['undefined'] or 'undefined')}"
    span = "" if score["low"] is None else f" [{score['low']:.2f}, {score['high']:.2f}]"
    null = "" if score["null"] is None else f" (null {score['null']:.2f})"
    return f"{visible_html(score['kind'])} {score['value']:.2f}{span}{null}"


def histogram_svg(counts: list[int], width: int = 300, height: int = 40) -> str:
    """Return counts as bars of logarithmic height, in an SVG image of that size in pixels."""
    tops = np.log1p(np.asarray(counts, float))
    heights, step = height * tops / (tops.max(initial=0.0) or 1.0), width / max(1, len(counts))
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{height - h:.1f}" width="{step - 1:.1f}" height="{h:.1f}"/>'
        for i, h in enumerate(heights)
        if h
    )
    return f'<svg width="{width}" height="{height}" fill="#888">{bars}</svg>'

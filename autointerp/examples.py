"""Draw windows of text by stratum and split from the index, without the model.

    top        the largest activations, without near copies of one another
    q90..q0    strata by quantile of the non-zero activations: 90-100, 70-90, 40-70, 10-40, 0-10 %
    firing     any firing
    near_miss  places where the token stands on which the feature fires most, but it is silent
    random     any token

A window holds the 20 tokens before its peak and the 11 after. It ends where the peak's row ends,
because the subject did not see what lies beyond. In splits other than train, a peak is left out and
counted when the text around it also stands in a train document.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.firings.postings import Postings, lookup
from core.records import SPLITS, Snippet
from core.text.tokens import Tokens

BEFORE, AFTER = 20, 11
Firings = tuple[np.ndarray, np.ndarray]  # ordinals (m,) ascending, activations (m,) of a feature
STRATA = (
    ("q90", 0.9, 1.0),
    ("q70", 0.7, 0.9),
    ("q40", 0.4, 0.7),
    ("q10", 0.1, 0.4),
    ("q0", 0.0, 0.1),
)
BOUNDS = {name: (low, high) for name, low, high in STRATA}
NAMES = ("top", *(name for name, _, _ in STRATA), "firing", "near_miss", "random")
SPACING = 16  # tokens between two peaks of the top stratum


def argsort_stable(values: np.ndarray) -> np.ndarray:
    """Return the stable order (m,) of float32 activations (m,), ten times as fast as numpy's own.

    It equals `argsort(kind="stable")`. The bits of a float, with its sign applied, sort like whole
    numbers. Each is put above its own index in 64 bits, and numpy sorts those with vector
    instructions.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    bits = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # sign and magnitude; -0.0 equals 0.0
    return np.sort((bits << 32) + np.arange(len(bits))) & 0xFFFFFFFF


@dataclass(frozen=True)
class Peaks:
    """Tokens of one feature around which windows are cut."""

    ordinals: np.ndarray  # (m,)
    strata: np.ndarray  # (m,) index into NAMES
    weights: np.ndarray  # (m,) see Snippet
    n_firings: int  # in the split, without copies
    n_copied: int  # firings that were left out as copies


class Examples:
    """Draws windows from one capture and its index."""

    def __init__(self, postings: Postings, tokens: Tokens):
        self.postings, self.tokens = postings, tokens
        self.copied = np.asarray(tokens.copied)  # (n,)
        self._split = np.repeat(np.asarray(tokens.split), np.diff(tokens.document_offsets))  # (n,)
        self._rows = np.asarray(tokens.row_offsets)
        self._ids = np.asarray(tokens.ids)
        self._document_offsets = np.asarray(tokens.document_offsets, np.int64)
        self._document_splits = np.asarray(tokens.split)
        self._pools: dict[str, np.ndarray] = {}

    # ------------------------------------------------------------ peaks

    def pool(self, split: str) -> np.ndarray:
        """Return the ordinals of all tokens of `split` (or of "all") that are not copies."""
        if split not in self._pools:
            inside = ~self.copied
            if split != "all":
                inside &= self._split == SPLITS.index(split)
            self._pools[split] = np.flatnonzero(inside)
        return self._pools[split]

    def firings_in(self, firings: Firings, split: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Return (ordinals, activations, number of copies left out) of the firings in `split`."""
        where, values = firings
        if split != "all":
            inside = self._split[where] == SPLITS.index(split)
            where, values = where[inside], values[inside]
        copied = self.copied[where]
        return where[~copied], values[~copied], int(copied.sum())

    def draw(
        self, firings: Firings, split: str, counts: dict[str, int], rng: np.random.Generator
    ) -> Peaks:
        """Return peaks by stratum; a stratum with fewer than its count gives all that it has.

        `counts` says how many of each stratum; the key "strata" stands for each of the five
        quantile strata.
        """
        where, values, n_copied = self.firings_in(firings, split)
        wanted = {name: counts["strata"] for name, _, _ in STRATA if "strata" in counts}
        wanted |= {name: count for name, count in counts.items() if name != "strata"}
        order = argsort_stable(values)
        nothing = np.zeros(0, np.int64)
        parts = [(nothing, nothing, nothing)]
        for number, name in enumerate(NAMES):
            if count := wanted.get(name, 0):
                firing = (where, values)
                chosen, weight = self._draw_stratum(name, count, firing, order, split, rng)
                n = len(chosen)
                parts.append((chosen, np.full(n, number), np.full(n, weight)))
        ordinals, strata, weights = map(np.concatenate, zip(*parts, strict=True))
        return Peaks(ordinals, strata, weights, len(where), n_copied)

    def _draw_stratum(
        self,
        name: str,
        count: int,
        firings: Firings,
        order: np.ndarray,
        split: str,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, float]:
        """Ordinals of one stratum, and the weight of each; `order` sorts the firings."""
        where, values = firings
        if name == "top":
            return self.choose_spaced(where, order, count), 0.0
        if name == "random":
            return choose_some(self.pool(split), count, rng), 0.0
        if name == "near_miss":
            return choose_some(self.find_silent(where, values, split), count, rng), 0.0
        low, high = (0.0, 1.0) if name == "firing" else BOUNDS[name]
        end = int(high * len(order)) if high < 1 else len(order)
        members = where if name == "firing" else where[order[int(low * len(order)) : end]]
        chosen = choose_some(members, count, rng)
        return chosen, len(members) / max(1, len(where)) / max(1, len(chosen))

    def choose_spaced(self, where: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
        """Return up to `count` ordinals of `where` from the end of `order`.

        No two of them are within SPACING tokens of each other or end the same 8 tokens.
        """
        chosen: list[int] = []
        seen: set[bytes] = set()
        for ordinal in where[order[::-1][: count * 20]].tolist():
            text = self._ids[max(0, ordinal - 7) : ordinal + 1].tobytes()
            if text in seen or any(abs(ordinal - c) < SPACING for c in chosen):
                continue
            seen.add(text)
            chosen.append(ordinal)
            if len(chosen) == count:
                break
        return np.array(chosen, dtype=np.int64)

    def find_silent(self, where: np.ndarray, values: np.ndarray, split: str) -> np.ndarray:
        """Return the ordinals in `split` of the feature's own token where the feature is silent.

        Its own token is the one with the largest summed activation.
        """
        if not len(where):
            return np.zeros(0, np.int64)
        ids = self._ids[where]
        token = int(np.bincount(ids, weights=values).argmax())
        ordinals = self.postings.token(token)
        silent = ~self.copied[ordinals]
        silent[np.searchsorted(ordinals, where[ids == token])] = False
        if split != "all":
            silent &= self._split[ordinals] == SPLITS.index(split)
        return ordinals[silent]

    # ------------------------------------------------------------ windows

    def window(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (first, past the last) ordinal of the window around each peak, inside its row."""
        row = np.searchsorted(self._rows, ordinals, side="right") - 1
        starts = np.maximum(ordinals - BEFORE, self._rows[row])
        return starts, np.minimum(ordinals + AFTER + 1, self._rows[row + 1])

    def cover(self, ordinals: np.ndarray) -> np.ndarray:
        """Return all ordinals inside the windows around `ordinals`, each once, ascending."""
        starts, ends = self.window(ordinals)
        lengths = ends - starts
        offsets = np.repeat(starts - np.r_[0, np.cumsum(lengths)[:-1]], lengths)
        return np.unique(offsets + np.arange(int(lengths.sum())))

    def snippets(
        self,
        feature: int,
        split: str,
        counts: dict[str, int],
        rng: np.random.Generator,
        firings: Firings | None = None,
    ) -> list[Snippet]:
        """Return windows with tokens and activations, stratum by stratum in the order of NAMES.

        `firings` are the feature's, where the caller holds them already.
        """
        firings = firings or self.postings.firings(feature)
        peaks = self.draw(firings, split, counts, rng)
        names = [NAMES[stratum] for stratum in peaks.strata]
        return self.cut(feature, firings, peaks.ordinals, names, peaks.weights.tolist())

    def cut(
        self,
        feature: int,
        firings: Firings,
        ordinals: np.ndarray,
        strata: list[str],
        weights: list[float],
    ) -> list[Snippet]:
        """Return the windows around the ordinals (m,), with the feature's activation on each token.

        `strata` and `weights` hold one entry for each ordinal.
        """
        starts, ends = self.window(ordinals)
        lengths = ends - starts
        stops = np.cumsum(lengths)
        inside = np.repeat(ends - stops, lengths) + np.arange(int(lengths.sum()))
        values = lookup(*firings, inside).tolist()
        activations = [values[b - n : b] for b, n in zip(stops, lengths, strict=True)]
        documents = self.tokens.document_of(ordinals)
        columns = (  # lists, because numbers of numpy are slow to handle one by one
            documents,
            starts - self._document_offsets[documents],
            ordinals - starts,
            starts,
            ends,
            self._document_splits[documents],
        )
        rows = zip(*(c.tolist() for c in columns), activations, strata, weights, strict=True)
        return [
            Snippet(
                feature,
                document,
                position,
                peak,
                tokens=self.tokens.spell(start, end),
                activations=tuple(values),
                stratum=stratum,
                split=SPLITS[split],
                weight=weight,
            )
            for document, position, peak, start, end, split, values, stratum, weight in rows
        ]


def choose_some(pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return up to `count` random members of `pool`, each once."""
    if not len(pool):
        return np.zeros(0, np.int64)
    return rng.choice(pool, min(count, len(pool)), replace=False)

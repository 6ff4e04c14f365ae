"""Windows of text by stratum and split, drawn from the index without the model.

    top        the largest activations, near copies of one another left out
    q90..q0    strata by quantile of the non-zero activations: 90-100, 70-90, 40-70, 10-40, 0-10 %
    firing     any firing
    near_miss  silent, on the token that the feature fires on most
    random     any token

A window is 20 tokens before its peak and 11 after, cut at the ends of the row: what lies beyond them the subject did not see. In
splits other than train, a peak whose surroundings also stand in an train document is left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.firings.postings import Postings, lookup
from core.records import SPLITS, Snippet
from core.text.tokens import Tokens

BEFORE, AFTER = 20, 11
STRATA = (
    ("q90", 0.9, 1.0),
    ("q70", 0.7, 0.9),
    ("q40", 0.4, 0.7),
    ("q10", 0.1, 0.4),
    ("q0", 0.0, 0.1),
)
NAMES = ("top", *(name for name, _, _ in STRATA), "firing", "near_miss", "random")
BROKEN = "\ufffd"  # what a token that holds part of a character decodes to
SPACING = 16  # tokens between two peaks of the top stratum


def ascending(values: np.ndarray) -> np.ndarray:
    """The stable order of float32 activations (m,): `argsort(kind="stable")`, ten times as fast.

    The bits of a float, its sign turned, sort as whole numbers; each is put above its own place in 64 bits, and numpy sorts those with vector instructions.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    bits = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # of sign and size; -0.0 is 0.0
    return np.sort((bits << 32) + np.arange(len(bits))) & 0xFFFFFFFF


@dataclass(frozen=True)
class Drawn:
    """Peaks of one feature: ordinals (m,), the stratum of each as an index into NAMES, its weight, and firings left out as copies."""

    ordinals: np.ndarray
    strata: np.ndarray
    weights: np.ndarray
    n_firings: int  # in the split, copies not counted
    n_copied: int


class Examples:
    """Draws windows from one capture and its index."""

    def __init__(self, postings: Postings, tokens: Tokens):
        self.postings, self.tokens = postings, tokens
        self._split = np.repeat(np.asarray(tokens.split), np.diff(tokens.document_offsets))  # (n,)
        self.copied = np.asarray(tokens.copied)
        self._rows = np.asarray(tokens.row_offsets)
        self._ids = np.asarray(tokens.ids)
        self._document_offsets, self._document_splits = (
            np.asarray(tokens.document_offsets, np.int64),
            np.asarray(tokens.split),
        )
        self._pools: dict[str, np.ndarray] = {}

    def pool(self, split: str) -> np.ndarray:
        """Ordinals of all tokens of `split` (or of "all") that are not copies."""
        if split not in self._pools:
            inside = (
                np.ones(len(self._split), bool)
                if split == "all"
                else self._split == SPLITS.index(split)
            )
            self._pools[split] = np.flatnonzero(inside & ~self.copied)
        return self._pools[split]

    def firings_in(
        self, firings: tuple[np.ndarray, np.ndarray], split: str
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(ordinals, activations, firings left out as copies) of a feature's firings inside `split`."""
        where, values = firings
        if split != "all":
            inside = self._split[where] == SPLITS.index(split)
            where, values = where[inside], values[inside]
        copied = self.copied[where]
        return where[~copied], values[~copied], int(copied.sum())

    def draw(
        self,
        firings: tuple[np.ndarray, np.ndarray],
        split: str,
        counts: dict[str, int],
        rng: np.random.Generator,
    ) -> Drawn:
        """Peaks by stratum: `counts` says how many of each (a stratum that has fewer gives what it has).

        The key "strata" stands for each of the five quantile strata.
        """
        where, values, n_copied = self.firings_in(firings, split)
        counts = {name: counts["strata"] for name, _, _ in STRATA if "strata" in counts} | {
            k: v for k, v in counts.items() if k != "strata"
        }
        order = ascending(values)
        found = []
        for number, name in enumerate(NAMES):
            wanted = counts.get(name, 0)
            if not wanted:
                continue
            chosen, weight = self._stratum(name, wanted, where, values, order, split, rng)
            found.append((chosen, np.full(len(chosen), number), np.full(len(chosen), weight)))
        nothing = np.zeros(0, np.int64)
        ordinals, strata, weights = map(
            np.concatenate, zip((nothing, nothing, nothing), *found, strict=True)
        )
        return Drawn(ordinals, strata, weights, len(where), n_copied)

    def _stratum(
        self, name: str, wanted: int, where, values, order, split: str, rng
    ) -> tuple[np.ndarray, float]:
        """(ordinals, weight of each) of one stratum."""
        pick = lambda pool: (
            rng.choice(pool, min(wanted, len(pool)), replace=False)
            if len(pool)
            else np.zeros(0, np.int64)
        )
        if name == "top":
            return self.spaced(where, order, wanted), 0.0
        if name == "random":
            return pick(self.pool(split)), 0.0
        if name == "near_miss":
            return pick(self.silent_places(where, values, split)), 0.0
        if name == "firing":
            chosen = pick(where)
            return chosen, 1.0 / max(1, len(chosen))
        low, high = next((a, b) for n, a, b in STRATA if n == name)
        members = where[
            order[int(low * len(order)) : int(high * len(order)) if high < 1 else len(order)]
        ]
        chosen = pick(members)
        return chosen, len(members) / max(1, len(where)) / max(1, len(chosen))

    def spaced(self, where: np.ndarray, order: np.ndarray, wanted: int) -> np.ndarray:
        """Ordinals from the end of `order`, no two within SPACING tokens of each other or with the same 8 tokens up to the peak."""
        chosen: list[int] = []
        seen: set[bytes] = set()
        for ordinal in where[order[::-1][: wanted * 20]].tolist():
            text = self._ids[max(0, ordinal - 7) : ordinal + 1].tobytes()
            if text in seen or any(abs(ordinal - c) < SPACING for c in chosen):
                continue
            seen.add(text)
            chosen.append(ordinal)
            if len(chosen) == wanted:
                break
        return np.array(chosen, dtype=np.int64)

    def silent_places(self, where: np.ndarray, values: np.ndarray, split: str) -> np.ndarray:
        """Places where the token with the largest summed activation stands and the feature is silent."""
        if not len(where):
            return np.zeros(0, np.int64)
        ids = self._ids[where]
        token = int(np.bincount(ids, weights=values).argmax())
        places = self.postings.token(token)
        silent = ~self.copied[places]
        silent[np.searchsorted(places, where[ids == token])] = False
        if split != "all":
            silent &= self._split[places] == SPLITS.index(split)
        return places[silent]

    # ------------------------------------------------------------ windows

    def window(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(first, past the last) ordinal of the window around each peak, inside its row."""
        row = np.searchsorted(self._rows, ordinals, side="right") - 1
        return np.maximum(ordinals - BEFORE, self._rows[row]), np.minimum(
            ordinals + AFTER + 1, self._rows[row + 1]
        )

    def covered(self, ordinals: np.ndarray) -> np.ndarray:
        """All ordinals that the windows around `ordinals` cover, each once, ascending."""
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
        firings=None,
    ) -> list[Snippet]:
        """Windows with their tokens and activations, stratum by stratum in the order of NAMES; `firings` are the feature's, where they
        are at hand."""
        firings = firings or self.postings.firings(feature)
        drawn = self.draw(firings, split, counts, rng)
        return self.cut(
            feature,
            firings,
            drawn.ordinals,
            [NAMES[stratum] for stratum in drawn.strata],
            drawn.weights.tolist(),
        )

    def cut(
        self,
        feature: int,
        firings: tuple[np.ndarray, np.ndarray],
        ordinals: np.ndarray,
        strata: list[str],
        weights: list[float],
    ) -> list[Snippet]:
        """The windows around the ordinals (m,), with the feature's activation on each of their tokens; a stratum and a weight for each."""
        starts, ends = self.window(ordinals)
        lengths = ends - starts
        stops = np.cumsum(lengths)
        activations = lookup(
            *firings, np.repeat(ends - stops, lengths) + np.arange(int(lengths.sum()))
        ).tolist()
        documents = self.tokens.document_of(ordinals)
        positions = (starts - self._document_offsets[documents]).tolist()
        splits = self._document_splits[documents].tolist()
        rows = zip(
            documents.tolist(),
            positions,
            (ordinals - starts).tolist(),
            starts.tolist(),
            ends.tolist(),
            stops.tolist(),
            strata,
            splits,
            weights,
            strict=True,
        )
        return [
            Snippet(
                feature,
                document,
                position,
                peak,
                self.texts(document, start, end),
                tuple(activations[stop - (end - start) : stop]),
                stratum,
                SPLITS[split],
                weight,
            )
            for document, position, peak, start, end, stop, stratum, split, weight in rows
        ]

    def texts(self, document: int, start: int, end: int) -> tuple[str, ...]:
        """What each token from ordinal `start` to `end` stands for in its document. A character that several tokens make up, which none of
        them decodes to alone, is given to the first of them."""
        out = [self.tokens.vocabulary[i] for i in self._ids[start:end]]
        if BROKEN not in "".join(out):
            return tuple(out)
        source, told = self.tokens.text(document), 0
        for i, (a, b) in enumerate(
            zip(
                self.tokens.starts[start:end].tolist(),
                self.tokens.ends[start:end].tolist(),
                strict=True,
            )
        ):
            if BROKEN in out[i]:
                out[i] = source[max(a, told) : b]
            told = max(told, b)
        return tuple(out)

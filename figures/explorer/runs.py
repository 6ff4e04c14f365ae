"""Several runs in one page: whose shards are whose, and which features of two runs match.

The shards of the first run have plain names; those of run 1, 2, ... begin with `r1-`, `r2-`, ...

    r1-start    as `start`, of run 1
    match-1     for each feature of run 0 the nearest direction of run 1; `r1-match-0` the reverse
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from autointerp.features import Features
from core.errors import UsageError
from core.training.unit import read_directions
from figures.explorer.about import describe_run
from figures.explorer.shards import Shards, pack_script

BLOCK = 1024  # directions that are compared at once
NAME = re.compile(r"(?:r(\d+)-)?(.+)")
MATCH = re.compile(r"match-(\d+)")


class Runs:
    """The shards of one or more runs, the first of which the page opens with.

    `live` says what the server behind the page allows, one entry a run; None for a static site.
    A `small` page has fewer snippets.
    """

    def __init__(
        self,
        every: Sequence[Features],
        live: Sequence[dict] | None = None,
        small: bool = False,
    ):
        about = [describe_run(features.run) for features in every]
        self.shards = [
            Shards(features, live[i] if live else None, about, i, small)
            for i, features in enumerate(every)
        ]

    def names(self) -> list[str]:
        """The names of all shards."""
        n = len(self.shards)
        return [
            shards.prefix + name
            for i, shards in enumerate(self.shards)
            for name in [*shards.names(), *(f"match-{j}" for j in range(n) if j != i)]
        ]

    def prepare(self) -> None:
        """Compute what all shards share, so that processes forked later do not repeat it."""
        for shards in self.shards:
            shards.prepare()

    def script(self, name: str) -> bytes:
        """The script of one shard. Raises UsageError for a name that no run has a shard of."""
        found = NAME.fullmatch(name)
        number = int(found[1] or 0) if found else 0
        if not found or number >= len(self.shards):
            raise UsageError(f"The explorer has no shard {name!r}.", "See `names`.")
        shards = self.shards[number]
        match = MATCH.fullmatch(found[2])
        if not match:
            return shards.script(found[2])
        other = int(match[1])
        if other >= len(self.shards) or other == number:
            raise UsageError(f"The explorer has no shard {name!r}.", "See `names`.")
        return pack_script(name, match_runs(shards.features, self.shards[other].features))


def match_runs(ours: Features, theirs: Features) -> dict[str, Any]:
    """The nearest direction in another run of every feature.

    `feature` (F,) is its number there and `cosine` (F,) the cosine in thousandths, null for a
    direction of length 0; `chance` is the median cosine when the other run's directions have their
    coordinates shuffled. Where the subjects or the widths differ, `refused` says so and nothing
    else is there.
    """
    a, b = (read_unit_directions(features) for features in (ours, theirs))
    settings = [features.run.settings for features in (ours, theirs)]
    if settings[0].subject != settings[1].subject or a.shape[1] != b.shape[1]:
        return {"refused": "The runs are about different subjects or widths."}
    feature, cosine = find_nearest(a, b)
    rng = np.random.default_rng(settings[0].seed)
    some = a[rng.permutation(len(a))[:BLOCK]]
    _, chance = find_nearest(some, rng.permuted(b, axis=1))
    known = np.linalg.norm(a, axis=1) > 0
    return {
        "same_site": settings[0].site == settings[1].site,
        "feature": [int(f) if k else None for f, k in zip(feature, known, strict=True)],
        "cosine": [
            round(1000 * float(c)) if k else None for c, k in zip(cosine, known, strict=True)
        ],
        "chance": round(float(np.median(chance)), 3),
    }


def read_unit_directions(features: Features) -> np.ndarray:
    """The decoder directions (F, D) float32 at length 1; one of length 0 stays 0."""
    directions = np.asarray(read_directions(features.run), np.float32)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    unit: np.ndarray = directions / np.maximum(lengths, 1e-12)
    return unit


def find_nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row of b, cosine) of the largest cosine for each row of a; both hold unit rows."""
    rows, cosines = [], []
    for start in range(0, len(a), BLOCK):
        products = a[start : start + BLOCK] @ b.T
        best = products.argmax(1)
        rows.append(best)
        cosines.append(products[np.arange(len(best)), best])
    return np.concatenate(rows), np.concatenate(cosines)

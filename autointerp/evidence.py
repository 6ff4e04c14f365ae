"""What the data say of a feature before anyone labels it: firings, statistics, output tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from autointerp.examples import STRATA, Examples, Firings
from core.effects.unit import read_effects
from core.errors import UsageError
from core.firings.postings import Postings
from core.records import SPLITS, FeatureStats
from core.run import Run
from core.text.tokens import Tokens

RARE_DOCUMENTS = 5  # a feature that fires in fewer test documents has no score
DENSE = 0.1  # share of tokens; a feature that fires on more is dense
BINS = 30  # of a histogram
VALUE_OF = {  # column of tokens in the table of effects -> column of their values
    "promoted": "promoted_logit",
    "suppressed": "suppressed_logit",
    "measured": "measured_change",
}


class TokenEffect(NamedTuple):
    """An output token and by how much the feature's direction, or its clamp, raises it."""

    token: str
    logit: float


@dataclass(frozen=True)
class FeatureEvidence:
    """What the firings of one feature say, from one visit to its postings."""

    stats: FeatureStats
    counts: np.ndarray  # (bins,) firings in each bin of the histogram
    edges: np.ndarray  # (bins + 1,) SAE units, from 0 to the largest activation
    strata: list[dict[str, Any]]  # see `strata`


class Evidence:
    """What the capture, the index and the effects of a run say, by feature.

    Labellers and scorers read this, and nothing that other labellers or scorers said. Raises
    NotReady when the run has no index.
    """

    def __init__(self, run: Run):
        self.run = run
        self.tokens = Tokens(run.folder("capture"))
        self.postings = Postings(run.folder("index"), run.folder("capture"))
        self.examples = Examples(self.postings, self.tokens)

    @property
    def n_features(self) -> int:
        """The number of features F."""
        return self.postings.n_features

    @property
    def density(self) -> np.ndarray:
        """The share of kept tokens (F,) on which each feature fires."""
        return self.postings.n_firings / self.postings.n_tokens

    @property
    def alive(self) -> np.ndarray:
        """The numbers, ascending, of the features that fire at least once."""
        return np.flatnonzero(self.postings.n_firings > 0)

    def check(self, feature: int) -> int:
        """Return `feature`; raises UsageError when the run has no such feature."""
        if not 0 <= feature < self.n_features:
            raise UsageError(
                f"There is no feature {feature}.",
                f"Run {self.run.name} has features 0 to {self.n_features - 1}.",
            )
        return feature

    def of(self, feature: int, firings: Firings | None = None) -> FeatureEvidence:
        """Return statistics, histogram and strata of one feature.

        `firings` are the feature's, where the caller holds them already. Raises UsageError when
        there is no such feature.
        """
        firings = firings or self.postings.firings(self.check(feature))
        counts, edges = histogram(firings[1])
        return FeatureEvidence(self.stats(feature, firings), counts, edges, strata(firings[1]))

    def stats(self, feature: int, firings: Firings | None = None) -> FeatureStats:
        """Return how often and how strongly one feature fires; arguments as those of `of`."""
        where, values = firings or self.postings.firings(self.check(feature))
        documents = np.flatnonzero(np.diff(np.searchsorted(where, self._document_offsets)))
        n_test = int((self.tokens.split[documents] == SPLITS.index("test")).sum())
        density = len(where) / self.postings.n_tokens
        largest = float(values.max()) if len(values) else 0.0
        status = status_of(len(where), density, n_test)
        return FeatureStats(feature, status, density, len(where), len(documents), largest)

    @cached_property
    def effects(self) -> pd.DataFrame | None:
        """The table of the effects stage by feature; None before that stage has run."""
        table = read_effects(self.run)
        return None if table is None else table.set_index("feature")

    def promoted(self, feature: int) -> list[TokenEffect]:
        """Return the tokens that the feature's direction promotes most; none before `effects`."""
        return self._token_effects(feature, "promoted")

    def suppressed(self, feature: int) -> list[TokenEffect]:
        """Return the tokens that the feature's direction suppresses most; none before `effects`."""
        return self._token_effects(feature, "suppressed")

    def measured(self, feature: int) -> list[TokenEffect]:
        """Return the tokens that a clamp of the feature makes likelier, by nats of log-probability
        beyond what other clamps do; none where `effects` measured none.
        """
        return self._token_effects(feature, "measured")

    def prepare(self) -> None:
        """Compute what all features share, so that processes forked later do not repeat it."""
        self._document_offsets, self._effect_rows  # noqa: B018 - computed once

    def _token_effects(self, feature: int, side: str) -> list[TokenEffect]:
        tokens, logits = self._effect_rows[side].get(feature, ((), ()))
        return [TokenEffect(t, float(v)) for t, v in zip(tokens, logits, strict=True)]

    @cached_property
    def _effect_rows(self) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """{side: {feature: (tokens, logits)}}; a row of the frame would be slow to look up."""
        table = self.effects
        rows: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        for side, value in VALUE_OF.items():
            rows[side] = {}
            if table is not None and side in table:
                pairs = zip(table[side], table[value], strict=True)
                rows[side] = dict(zip(table.index.tolist(), pairs, strict=True))
        return rows

    @cached_property
    def _document_offsets(self) -> np.ndarray:
        return np.asarray(self.tokens.document_offsets, np.int64)


def status_of(n_firings: int, density: float, n_test_documents: int) -> str:
    """Return dead, dense, rare or alive; see FeatureStats."""
    if not n_firings:
        return "dead"
    if density > DENSE:
        return "dense"
    return "rare" if n_test_documents < RARE_DOCUMENTS else "alive"


def histogram(values: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Return (counts (bins,), edges (bins + 1,)) of non-zero activations, from 0 to the largest."""
    return np.histogram(values, bins=bins, range=(0, float(values.max()) if len(values) else 1.0))


def strata(values: np.ndarray) -> list[dict[str, Any]]:
    """Return the quantile strata of non-zero activations, highest first.

    Each has `stratum` (its name), `low` (its smallest activation), `firings` (its share of the
    firings) and `mass` (its share of the summed activation). Empty strata are left out.
    """
    ordered = np.sort(values)
    total, n = float(ordered.sum(dtype=np.float64)), len(ordered)
    rows = []
    for name, low, high in STRATA if n else ():
        inside = ordered[int(low * n) : int(high * n) if high < 1 else n]
        if len(inside):
            mass = float(inside.sum(dtype=np.float64)) / total
            rows.append(
                {
                    "stratum": name,
                    "low": float(inside[0]),
                    "firings": len(inside) / n,
                    "mass": mass,
                }
            )
    return rows

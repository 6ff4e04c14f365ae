"""Scores by stratum of a feature's firings, from a sample: the top tenth, the upper half, all.

A sample takes firings of every size and text around them, so its tokens do not stand for equally
many tokens of the corpus. The index knows how many there are: firings in each fifth of `examples`
(by quantile), silent tokens near a firing (in reach of a window) and far from any. Each sampled
token is weighted by the tokens of its cell over the sampled tokens of the cell, which is called
post-stratification (Holt and Smith 1979), so that a weighted mean estimates the one over all
held-out tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autointerp.examples import AFTER, BEFORE, Examples, Firings
from autointerp.examples import STRATA as QUANTILES
from autointerp.scores.unit import STRATA
from autointerp.statistics import (
    correlation,
    document_sums,
    interval,
    ratio_interval,
)
from core.firings.postings import lookup

SILENT, HAIR = -1.0, 1e-9  # quantile of a silent token; what is taken off a quantile
Values = dict[str, float]  # a value, or an end of its interval, by name


@dataclass(frozen=True)
class Weighted:
    """Sampled held-out tokens of one feature, and how many tokens each stands for."""

    activations: np.ndarray  # (n,) float64, SAE units
    documents: np.ndarray  # (n,) ascending
    quantiles: np.ndarray  # (n,) as `quantile_of` gives them
    weights: np.ndarray  # (n,)

    def stratum(self, name: str) -> np.ndarray:
        """bool (n,): the firings of a stratum."""
        return self.quantiles >= STRATA[name]

    def known(self, predicted: np.ndarray) -> Weighted:
        """The tokens with a prediction, where `predicted` (n,) is NaN for those without one."""
        kept = ~np.isnan(predicted)
        return Weighted(
            self.activations[kept], self.documents[kept], self.quantiles[kept], self.weights[kept]
        )

    @property
    def silent(self) -> np.ndarray:
        return self.quantiles == SILENT


def weigh(
    examples: Examples, firings: Firings, ordinals: np.ndarray, documents: np.ndarray
) -> Weighted:
    """Weigh a sample of held-out tokens at `ordinals` (n,), ascending, by what the index counts."""
    where, values, _ = examples.firings_in(firings, "test")
    activations = lookup(where, values, ordinals).astype(np.float64)
    quantiles = quantile_of(values, activations)
    cells, counts = _cells(where, quantiles, ordinals), _count_cells(where, examples)
    sampled = np.bincount(cells, minlength=len(counts))
    weights = counts / np.maximum(sampled, 1)
    return Weighted(activations, documents, quantiles, weights[cells])


def quantile_of(values: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """(n,) share of the firings `values` (m,) that are weaker, or itself; SILENT for 0.

    A hair is taken off, so that the firing of rank r lies above quantile q where r >= int(q m).
    """
    below = np.searchsorted(np.sort(values), activations.astype(values.dtype), side="left")
    return np.where(activations > 0, (below + 1) / max(1, len(values)) - HAIR, SILENT)


def _cells(where: np.ndarray, quantiles: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """(n,) cell of each token: a fifth of the firings, silent near one, silent far from any."""
    lows = np.array([low for _, low, _ in QUANTILES])  # descending
    fifth = (quantiles[:, None] < lows).sum(1)
    first, past = (np.searchsorted(where, ordinals + d) for d in (-AFTER, BEFORE + 1))
    near = len(lows) + (first == past)
    return np.where(quantiles == SILENT, near, fifth)


def _count_cells(where: np.ndarray, examples: Examples) -> np.ndarray:
    """(cells,) held-out tokens of each cell; those near a firing to the precision of row ends."""
    m, n = len(where), len(examples.pool("test"))
    bounds = [(int(low * m), int(high * m) if high < 1 else m) for _, low, high in QUANTILES]
    reach = BEFORE + AFTER + 1
    near = int(np.minimum(np.diff(where), reach).sum()) + reach * bool(m) - m
    near = min(max(near, 0), n - m)
    return np.array([*(b - a for a, b in bounds), near, n - m - near], np.float64)


# ---------------------------------------------------------------- values


def correlations(sample: Weighted, predicted: np.ndarray, bounded: bool) -> Values:
    """Pearson's r by stratum: over its firings and all silent tokens, weighted.

    A NaN in `predicted` (n,) is left out. A constant prediction explains nothing: r is 0. With
    `bounded`, also `low_` and `high_`, the ends of 95 % intervals over documents.
    """
    out: Values = {}
    known = ~np.isnan(predicted)
    for name in STRATA:
        kept = known & (sample.silent | sample.stratum(name))
        sums = document_sums(
            predicted[kept], sample.activations[kept], sample.documents[kept], sample.weights[kept]
        )
        out[name] = float(np.nan_to_num(correlation(sums.sum(0))))
        if bounded and (span := interval(sums)):
            out[f"low_{name}"], out[f"high_{name}"] = span
    return out


def recall(sample: Weighted, told: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(activation on told tokens of a stratum, all of it), weighted, by document."""
    mass = sample.weights * sample.activations * sample.stratum(name)
    return by_document(sample, mass * told), by_document(sample, mass)


def precision(sample: Weighted, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(prediction on tokens where the feature fires, all prediction), weighted, by document."""
    mass = sample.weights * predicted
    return by_document(sample, mass * ~sample.silent), by_document(sample, mass)


def by_document(sample: Weighted, values: np.ndarray) -> np.ndarray:
    """Sums of `values` (n,) by document, of those in the sample."""
    starts = np.flatnonzero(np.r_[True, np.diff(sample.documents) != 0])
    return np.add.reduceat(values, starts) if len(values) else values


def area(sample: Weighted, predicted: np.ndarray, name: str) -> float:
    """Weighted area under the ROC curve of a stratum's firings against silent tokens."""
    firing, silent = sample.stratum(name), sample.silent
    if not firing.any() or not silent.any():
        return float("nan")
    order = np.argsort(predicted[silent], kind="stable")
    levels = predicted[silent][order]
    below = np.r_[0.0, np.cumsum(sample.weights[silent][order])]
    p = predicted[firing]
    sides = (below[np.searchsorted(levels, p, side=side)] for side in ("left", "right"))
    won = sum(sides) / (2 * below[-1])
    return float(np.average(won, weights=sample.weights[firing]))


def share(parts: np.ndarray, wholes: np.ndarray, bounded: bool, name: str) -> Values:
    """The share of the summed wholes that the parts are, with an interval where `bounded`."""
    whole = float(wholes.sum())
    out = {name: float(parts.sum()) / whole if whole > 0 else float("nan")}
    if bounded and (span := ratio_interval(parts, wholes)):
        out[f"low_{name}"], out[f"high_{name}"] = span
    return out

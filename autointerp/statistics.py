"""Correlations, nulls and intervals from sums per document.

A Pearson correlation needs six sums of each document, so a correlation over any set or weighting of
documents is a matrix product. Columns of `sums` (documents, 6): n, sum p, sum a, sum p^2, sum a^2,
sum p a, for predictions p and activations a.

The interval is a delete-one-document jackknife of Fisher's z with Student's t: with few documents
it covers 95 % better than a percentile bootstrap does (`tests/benchmarks/coverage.py`; numbers in
docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import norm as normal
from scipy.stats import t as student

MIN_PANEL = 8  # documents on either side of a balanced accuracy; with fewer, no interval is shown
MIN_DOCUMENTS = 30  # documents in which the feature fires; with fewer, no interval is shown


def document_sums(
    predicted: np.ndarray,
    activations: np.ndarray,
    documents: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Sums (d, 6), float64, of predictions (n,) and activations (n,) for each document.

    `documents` (n,) is ascending; the rows follow its distinct values. Each token counts
    `weights` (n,) times, or once.
    """
    if not len(documents):
        return np.zeros((0, 6))
    p, a = predicted.astype(np.float64), activations.astype(np.float64)
    columns = np.stack([np.ones_like(p), p, a, p * p, a * a, p * a], axis=1)
    if weights is not None:
        columns *= weights[:, None]
    starts = np.flatnonzero(np.r_[True, documents[1:] != documents[:-1]])
    return np.add.reduceat(columns, starts, axis=0)


def correlation(sums: np.ndarray) -> np.ndarray:
    """Pearson's r (...,) of summed columns (..., 6); NaN where either side is constant."""
    n, p, a, pp, aa, pa = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    spread_p, spread_a = n * pp - p * p, n * aa - a * a
    tiny = 1e-12
    constant = (spread_p <= tiny * np.maximum(n * pp, tiny)) | (
        spread_a <= tiny * np.maximum(n * aa, tiny)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (n * pa - p * a) / np.sqrt(spread_p * spread_a)
    return np.where(constant, np.nan, np.clip(r, -1.0, 1.0))


def interval(sums: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """A two-sided interval for the correlation over documents (d, 6).

    None with fewer than three documents, or where deleting a document leaves it undefined.
    """
    d = len(sums)
    if d < 3:
        return None
    total = sums.sum(0)
    whole, left = correlation(total), correlation(total - sums)
    if np.isnan(whole) or np.isnan(left).any():
        return None
    z = np.arctanh(np.clip([whole], -0.9999, 0.9999))[0]
    z_left = np.arctanh(np.clip(left, -0.9999, 0.9999))
    pseudo = d * z - (d - 1) * z_left
    half = student.ppf(0.5 + level / 2, d - 1) * pseudo.std(ddof=1) / np.sqrt(d)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def ratio_interval(
    parts: np.ndarray, wholes: np.ndarray, level: float = 0.95
) -> tuple[float, float] | None:
    """A two-sided interval for sum(parts) / sum(wholes), each (d,) by document, parts <= wholes.

    A delete-one-document jackknife of the logit with Student's t. Documents whose whole is 0 are
    left out; None with fewer than three others, or where one of them holds all of the wholes.
    """
    held = wholes > 0
    parts, wholes = parts[held].astype(np.float64), wholes[held].astype(np.float64)
    d, rest = len(parts), wholes.sum() - wholes
    if d < 3 or (rest <= 0).any():
        return None
    whole = _logit(np.array([parts.sum() / wholes.sum()]))[0]
    left = _logit((parts.sum() - parts) / rest)
    pseudo = d * whole - (d - 1) * left
    half = student.ppf(0.5 + level / 2, d - 1) * pseudo.std(ddof=1) / np.sqrt(d)
    low, high = 1 / (1 + np.exp(-np.clip([whole - half, whole + half], -50, 50)))
    return float(low), float(high)


def _logit(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))


def auroc(fires: np.ndarray, silent: np.ndarray) -> float:
    """Share of pairs in which a rating of `fires` (a,) is above one of `silent` (b,).

    Ties count half. NaN when a side is empty.
    """
    if not len(fires) or not len(silent):
        return float("nan")
    ordered = np.sort(silent)
    below = np.searchsorted(ordered, fires, side="left")
    upto = np.searchsorted(ordered, fires, side="right")
    return float((below + upto).mean() / (2 * len(ordered)))


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share of n (Wilson 1927); (0, 1) for n 0."""
    if n == 0:
        return 0.0, 1.0
    z = normal.ppf(0.5 + level / 2)
    centre = share + z * z / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


def balanced_interval(
    hits: float, n_fire: float, passes: float, n_silent: float
) -> tuple[float, float]:
    """An interval for the mean of two independent shares, of n_fire and of n_silent.

    It combines Wilson's interval of each (Newcombe 1998, method 10).
    """
    (a, b), (c, d) = wilson(hits, n_fire), wilson(passes, n_silent)
    middle = (hits + passes) / 2
    low = middle - float(np.hypot(hits - a, passes - c)) / 2
    return low, middle + float(np.hypot(b - hits, d - passes)) / 2


def matched_null(density: np.ndarray, rng: np.random.Generator, window: int = 16) -> np.ndarray:
    """For each entry of `density` (m,) the index of another one of like density.

    It is drawn at random among the `window` nearest in rank.
    """
    m = len(density)
    if m < 2:
        return np.full(m, -1)
    order = np.argsort(density, kind="stable")
    reach = min(window, m - 1)
    low = np.clip(np.arange(m) - reach // 2, 0, m - 1 - reach)
    drawn = low + rng.integers(0, reach, m)  # among `reach` candidates without the entry itself
    drawn += drawn >= np.arange(m)
    out = np.empty(m, dtype=np.int64)
    out[order] = order[drawn]
    return out


def bootstrap_median(
    values: np.ndarray, rng: np.random.Generator, draws: int = 1000
) -> tuple[float, float, float]:
    """(median, low, high) of values (m,) with a 95 % percentile interval; NaN without values."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    medians = np.median(values[rng.integers(0, len(values), (draws, len(values)))], axis=1)
    return (
        float(np.median(values)),
        float(np.quantile(medians, 0.025)),
        float(np.quantile(medians, 0.975)),
    )


def density_strata(density: np.ndarray, n: int = 10) -> np.ndarray:
    """(m,) quantile of each entry's density by rank, 0 to n - 1; nulls shuffle within each."""
    return np.argsort(np.argsort(density, kind="stable"), kind="stable") * n // max(len(density), 1)


def shuffle_within(values: np.ndarray, stratum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle `values` (m,) among entries of the same stratum."""
    out = values.copy()
    for s in np.unique(stratum):
        here = np.flatnonzero(stratum == s)
        out[here] = values[rng.permutation(here)]
    return out


@dataclass(frozen=True)
class ShuffleTest:
    """A value compared with the same value after shuffles."""

    value: float
    null: float  # mean of the shuffles
    spread: float  # standard deviation of the shuffles
    z: float | None  # (value - null) / spread; None where the shuffles do not differ
    p: float  # one-sided: (1 + shuffles as high) / (1 + shuffles)

    def to_dict(self) -> dict:
        """Rounded, for a summary."""
        return {name: None if v is None else round(v, 6) for name, v in asdict(self).items()}


def compare_with_shuffles(value: float, shuffled: list[float]) -> ShuffleTest:
    """Compare `value` with the same value after shuffles."""
    null, spread = float(np.mean(shuffled)), float(np.std(shuffled))
    z = (value - null) / spread if spread > 1e-12 else None
    as_high = int(np.sum(np.array(shuffled) >= value - 1e-12))
    return ShuffleTest(value, null, spread, z, (1 + as_high) / (1 + len(shuffled)))

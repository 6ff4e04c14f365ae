"""What the data say of a feature before anyone labels it: statistics, histogram, strata of its activations."""

from __future__ import annotations

import numpy as np

from autointerp.examples import STRATA

RARE_DOCUMENTS = 5  # a feature that fires in fewer test documents has no score
DENSE = 0.1  # share of tokens
Firings = tuple[np.ndarray, np.ndarray]  # (ordinals (m,) ascending, activations (m,))


def histogram(values: np.ndarray, bins: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """(counts (bins,), edges (bins + 1,)) of non-zero activations, from 0 to the largest."""
    return np.histogram(values, bins=bins, range=(0, float(values.max()) if len(values) else 1.0))


def strata(values: np.ndarray) -> list[dict]:
    """The quantile strata of non-zero activations: name, smallest activation, share of the firings and of the summed activation."""
    ordered = np.sort(values)
    total, n = float(ordered.sum(dtype=np.float64)), len(ordered)
    out = []
    for name, low, high in STRATA if n else ():
        inside = ordered[int(low * n) : int(high * n) if high < 1 else n]
        if len(inside):
            out.append(
                {
                    "stratum": name,
                    "low": float(inside[0]),
                    "firings": len(inside) / n,
                    "mass": float(inside.sum(dtype=np.float64)) / total,
                }
            )
    return out

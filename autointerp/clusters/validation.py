"""Are the groups real? The real result held against clouds without groups, other seeds and subsamples: arrays in, figures and a sentence out.

The verdict rests on one figure, the *cohesion* of the finest layer: how close features are to the other members of their group, averaged over
all features, those without a group counting 0. It must lie above that of Gaussian clouds with the same mean and covariance by a
one-sided t-test of one new value against the nulls (p < 0.01), and half of the groups must come back in subsamples. The number of groups decides nothing:
UMAP with HDBSCAN finds groups in anything. Uniform and column-shuffled directions stand beside it and decide nothing either; one cloud that
is only longer in some directions already beats both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.01  # of the test against the nulls
DISSOLVED, STABLE = (
    0.5,
    0.75,
)  # Jaccard in subsamples below which a group has dissolved, and above which it is stable (Hennig 2007)


def jaccards(group: np.ndarray, other: np.ndarray, common: np.ndarray) -> np.ndarray:
    """(G,) for each group 0..G-1 of `group` (N,) the largest Jaccard overlap with a group of `other` (N,), among the rows `common`.

    NaN where no member is among them.
    """
    from scipy.sparse import coo_matrix

    n_groups = int(group.max(initial=-1)) + 1
    ours, theirs = group[common], other[common]
    both = (ours >= 0) & (theirs >= 0)
    shape = (n_groups, max(int(theirs.max(initial=-1)) + 1, 1))
    shared = (
        coo_matrix((np.ones(both.sum()), (ours[both], theirs[both])), shape=shape).tocsr().tocoo()
    )
    size, other_size = (
        np.bincount(ours[ours >= 0], minlength=n_groups),
        np.bincount(theirs[theirs >= 0], minlength=shape[1]),
    )
    best = np.where(size > 0, 0.0, np.nan)
    np.fmax.at(
        best, shared.row, shared.data / (size[shared.row] + other_size[shared.col] - shared.data)
    )
    return best


def agreement(group: np.ndarray, other: np.ndarray, common: np.ndarray) -> dict:
    """Adjusted Rand index among the rows `common`: with each row of noise as a group of its own, and over the rows that both group."""
    from sklearn.metrics import adjusted_rand_score

    a, b = group[common], other[common]
    single = lambda labels: np.where(
        labels < 0, labels.max(initial=-1) + 1 + np.arange(len(labels)), labels
    )
    both = (a >= 0) & (b >= 0)
    grouped = float(adjusted_rand_score(a[both], b[both])) if both.sum() > 1 else None
    return {
        "all": float(adjusted_rand_score(single(a), single(b))),
        "grouped": grouped,
        "share": float(both.mean()),
    }


@dataclass(frozen=True)
class Stability:
    """How one layer fares in other attempts."""

    jaccard: np.ndarray  # (G,) mean over attempts of the best overlap of each group
    ari: float  # median over attempts, noise as single rows
    ari_grouped: float | None  # median, over the rows that both attempts group


def stability(
    group: np.ndarray, others: list[np.ndarray], common: list[np.ndarray]
) -> Stability | None:
    """Of one layer's groups (N,) against those of other attempts, each compared on its own `common` rows; None without attempts."""
    if not others:
        return None
    overlaps = np.array(
        [jaccards(group, other, rows) for other, rows in zip(others, common, strict=True)]
    )
    scores = [agreement(group, other, rows) for other, rows in zip(others, common, strict=True)]
    grouped = [s["grouped"] for s in scores if s["grouped"] is not None]
    seen = ~np.isnan(overlaps)
    mean = np.where(seen, overlaps, 0).sum(0) / np.maximum(seen.sum(0), 1)
    return Stability(
        mean,
        float(np.median([s["all"] for s in scores])),
        float(np.median(grouped)) if grouped else None,
    )


def above_nulls(value: float, nulls: list[float]) -> float | None:
    """p, one-sided, that a value drawn like the nulls is as high: Student's t of one new value against their mean. None with fewer than 3."""
    from scipy.stats import t as student

    if len(nulls) < 3:
        return None
    spread = np.std(nulls, ddof=1) * np.sqrt(1 + 1 / len(nulls))
    excess = value - np.mean(nulls)
    if spread < 1e-9:
        return 0.0 if excess > 1e-9 else 1.0
    return float(student.sf(excess / spread, len(nulls) - 1))


@dataclass(frozen=True)
class Verdict:
    """`structure`, `unstable` (more cohesion than the null, but most groups do not come back), `none`, or `untested`."""

    kind: str
    text: str


def verdict(
    n_groups: int, cohesion: float, nulls: list[float], kept: float | None, p_fire: float | None
) -> Verdict:
    """What the groups of the finest layer are worth, in one sentence.

    `nulls` are the cohesions of the Gaussian clouds, `kept` the share of groups with a Jaccard of at least 0.5 in subsamples, `p_fire` the p that
    members fire together no more than shuffled ones.
    """
    p = above_nulls(cohesion, nulls)
    together = (
        ""
        if p_fire is None
        else "; members fire together more than chance"
        if p_fire < LEVEL
        else "; members do not fire together more than chance"
    )
    if not n_groups:
        return Verdict(
            "none",
            "No groups were found: hardly any direction is nearer to another than random directions are.",
        )
    if p is None:
        return Verdict(
            "untested",
            f"{n_groups} groups were found; without at least 3 null clouds nothing says whether they are real{together}.",
        )
    shown = f"cohesion {cohesion:.3f} against {np.mean(nulls):.3f} ± {np.std(nulls, ddof=1):.3f} in Gaussian clouds of the same mean and covariance"
    if p >= LEVEL:
        return Verdict(
            "none",
            f"No structure beyond one cloud: the {n_groups} groups are no closer than in noise ({shown}){together}.",
        )
    back = (
        "" if kept is None else f", and {kept:.0%} of the {n_groups} groups come back in subsamples"
    )
    if kept is not None and kept < 0.5:
        return Verdict(
            "unstable",
            f"Features lie closer together than in noise ({shown}), but only {kept:.0%} of the {n_groups} groups come back in subsamples{together}.",
        )
    return Verdict("structure", f"The groups are more than noise: {shown}{back}{together}.")

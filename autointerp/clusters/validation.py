"""Are the clusters real? Compare them with clouds without clusters, other seeds and subsamples.

The verdict rests on the *cohesion* of the finest level: the mean cosine of a feature to the other
members of its cluster, averaged over all features, where features without a cluster count as 0. Two
conditions decide. Cohesion must lie above that of Gaussian clouds with the same mean and covariance
(one-sided t-test of one new value against the nulls, p < 0.01), and half of the clusters must come
back in subsamples. The number of clusters decides nothing, because UMAP with HDBSCAN finds clusters
in anything. Uniform and column-shuffled directions are reported but decide nothing either: a single
cloud that is merely longer in some directions beats both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.01  # significance level of the test against the nulls
# Jaccard overlap in subsamples below which a cluster has dissolved, and from which it is stable
# (Hennig 2007).
DISSOLVED, STABLE = 0.5, 0.75


def jaccards(cluster: np.ndarray, other: np.ndarray, common: np.ndarray) -> np.ndarray:
    """(C,) largest Jaccard overlap of each cluster of `cluster` (N,) with one of `other` (N,).

    Only the rows `common` count. NaN where no member of the cluster is among them.
    """
    from scipy.sparse import coo_matrix

    n_clusters = int(cluster.max(initial=-1)) + 1
    ours, theirs = cluster[common], other[common]
    both = (ours >= 0) & (theirs >= 0)
    shape = (n_clusters, max(int(theirs.max(initial=-1)) + 1, 1))
    pairs = coo_matrix((np.ones(both.sum()), (ours[both], theirs[both])), shape=shape)
    shared = pairs.tocsr().tocoo()  # duplicate entries are summed
    size = np.bincount(ours[ours >= 0], minlength=n_clusters)
    other_size = np.bincount(theirs[theirs >= 0], minlength=shape[1])
    union = size[shared.row] + other_size[shared.col] - shared.data
    best = np.where(size > 0, 0.0, np.nan)
    np.fmax.at(best, shared.row, shared.data / union)
    return best


def rand_indices(
    cluster: np.ndarray, other: np.ndarray, common: np.ndarray
) -> tuple[float, float | None]:
    """Adjusted Rand indices among the rows `common`: (all, clustered).

    `all` treats each row of noise as a cluster of its own; `clustered` covers the rows that both
    label, and is None with fewer than two of them.
    """
    from sklearn.metrics import adjusted_rand_score

    a, b = cluster[common], other[common]
    both = (a >= 0) & (b >= 0)
    clustered = float(adjusted_rand_score(a[both], b[both])) if both.sum() > 1 else None
    return float(adjusted_rand_score(number_noise(a), number_noise(b))), clustered


def number_noise(labels: np.ndarray) -> np.ndarray:
    """`labels` (n,) where each -1 becomes a cluster of its own."""
    return np.where(labels < 0, labels.max(initial=-1) + 1 + np.arange(len(labels)), labels)


@dataclass(frozen=True)
class Stability:
    """How often the clusters of one level come back in replicates."""

    jaccard: np.ndarray  # (C,) mean over replicates of the best overlap of each cluster
    ari: float  # median over replicates, with each row of noise as a cluster
    ari_grouped: float | None  # median over the rows that both label


def measure_stability(
    cluster: np.ndarray, others: list[np.ndarray], common: list[np.ndarray]
) -> Stability | None:
    """Compare one level's clusters (N,) with those of replicates; None without replicates.

    Each replicate is compared on its own `common` rows.
    """
    if not others:
        return None
    pairs = list(zip(others, common, strict=True))
    overlaps = np.array([jaccards(cluster, other, rows) for other, rows in pairs])
    indices = [rand_indices(cluster, other, rows) for other, rows in pairs]
    clustered = [index for _, index in indices if index is not None]
    seen = ~np.isnan(overlaps)
    return Stability(
        np.where(seen, overlaps, 0).sum(0) / np.maximum(seen.sum(0), 1),
        float(np.median([index for index, _ in indices])),
        float(np.median(clustered)) if clustered else None,
    )


def p_above_nulls(value: float, nulls: list[float]) -> float | None:
    """One-sided p that a value drawn like the nulls is as high; None with fewer than 3 nulls.

    Student's t of one new value against the mean of the nulls.
    """
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
    """The verdict on the clusters of the finest level.

    `kind` is `structure`, `unstable` (more cohesion than the null, but most clusters do not come
    back), `none`, or `untested`.
    """

    kind: str
    text: str


def judge(
    n_clusters: int,
    cohesion: float,
    nulls: list[float],
    kept: float | None,
    p_fire: float | None,
) -> Verdict:
    """Judge the clusters of the finest level, in one sentence.

    `nulls` are the cohesions of the Gaussian clouds, `kept` is the share of clusters with a Jaccard
    of at least 0.5 in subsamples, `p_fire` the p that members fire together no more than shuffled
    ones.
    """
    p, together = p_above_nulls(cohesion, nulls), describe_firing(p_fire)
    if not n_clusters:
        return Verdict(
            "none",
            "No clusters were found: hardly any direction is nearer to another than random "
            "directions are.",
        )
    if p is None:
        return Verdict(
            "untested",
            f"{n_clusters} clusters were found; without at least 3 null clouds nothing says "
            f"whether they are real{together}.",
        )
    shown = (
        f"cohesion {cohesion:.3f} against {np.mean(nulls):.3f} ± {np.std(nulls, ddof=1):.3f} in "
        "Gaussian clouds of the same mean and covariance"
    )
    if p >= LEVEL:
        return Verdict(
            "none",
            f"No structure beyond one cloud: the {n_clusters} clusters are no closer than in "
            f"noise ({shown}){together}.",
        )
    if kept is not None and kept < DISSOLVED:
        return Verdict(
            "unstable",
            f"Features lie closer together than in noise ({shown}), but only {kept:.0%} of the "
            f"{n_clusters} clusters come back in subsamples{together}.",
        )
    back = "" if kept is None else f", and {kept:.0%} of the {n_clusters} clusters come back"
    back += "" if kept is None else " in subsamples"
    return Verdict("structure", f"The clusters are more than noise: {shown}{back}{together}.")


def describe_firing(p_fire: float | None) -> str:
    """The clause of the verdict that says whether members fire together."""
    if p_fire is None:
        return ""
    if p_fire < LEVEL:
        return "; members fire together more than chance"
    return "; members do not fire together more than chance"

"""Neighbours, chance level and UMAP layouts of unit directions (N, D): pure functions on arrays, seeded, no files.

Neighbours are exact (FAISS, inner product of unit rows) and are found once; UMAP receives them. A seeded UMAP runs its layout on one
thread; with given neighbours and a given start it gives the same bytes in every process of one machine, not across machines.
"""

from __future__ import annotations

import warnings

import numpy as np


def unit_rows(directions: np.ndarray) -> np.ndarray:
    """Rows (N, D) scaled to length 1, float32; a zero row stays zero."""
    length = np.linalg.norm(directions.astype(np.float64), axis=1, keepdims=True)
    return (directions / np.maximum(length, 1e-12)).astype(np.float32)


def nearest(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows int32 (N, k + 1), cosines float32 (N, k + 1)) of the k nearest of every unit row, exactly; column 0 is the row itself.

    Needs k < N. Where equal directions crowd a row out of its own list, it is put back in front.
    """
    import faiss

    index = faiss.IndexFlatIP(x.shape[1])
    index.add(np.ascontiguousarray(x))
    cosines, rows = index.search(np.ascontiguousarray(x), k + 1)
    own = np.arange(len(x))
    is_self = rows == own[:, None]
    is_self[~is_self.any(1), -1] = True
    others = rows[~is_self].reshape(len(x), k), cosines[~is_self].reshape(len(x), k)
    return np.c_[own, others[0]].astype(np.int32), np.clip(np.c_[np.ones(len(x)), others[1]], -1, 1).astype(np.float32)


def chance_cosine(n: int, d: int, quantile: float = 0.99) -> float:
    """The cosine that a random direction has to the nearest of n - 1 others in d dimensions, at this quantile.

    Exact, so nothing is simulated: for a uniformly random direction, (1 + cosine) / 2 to any fixed one follows
    Beta((d - 1) / 2, (d - 1) / 2), and given the one the others are independent. 0.27 for 2,048 directions in 256 dimensions.
    """
    from scipy.stats import beta

    tail = -np.expm1(np.log(quantile) / (n - 1))  # chance that one other direction is nearer
    return float(2 * beta.isf(tail, (d - 1) / 2, (d - 1) / 2) - 1)


def principal(x: np.ndarray, n_components: int) -> np.ndarray:
    """(N, n_components) float32 principal coordinates; each axis points to where its largest loading is positive."""
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :n_components]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return (centred @ axes).astype(np.float32)


def umap_neighbours(rows: np.ndarray, cosines: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """What umap-learn 0.5.12 may be given as `precomputed_knn`: (indices int32 (N, n), cosine distances float32 (N, n)).

    Exactly n columns: with fewer it drops the graph with only a warning, with more it uses them all below N = 4096. Column 0 is the
    row itself at distance 0. Distances, not similarities, never negative, and below 2, where it cuts an edge. Copies: it edits them.
    """
    if rows.shape[1] < n:
        raise ValueError(f"{rows.shape[1]} columns of neighbours, {n} needed")
    distances = np.clip(1.0 - cosines[:, :n], 0.0, 1.999)
    distances[:, 0] = 0.0
    if not (rows[:, 0] == np.arange(len(rows))).all():
        raise ValueError("column 0 must be the row itself")
    return np.ascontiguousarray(rows[:, :n], dtype=np.int32).copy(), distances.astype(np.float32)


def umap_layout(x: np.ndarray, graph: tuple[np.ndarray, np.ndarray], n_components: int, min_dist: float, seed: int) -> np.ndarray:
    """(N, n_components) float32 UMAP coordinates of unit rows x from their neighbours (see umap_neighbours).

    Starts from principal coordinates: the spectral start can fail, and draws unseeded numbers where the graph is in pieces.
    """
    import umap

    indices, distances = graph
    reducer = umap.UMAP(
        n_components=n_components, n_neighbors=indices.shape[1], min_dist=min_dist, metric="cosine", n_jobs=1,
        precomputed_knn=(indices, distances), init=principal(x, n_components), random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        # Only: that transform() is unavailable without an NNDescent object. That a graph was ignored stays visible.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        layout = reducer.fit_transform(x)
    if reducer.knn_indices is None:
        raise RuntimeError("UMAP ignored the neighbours that it was given")
    return np.asarray(layout, dtype=np.float32)


def neighbour_recall(rows: np.ndarray, layout: np.ndarray, k: int = 15) -> float:
    """Share of the k nearest directions (columns 1..k of `rows`) that are also among the k nearest points of the layout."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, rows.shape[1] - 1)
    near = NearestNeighbors(n_neighbors=k).fit(layout).kneighbors(return_distance=False)
    return float((rows[:, 1 : k + 1, None] == near[:, None, :]).any(2).mean())


def rim(layout: np.ndarray, outside: np.ndarray, near: np.ndarray) -> np.ndarray:
    """A copy of layout (N, 2) with the rows `outside` on an ellipse around the others, evenly spaced.

    Their order round the ellipse is that of the directions in which the means of `near`, (len(outside), k) rows, lie from the middle.
    """
    inside = np.setdiff1d(np.arange(len(layout)), outside)
    low, high = layout[inside].min(0), layout[inside].max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
    offset = (layout - middle) / half
    radius = 1.05 * np.linalg.norm(offset[inside], axis=1).max()
    known = np.isin(near, inside)
    mean = (offset[near] * known[..., None]).sum(1)
    turn = np.empty(len(outside))
    turn[np.argsort(np.arctan2(mean[:, 1], mean[:, 0]), kind="stable")] = 2 * np.pi * np.arange(len(outside)) / max(len(outside), 1) - np.pi
    placed = layout.copy()
    placed[outside] = middle + half * radius * np.c_[np.cos(turn), np.sin(turn)]
    return placed


def covariance_twin(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit rows (N, D) drawn from the Gaussian with the mean and covariance of x: its shape as a cloud, without its groups."""
    mean = x.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64)))
    return unit_rows(rng.normal(size=x.shape) * np.sqrt(np.maximum(values, 0)) @ vectors.T + mean)


def decorrelated(x: np.ndarray, power: float) -> np.ndarray:
    """Unit rows of x (N, D), centred, with its covariance C taken out to a power: (x - mean) C^(-power / 2). 0 gives x itself, 1 whitens.

    Less is taken out where few rows determine the covariance, `power * (1 - D / N)`, since D or fewer whitened rows are all orthogonal.
    Eigenvalues below a thousandth of the largest count as that.
    """
    power *= max(0.0, 1 - x.shape[1] / len(x))
    if power == 0:
        return x
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return unit_rows(centred @ vectors / np.maximum(values, values[-1] * 1e-3) ** (power / 2))

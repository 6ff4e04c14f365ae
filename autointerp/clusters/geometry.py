"""Neighbours, chance level and UMAP layouts of unit directions (N, D): pure functions on arrays, seeded, no files.

Neighbours are exact (FAISS, inner product of unit rows) and are found once; UMAP receives them. A seeded UMAP runs its layout on one
thread; with given neighbours and a given start it gives the same bytes in every process of one machine, not across machines.
"""

from __future__ import annotations

import warnings

import numpy as np

EPOCHS = 200  # UMAP's own number for large data; its 500 for small data took 2.5 times as long and found no better groups


def unit_rows(directions: np.ndarray) -> np.ndarray:
    """Rows (N, D) scaled to length 1, float32; a zero row stays zero."""
    length = np.sqrt(np.einsum("nd,nd->n", directions, directions, dtype=np.float64))
    return np.asarray(
        directions / np.maximum(length, 1e-12)[:, None].astype(np.float32), dtype=np.float32
    )


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
    return np.c_[own, others[0]].astype(np.int32), np.clip(
        np.c_[np.ones(len(x)), others[1]], -1, 1
    ).astype(np.float32)


def chance_cosine(n: int, d: int, quantile: float = 0.99) -> float:
    """The cosine that a random direction has to the nearest of n - 1 others in d dimensions, at this quantile.

    Exact, so nothing is simulated: for a uniformly random direction, (1 + cosine) / 2 to any fixed one follows
    Beta((d - 1) / 2, (d - 1) / 2), and given the one the others are independent. 0.27 for 2,048 directions in 256 dimensions.
    """
    from scipy.stats import beta

    tail = -np.expm1(np.log(quantile) / (n - 1))  # chance that one other direction is nearer
    return float(2 * beta.isf(tail, (d - 1) / 2, (d - 1) / 2) - 1)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean (D,), covariance (D, D)) of rows in float64, read in blocks: a float64 copy of 65,536 rows would be the largest thing in memory."""
    mean = x.mean(0, dtype=np.float64)
    total = np.zeros((x.shape[1], x.shape[1]))
    for part in blocks(x):
        centred = part - mean
        total += centred.T @ centred
    return mean, total / max(len(x) - 1, 1)


def blocks(x: np.ndarray, size: int = 8192):
    """Consecutive blocks of rows."""
    return (x[i : i + size] for i in range(0, len(x), size))


def mapped(x: np.ndarray, mean: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(x - mean) @ matrix in float64, block by block, as float32."""
    return np.concatenate([((part - mean) @ matrix).astype(np.float32) for part in blocks(x)])


def principal(x: np.ndarray, n_components: int) -> np.ndarray:
    """(N, n_components) float32 principal coordinates; each axis points to where its largest loading is positive."""
    mean, covariance = moments(x)
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :n_components]
    return mapped(x, mean, axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))


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


def umap_layout(
    start: np.ndarray, graph: tuple[np.ndarray, np.ndarray], min_dist: float, seed: int
) -> np.ndarray:
    """(N, n) float32 UMAP coordinates from a graph of neighbours (see umap_neighbours) and where the points start, (N, n).

    The start is principal coordinates: the spectral start can fail, and draws unseeded numbers where the graph is in pieces. The
    directions themselves are not needed once the neighbours are known.
    """
    import umap

    indices, distances = graph
    reducer = umap.UMAP(
        n_components=start.shape[1], n_neighbors=indices.shape[1], min_dist=min_dist, metric="cosine", n_jobs=1, n_epochs=EPOCHS,
        precomputed_knn=(indices, distances), init=start, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        # Only: that transform() is unavailable without an NNDescent object. That a graph was ignored stays visible.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        layout = reducer.fit_transform(start)
    if reducer.knn_indices is None:
        raise RuntimeError("UMAP ignored the neighbours that it was given")
    return np.asarray(layout, dtype=np.float32)


def subset_neighbours(
    rows: np.ndarray, cosines: np.ndarray, keep: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The n nearest (the row itself first) of each row of ascending `keep`, among `keep`, numbered within it: nothing is searched again.

    Raises ValueError where a row has fewer than n left.
    """
    place = np.full(len(rows), -1, np.int32)
    place[keep] = np.arange(len(keep))
    near = place[rows[keep]]
    if (near >= 0).sum(1).min() < n:
        raise ValueError(f"fewer than {n} neighbours are left")
    first = np.argsort(near < 0, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(near, first, 1), np.take_along_axis(cosines[keep], first, 1)


def neighbour_recall(rows: np.ndarray, layout: np.ndarray, k: int = 15, most: int = 5000) -> float:
    """Share of the k nearest directions (columns 1..k of `rows`) that are also among the k nearest points of the layout; of at most `most` rows."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, rows.shape[1] - 1)
    asked = np.unique(np.linspace(0, len(layout) - 1, min(most, len(layout))).astype(int))
    near = (
        NearestNeighbors(n_neighbors=k + 1)
        .fit(layout)
        .kneighbors(layout[asked], return_distance=False)
    )
    others = np.where(near == asked[:, None], -1, near)  # a point is no neighbour of its own
    return float((rows[asked, 1 : k + 1, None] == others[:, None, :]).any(2).mean())


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
    turn[np.argsort(np.arctan2(mean[:, 1], mean[:, 0]), kind="stable")] = (
        2 * np.pi * np.arange(len(outside)) / max(len(outside), 1) - np.pi
    )
    placed = layout.copy()
    placed[outside] = middle + half * radius * np.c_[np.cos(turn), np.sin(turn)]
    return placed


def upright(layout: np.ndarray) -> np.ndarray:
    """Layout (N, 2) turned so that it is widest along x, and mirrored so that its longer tails point right and up."""
    centred = layout - layout.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    turned = centred @ axes
    return (turned * np.where((turned**3).sum(0) < 0, -1, 1)).astype(np.float32)


def aligned(layout: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Layout (N, 2) turned, mirrored and moved to lie on `earlier` (N, 2) as well as it can; rows with NaN in either do not count.

    Orthogonal Procrustes without scaling, so that distances stay what UMAP made them. Fewer than three common rows: only `upright`.
    """
    common = np.isfinite(layout).all(1) & np.isfinite(earlier).all(1)
    if common.sum() < 3:
        return upright(layout)
    here, there = layout[common].mean(0), earlier[common].mean(0)
    left, _, right = np.linalg.svd((layout[common] - here).T @ (earlier[common] - there))
    return ((layout - here) @ (left @ right) + there).astype(np.float32)


# ------------------------------------------------------------ clouds without groups


def covariance_twin(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian unit rows (N, D) with the mean and covariance of x: its shape as a cloud, without its groups.

    Scaling rows to length 1 changes their covariance, and a sample's own is wider than the one it was drawn from; both made the null too hard or too
    easy. So mean and covariance are set again after each scaling, eight times, which leaves them equal to x's to 1e-3. With fewer than 1.5 D
    rows, where a sample has no full covariance, the rows are drawn once.
    """
    mean, covariance = moments(x)
    colour = root(covariance, 0.5)
    y = unit_rows(rng.normal(size=x.shape) @ colour + mean)
    for _ in range(8 if len(x) > 1.5 * x.shape[1] else 0):
        own_mean, own = moments(y)
        y = unit_rows(mapped(y, own_mean, root(own, -0.5) @ colour) + mean)
    return y


def root(covariance: np.ndarray, power: float) -> np.ndarray:
    """A symmetric matrix to a power; eigenvalues below 1e-9 of the largest count as that."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.maximum(values, values[-1] * 1e-9) ** power @ vectors.T


def uniform_directions(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit rows of x's shape, uniform on the sphere."""
    return unit_rows(rng.normal(size=x.shape))


def shuffled_columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit rows with each column of x shuffled by itself: every coordinate keeps its distribution."""
    return unit_rows(rng.permuted(x, axis=0))


def decorrelated(x: np.ndarray, power: float) -> np.ndarray:
    """Unit rows of x (N, D), centred, with its covariance C taken out to a power: (x - mean) C^(-power / 2). 0 gives x itself, 1 whitens.

    Less is taken out where few rows determine the covariance, `power * (1 - D / N)`, since D or fewer whitened rows are all orthogonal.
    Eigenvalues below a thousandth of the largest count as that.
    """
    power *= max(0.0, 1 - x.shape[1] / len(x))
    if power == 0:
        return x
    mean, covariance = moments(x)
    values, vectors = np.linalg.eigh(covariance)
    return unit_rows(
        mapped(x, mean, vectors / np.maximum(values, values[-1] * 1e-3) ** (power / 2))
    )

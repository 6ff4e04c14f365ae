"""Neighbours, chance level and UMAP layouts of unit directions (N, D), as seeded array functions.

Neighbours are exact (FAISS, inner product of unit rows). They are found once and handed to UMAP. A
seeded UMAP runs on one thread; with given neighbours and a given start it returns the same bytes in
every process of one machine, but not across machines.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

# UMAP's own number for large data. Its 500 for small data took 2.5 times as long and found no
# better clusters.
EPOCHS = 200
# Isolated features on the map: height of their strip and gap above it, as shares of the height of
# the others; columns at least.
STRIP, STRIP_GAP, STRIP_COLUMNS = 0.06, 0.08, 80


def unit_rows(directions: np.ndarray) -> np.ndarray:
    """Rows (N, D) scaled to length 1, float32; a zero row stays zero."""
    length = np.sqrt(np.einsum("nd,nd->n", directions, directions, dtype=np.float64))
    return np.asarray(
        directions / np.maximum(length, 1e-12)[:, None].astype(np.float32), dtype=np.float32
    )


def find_nearest(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows int32 (N, k + 1), cosines float32 (N, k + 1)) of the k nearest of every unit row.

    The search is exact and needs k < N. Column 0 is the row itself, also where equal directions
    crowd it out of its own list.
    """
    import faiss

    index = faiss.IndexFlatIP(x.shape[1])
    index.add(np.ascontiguousarray(x))
    cosines, rows = index.search(np.ascontiguousarray(x), k + 1)
    own = np.arange(len(x))
    is_self = rows == own[:, None]
    is_self[~is_self.any(1), -1] = True
    others = rows[~is_self].reshape(len(x), k), cosines[~is_self].reshape(len(x), k)
    near_rows = np.c_[own, others[0]].astype(np.int32)
    near_cosines = np.clip(np.c_[np.ones(len(x)), others[1]], -1, 1).astype(np.float32)
    return near_rows, near_cosines


def chance_cosine(n: int, d: int, quantile: float = 0.99) -> float:
    """The cosine of a random direction to the nearest of n - 1 others, at this quantile.

    Computed exactly, without simulation: for a uniformly random direction in d dimensions,
    (1 + cosine) / 2 to any fixed direction follows Beta((d - 1) / 2, (d - 1) / 2), and the cosines
    to the other directions are independent given the first. It is 0.27 for 2,048 directions in 256
    dimensions.
    """
    from scipy.stats import beta

    tail = -np.expm1(np.log(quantile) / (n - 1))  # chance that one other direction is nearer
    return float(2 * beta.isf(tail, (d - 1) / 2, (d - 1) / 2) - 1)


def count_directions(x: np.ndarray, seed: int) -> int:
    """How many different directions unit rows x (N, D) have, by projection on a random one."""
    line = np.asarray(np.random.default_rng([seed, 11]).standard_normal(x.shape[1]), x.dtype)
    return len(np.unique((x @ line).round(5)))


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean (D,), covariance (D, D)) of rows, in float64.

    Rows are read in blocks, because a float64 copy of 65,536 rows would be the largest array in
    memory.
    """
    mean = x.mean(0, dtype=np.float64)
    total = np.zeros((x.shape[1], x.shape[1]))
    for part in blocks(x):
        centred = part - mean
        total += centred.T @ centred
    return mean, total / max(len(x) - 1, 1)


def blocks(x: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    """Consecutive blocks of rows."""
    return (x[i : i + size] for i in range(0, len(x), size))


def transform(x: np.ndarray, mean: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(x - mean) @ matrix in float64, block by block, as float32."""
    return np.concatenate([((part - mean) @ matrix).astype(np.float32) for part in blocks(x)])


def principal_coordinates(x: np.ndarray, n_components: int) -> np.ndarray:
    """(N, n_components) float32 principal coordinates; the largest loading of each is positive."""
    mean, covariance = moments(x)
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :n_components]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return transform(x, mean, axes * signs)


def umap_neighbours(rows: np.ndarray, cosines: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The `precomputed_knn` of umap-learn 0.5.12: (indices int32, distances float32), both (N, n).

    UMAP needs exactly n columns: with fewer it ignores the graph after a warning, with more it uses
    them all below N = 4096. Column 0 is the row itself at distance 0. Entries are cosine distances,
    at least 0 and below 2, where UMAP cuts an edge. Both are copies, because UMAP edits them.
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
    """(N, n) float32 UMAP coordinates from neighbours (see umap_neighbours) and a start (N, n).

    The start holds principal coordinates: UMAP's spectral start can fail, and it draws unseeded
    numbers where the graph is not connected. The directions themselves are not needed. A column of
    the start without any spread, of directions that span fewer dimensions, is drawn at random,
    because UMAP divides by the spread.
    """
    import umap

    indices, distances = graph
    spread = np.ptp(start, axis=0)
    flat = spread <= 1e-6 * spread.max()
    if flat.any():
        start = start.copy()
        start[:, flat] = np.random.default_rng(seed).normal(size=(len(start), int(flat.sum())))
    reducer = umap.UMAP(
        n_components=start.shape[1],
        n_neighbors=indices.shape[1],
        min_dist=min_dist,
        metric="cosine",
        n_jobs=1,
        n_epochs=EPOCHS,
        precomputed_knn=(indices, distances),
        init=start,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Hide only the warning that transform() needs an NNDescent object, which is not used here.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        layout = reducer.fit_transform(start)
    if reducer.knn_indices is None:
        raise RuntimeError("UMAP ignored the neighbours that were passed to it")
    return np.asarray(layout, dtype=np.float32)


def subset_neighbours(
    rows: np.ndarray, cosines: np.ndarray, keep: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (len(keep), n) of the ascending rows `keep`, restricted to and numbered in them.

    Returns (rows, cosines), the row itself first, without a new search. Raises ValueError where a
    row has fewer than n neighbours left.
    """
    place = np.full(len(rows), -1, np.int32)
    place[keep] = np.arange(len(keep))
    near = place[rows[keep]]
    if (near >= 0).sum(1).min() < n:
        raise ValueError(f"fewer than {n} neighbours are left")
    first = np.argsort(near < 0, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(near, first, 1), np.take_along_axis(cosines[keep], first, 1)


def neighbour_recall(rows: np.ndarray, layout: np.ndarray, k: int = 15, most: int = 5000) -> float:
    """Share of the k nearest directions that are also among the k nearest points of the layout.

    Columns 1 to k of `rows` are the nearest directions. At most `most` rows are looked at.
    """
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


def place_in_strip(layout: np.ndarray, outside: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Copy layout (N, 2) with the rows `outside` on a lattice below the others.

    The strip is as wide as the others, STRIP of their height at most, and stands STRIP_GAP of it
    below them. `near` (len(outside), k) holds the nearest rows of each: a row stands below the mean
    of those, as far as the order allows.
    """
    inside = np.setdiff1d(np.arange(len(layout)), outside)
    if not len(outside) or not len(inside):
        return layout.copy()
    low, high = layout[inside].min(0), layout[inside].max(0)
    width, height = np.maximum(high - low, 1e-6)
    known = np.isin(near, inside)
    counts = known.sum(1)
    mean = (layout[near, 0] * known).sum(1) / np.maximum(counts, 1)
    mean[counts == 0] = (low[0] + high[0]) / 2
    pitch = min(width / STRIP_COLUMNS, np.sqrt(STRIP * height * width / len(outside)))
    rows = max(1, int(np.ceil(len(outside) / max(1, int(width / pitch)))))
    columns = int(np.ceil(len(outside) / rows))
    place = np.arange(len(outside))
    across = low[0] + width * (place // rows + 0.5) / columns
    down = low[1] - STRIP_GAP * height - pitch * (place % rows + 0.5)
    placed = layout.copy()
    placed[outside[np.argsort(mean, kind="stable")]] = np.c_[across, down]
    return placed


def turn_upright(layout: np.ndarray) -> np.ndarray:
    """Rotate layout (N, 2) so that x is its widest axis; its longer tails point right and up."""
    centred = layout - layout.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    turned = centred @ axes
    return (turned * np.where((turned**3).sum(0) < 0, -1, 1)).astype(np.float32)


def align(layout: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Rotate, mirror and move layout (N, 2) to fit `earlier` (N, 2); rows with NaN are ignored.

    Orthogonal Procrustes without scaling, so that UMAP's distances stay. With fewer than three
    common rows the layout is only turned upright.
    """
    common = np.isfinite(layout).all(1) & np.isfinite(earlier).all(1)
    if common.sum() < 3:
        return turn_upright(layout)
    here, there = layout[common].mean(0), earlier[common].mean(0)
    left, _, right = np.linalg.svd((layout[common] - here).T @ (earlier[common] - there))
    return ((layout - here) @ (left @ right) + there).astype(np.float32)


# ------------------------------------------------------------ clouds without clusters


def covariance_twin(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian unit rows (N, D) with the mean and covariance of x but without its clusters.

    Scaling rows to length 1 changes their covariance, and the covariance of a sample is wider than
    the one it was drawn from; either made the null too hard or too easy to beat. So mean and
    covariance are set again after each scaling, eight times, which makes them equal to those of x
    to 1e-3. With fewer than 1.5 D rows, where a sample has no full covariance, the rows are drawn
    once.
    """
    mean, covariance = moments(x)
    colour = matrix_power(covariance, 0.5)
    y = unit_rows(rng.normal(size=x.shape) @ colour + mean)
    for _ in range(8 if len(x) > 1.5 * x.shape[1] else 0):
        own_mean, own = moments(y)
        y = unit_rows(transform(y, own_mean, matrix_power(own, -0.5) @ colour) + mean)
    return y


def matrix_power(covariance: np.ndarray, power: float) -> np.ndarray:
    """A symmetric matrix to a power; eigenvalues are at least 1e-9 of the largest."""
    values, vectors = np.linalg.eigh(covariance)
    powers: np.ndarray = np.maximum(values, values[-1] * 1e-9) ** power
    return vectors * powers @ vectors.T


def uniform_directions(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit rows of x's shape, uniform on the sphere."""
    return unit_rows(rng.normal(size=x.shape))


def shuffle_columns(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit rows of x with each column shuffled: every coordinate keeps its distribution."""
    return unit_rows(rng.permuted(x, axis=0))


def decorrelate(x: np.ndarray, power: float) -> np.ndarray:
    """Unit rows of (x - mean) C^(-power / 2) for x (N, D) with covariance C.

    Power 0 returns x itself, 1 whitens. The power is multiplied by (1 - D / N), because D or fewer
    whitened rows are all orthogonal. Eigenvalues are at least a thousandth of the largest.
    """
    power *= max(0.0, 1 - x.shape[1] / len(x))
    if power == 0:
        return x
    mean, covariance = moments(x)
    values, vectors = np.linalg.eigh(covariance)
    return unit_rows(
        transform(x, mean, vectors / np.maximum(values, values[-1] * 1e-3) ** (power / 2))
    )

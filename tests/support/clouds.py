"""Clouds of unit directions in which the truth is known."""

import numpy as np

from autointerp.clusters.geometry import unit_rows


def planted(n_groups=12, size=42, n_noise=96, d=64, cosine=0.6, seed=0):
    """(unit rows, truth): clusters of rows with this mean cosine, then rows without a cluster, -1."""
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng.normal(size=(n_groups, d)))
    own = unit_rows(rng.normal(size=(n_groups * size, d)))
    x = np.repeat(centres, size, 0) * np.sqrt(cosine) + own * np.sqrt(1 - cosine)
    return unit_rows(np.r_[x, rng.normal(size=(n_noise, d))]), np.r_[
        np.repeat(np.arange(n_groups), size), np.full(n_noise, -1)
    ]


def hierarchy(n_tops=6, n_each=6, size=30, d=128, cosine=0.6, between=0.45, seed=0):
    """(unit rows, top (N,), sub (N,)): two levels of clusters.

    Members of a sub have mean cosine `cosine`, subs of the same top `between`.
    """
    rng = np.random.default_rng(seed)
    n_subs = n_tops * n_each
    tops = np.repeat(unit_rows(rng.normal(size=(n_tops, d))), n_each, 0)
    subs = unit_rows(rng.normal(size=(n_subs, d)))
    centres = np.repeat(tops * np.sqrt(between) + subs * np.sqrt(cosine - between), size, 0)
    x = centres + unit_rows(rng.normal(size=(n_subs * size, d))) * np.sqrt(1 - cosine)
    sub = np.repeat(np.arange(n_subs), size)
    return unit_rows(x), sub // n_each, sub


def anisotropic(n=1500, d=64, seed=0):
    """Unit rows of one long, off-centre Gaussian: a cloud without clusters."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return unit_rows(
        rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5 @ axes
        + 0.3 * rng.normal(size=d) / np.sqrt(d)
    )

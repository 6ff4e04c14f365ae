"""Do the families of one run come back in another run on the same site?

A family stands for the mean of its members' directions, at length 1 and centred. Its match is the
largest cosine with a family of the other run. Families beat clouds, but any neighbourhood of the
other dictionary may match by chance; so the null is as many sets of the other run, of the same
sizes, each a random feature with its nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autointerp.clusters.families import members_of, nearest_sets
from autointerp.clusters.geometry import unit_rows
from autointerp.clusters.unit import read_clusters, read_families
from core.run import Run
from core.training.unit import read_directions

CLOSE = 0.7  # cosine from which a family counts as found in the other run


def match_families(run: Run, other: Run) -> dict[str, Any] | None:
    """`there`: the families of `run` in `other`, `here` the reverse, each with its null.

    Each entry has n, mean, median, close (share of matches of at least CLOSE). None where one of
    the runs has no families.
    """
    ours, theirs = read_sets(run), read_sets(other)
    if ours is None or theirs is None:
        return None
    seed = run.settings.seed
    return {
        "close_at": CLOSE,
        "there": compare_sets(*ours, *theirs, seed),
        "here": compare_sets(*theirs, *ours, seed),
    }


def read_sets(run: Run) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """(centred unit directions (F, D), members of each family); None without families."""
    table, families = read_clusters(run), read_families(run)
    if table is None or families is None or not len(families):
        return None
    family = table["family"].to_numpy()
    alive = np.flatnonzero(table["status"].to_numpy() != "dead")
    x = unit_rows(np.asarray(read_directions(run))[alive])
    return unit_rows(x - x.mean(0)), members_of(family[alive])


def compare_sets(
    x: np.ndarray, sets: list[np.ndarray], y: np.ndarray, others: list[np.ndarray], seed: int
) -> dict[str, Any]:
    """The best cosine of each of `sets` of x (n, D) with one of `others` of y (m, D).

    Beside it the null: sets of y that are no families.
    """
    rng = np.random.default_rng([seed, 24])
    by_chance = nearest_sets(y, [len(members) for members in others], rng)
    means = mean_directions(x, sets)
    matches, null = ((means @ mean_directions(y, found).T).max(1) for found in (others, by_chance))
    return summarise_matches(matches) | {"null": summarise_matches(null)}


def mean_directions(x: np.ndarray, sets: list[np.ndarray]) -> np.ndarray:
    """(sets, D) mean direction of each set of unit rows x (n, D), at length 1."""
    return unit_rows(np.stack([x[members].mean(0) for members in sets]))


def summarise_matches(cosines: np.ndarray) -> dict[str, Any]:
    """n, mean, median, and the share of cosines of at least CLOSE."""
    return {
        "n": len(cosines),
        "mean": round(float(cosines.mean()), 4),
        "median": round(float(np.median(cosines)), 4),
        "close": round(float((cosines >= CLOSE).mean()), 4),
    }

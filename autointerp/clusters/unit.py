"""Files of the units `cluster` and `relate`: their names, and functions that read and write them.

Unit `cluster`, for F features; level 0 is the coarsest, the last one the finest, there are at most
three and there may be none. On disk a cluster is called a group and a level a layer:

    features.parquet      a row a feature: feature, status, x, y, family (-1 none), group (finest
                          level), suggested, strength, nn_feature, nn_cosine, probability, layer_0,
                          layer_1, layer_2
    families.parquet      a row a family, largest first: family, size, jaccard and null_jaccard (in
                          subsamples; NaN where none were tried), comes_back, medoid, cosine,
                          together, beside, context and kind (see `family_kinds`)
    groups.json           a record a cluster: layer, group, size, parent, path, medoid, exemplars,
                          cosine, lasting (persistence), hue, jaccard, jaccard_seeds, phi
    proof.json            verdict, null clouds, stability, co-activation within and between
                          clusters, AMI with the clusters of the co-activation graph; families
                          (cut, and [cut, families, families of the null] of each cut)
    neighbours.npy        int32 (F, 20) nearest decoder directions, -1 where there is none
    cosines.npy           float32 (F, 20) cosines to them
    partners.npy          int32 (F, 20) features that fire on the same tokens, -1 for none
    partners_phi.npy      float32 (F, 20) phi with them
    partners_shared.npy   int32 (F, 20) sampled tokens on which both fire
    graph_groups.npy      int32 (F,) clusters of the co-activation graph, -1 for none
    embedding.npy         float32 (F, dimensions) UMAP space of the clusters, NaN outside it
    duplicates.json       [feature, feature, cosine] of pairs above 0.98

Unit `relate`:

    relations.parquet     a row a pair: kind, feature, other, strength, cosine, phi, shared,
                          n_feature, n_other, misses, family (of both features, -1 where they
                          are not in the same one); pairs within families come first

Readers return None, or tables and lists without rows, where the unit does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from core.files import read_array, read_json, write_array, write_json, write_table
from core.run import Run

CLUSTER, RELATE = "cluster", "relate"
TABLE, FAMILIES, RECORDS, PROOF, DUPLICATES = (
    "features.parquet",
    "families.parquet",
    "groups.json",
    "proof.json",
    "duplicates.json",
)
NEIGHBOURS, COSINES = "neighbours.npy", "cosines.npy"
PARTNERS, PARTNERS_PHI, PARTNERS_SHARED = (
    "partners.npy",
    "partners_phi.npy",
    "partners_shared.npy",
)
GRAPH_CLUSTERS, SPACE = "graph_groups.npy", "embedding.npy"
RELATIONS = "relations.parquet"
RELATION_COLUMNS = [
    "kind",
    "feature",
    "other",
    "strength",
    "cosine",
    "phi",
    "shared",
    "n_feature",
    "n_other",
    "misses",
    "family",
]
LEVEL_PREFIX = "layer_"  # of the columns in features.parquet that hold the cluster of each level


@dataclass(frozen=True)
class Level:
    """One level of clusters: cluster of every feature, title and hue of every cluster."""

    cluster: np.ndarray  # (F,) int, -1 for none
    titles: dict[int, str]  # {cluster: title}; empty before `title`
    hues: dict[int, int]  # {cluster: 0 to 8, or -1}


class Neighbours(NamedTuple):
    """The nearest decoder directions of every feature, nearest first."""

    feature: np.ndarray  # (F, 20) int32, -1 where there is none
    cosine: np.ndarray  # (F, 20) float32


class Partners(NamedTuple):
    """The features that fire most on the same tokens, highest phi first."""

    feature: np.ndarray  # (F, 20) int32, -1 where there are fewer
    phi: np.ndarray  # (F, 20) float32
    shared: np.ndarray  # (F, 20) int32 sampled tokens on which both fire


# ------------------------------------------------------------ read `cluster`


def read_clusters(run: Run) -> pd.DataFrame | None:
    """features.parquet: a row a feature, in order, with the columns above.

    A unit of an earlier version has no families: every feature is in none.
    """
    if run.find(CLUSTER) is None:
        return None
    table = pd.read_parquet(run.folder(CLUSTER) / TABLE)
    return table if "family" in table else table.assign(family=-1)


def read_families(run: Run) -> pd.DataFrame | None:
    """families.parquet: a row a family, the largest first; row i is family i.

    None where `cluster` was made by a version that had none.
    """
    path = run.folder(CLUSTER) / FAMILIES if run.find(CLUSTER) else None
    return pd.read_parquet(path) if path is not None and path.exists() else None


def read_records(run: Run) -> list[dict]:
    """groups.json: a record for each cluster of each level, coarsest level first."""
    return [] if run.find(CLUSTER) is None else read_json(run.folder(CLUSTER) / RECORDS)


def read_proof(run: Run) -> dict | None:
    """proof.json: what the clusters were compared with, and the verdict."""
    return None if run.find(CLUSTER) is None else read_json(run.folder(CLUSTER) / PROOF)


def read_duplicates(run: Run) -> list[tuple[int, int, float]]:
    """(feature, feature, cosine) of pairs of nearly equal decoder directions."""
    if run.find(CLUSTER) is None:
        return []
    return [(a, b, cosine) for a, b, cosine in read_json(run.folder(CLUSTER) / DUPLICATES)]


def read_neighbours(run: Run) -> Neighbours | None:
    """Memory-mapped."""
    if run.find(CLUSTER) is None:
        return None
    folder = run.folder(CLUSTER)
    return Neighbours(read_array(folder / NEIGHBOURS), read_array(folder / COSINES))


def read_partners(run: Run) -> Partners | None:
    """Memory-mapped."""
    return None if run.find(CLUSTER) is None else load_partners(run.folder(CLUSTER))


def load_partners(folder: Path, mapped: bool = True) -> Partners:
    """The partners in a folder that need not be committed yet."""
    names = (PARTNERS, PARTNERS_PHI, PARTNERS_SHARED)
    return Partners(*(read_array(folder / name, mapped) for name in names))


def read_levels(
    run: Run, n_features: int, titles: dict[tuple[int, int], str] | None = None
) -> list[Level]:
    """The levels, coarsest first; `titles` are those of `titles.unit.read_titles`."""
    table = read_clusters(run)
    if table is None:
        return []
    by_feature = table.set_index("feature").reindex(range(n_features))
    records, levels = read_records(run), []
    for number, column in enumerate(level_columns(table)):
        levels.append(
            Level(
                by_feature[column].fillna(-1).astype(int).to_numpy(),
                {c: title for (level, c), title in (titles or {}).items() if level == number},
                {r["group"]: r["hue"] for r in records if r["layer"] == number},
            )
        )
    return levels


def level_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns that hold the cluster of each level, coarsest level first."""
    return sorted(c for c in map(str, table.columns) if c.startswith(LEVEL_PREFIX))


def level_column(level: int) -> str:
    return f"{LEVEL_PREFIX}{level}"


# ------------------------------------------------------------ write `cluster`


def write_tables(
    folder: Path, table: pd.DataFrame, records: list[dict], proof: dict, duplicates: list
) -> None:
    write_table(folder / TABLE, table)
    write_json(folder / RECORDS, records)
    write_json(folder / PROOF, proof)
    write_json(folder / DUPLICATES, duplicates)


def write_families(folder: Path, families: pd.DataFrame) -> None:
    write_table(folder / FAMILIES, families)


def write_neighbours(folder: Path, neighbours: Neighbours) -> None:
    write_array(folder / NEIGHBOURS, neighbours.feature)
    write_array(folder / COSINES, neighbours.cosine)


def write_partners(folder: Path, partners: Partners) -> None:
    write_array(folder / PARTNERS, partners.feature)
    write_array(folder / PARTNERS_PHI, partners.phi)
    write_array(folder / PARTNERS_SHARED, partners.shared)


def write_graph_clusters(folder: Path, cluster: np.ndarray) -> None:
    write_array(folder / GRAPH_CLUSTERS, cluster)


def write_space(folder: Path, space: np.ndarray) -> None:
    write_array(folder / SPACE, space)


# ------------------------------------------------------------ read and write `relate`


def read_relations(run: Run) -> pd.DataFrame:
    """relations.parquet: duplicates, probable splitting and absorption, a row a pair."""
    if run.find(RELATE) is None:
        return pd.DataFrame({column: [] for column in RELATION_COLUMNS})
    table = pd.read_parquet(run.folder(RELATE) / RELATIONS)
    return table if "family" in table else table.assign(family=-1)


def write_relations(folder: Path, table: pd.DataFrame) -> None:
    write_table(folder / RELATIONS, table)

"""Members of clusters, and of the clusters around them, in the table of the cluster stage."""

from __future__ import annotations

import pandas as pd

from autointerp.clusters.unit import level_column


def list_members(features: pd.DataFrame, level: int) -> dict[int, list[int]]:
    """{cluster: features} of one level."""
    column = level_column(level)
    inside = features[features[column] >= 0]
    return {int(c): part.tolist() for c, part in inside.groupby(column)["feature"]}  # type: ignore[arg-type]


def list_parents(features: pd.DataFrame, level: int) -> dict[int, list[int]]:
    """{cluster: features of the cluster of the level above that it lies in}.

    Clusters that lie in none have no entry.
    """
    if level == 0:
        return {}
    column, column_above = level_column(level), level_column(level - 1)
    above = list_members(features, level - 1)
    first = features[features[column] >= 0].drop_duplicates(column)
    parent_of = zip(first[column].tolist(), first[column_above].tolist(), strict=True)
    return {cluster: above[parent] for cluster, parent in parent_of if parent >= 0}

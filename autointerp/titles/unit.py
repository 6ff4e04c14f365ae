"""Files of the unit `title`: their names, and functions that read and write them.

    titles.parquet     a row a cluster; on disk a level is called a layer, a cluster a group:
                       layer, group, title, tentative, why (unstable, mixed or empty), size,
                       evidence (JSON: how many members have each of the marks that stand out
                       most) and share (of the members that have at least one mark of the title;
                       NaN for titles by an LLM)
    families.parquet   a row a family: family, title (empty where members share nothing), solid (it
                       comes back in subsamples), size, evidence, share (NaN for names by an LLM)
    failures.parquet   a row for each cluster or family that an LLM could not name
    proof.json         `agreement` of labels within clusters, the `intruder` test of clusters, and
                       `family_intruders`, near and far

Readers return None, or a dict without entries, where the unit does not exist.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from autointerp.tables import table_of
from core.files import read_json, write_json, write_table
from core.records import Failure
from core.run import Run

TITLE = "title"
TABLE, FAILURES, PROOF = "titles.parquet", "failures.parquet", "proof.json"
FAMILIES = "families.parquet"


def read_titles(run: Run) -> dict[tuple[int, int], str]:
    """{(level, cluster): title}; the title is empty where the cluster is unstable."""
    if run.find(TITLE) is None:
        return {}
    table = pd.read_parquet(run.folder(TITLE) / TABLE)
    keys = zip(table["layer"].tolist(), table["group"].tolist(), strict=True)
    return dict(zip(keys, table["title"], strict=True))


def read_family_names(run: Run) -> pd.DataFrame | None:
    """families.parquet: a row a family. None where `title` was made by a version without them."""
    path = run.folder(TITLE) / FAMILIES if run.find(TITLE) else None
    return pd.read_parquet(path) if path is not None and path.exists() else None


def read_proof(run: Run) -> dict | None:
    """proof.json: what the titles are worth."""
    return None if run.find(TITLE) is None else read_json(run.folder(TITLE) / PROOF)


def write_family_names(folder: Path, names: pd.DataFrame) -> None:
    write_table(folder / FAMILIES, names)


def write_titles(folder: Path, table: pd.DataFrame, failures: list[Failure], proof: dict) -> None:
    write_table(folder / TABLE, table)
    write_table(folder / FAILURES, table_of(failures, Failure))
    write_json(folder / PROOF, proof)

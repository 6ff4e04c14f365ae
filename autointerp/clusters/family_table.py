"""The table of families, and their part of the proof and of the summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from autointerp.clusters.families import COMES_BACK, members_of
from autointerp.clusters.grouping import mean_pair_cosine


def describe_families(x: np.ndarray, found: dict[str, Any], alive: np.ndarray) -> pd.DataFrame:
    """A row a family, as in families.parquet without its kind.

    `found` is families.json of the replicates, `x` (N, D) the unit directions of the features
    `alive` (N,).
    """
    rows = []
    for number, members in enumerate(members_of(np.array(found["family"], int))):
        total = x[members].sum(0, dtype=np.float64)
        jaccard, by_chance = found["jaccard"][number], found["null_jaccard"][number]
        rows.append(
            {
                "family": number,
                "size": len(members),
                "jaccard": np.nan if jaccard is None else jaccard,
                "null_jaccard": np.nan if by_chance is None else by_chance,
                "comes_back": jaccard is not None and jaccard >= COMES_BACK,
                "medoid": int(alive[members[np.argmax(x[members] @ total)]]),
                "cosine": round(mean_pair_cosine(total, len(members)), 4),
            }
        )
    columns = ["family", "size", "jaccard", "null_jaccard", "comes_back", "medoid", "cosine"]
    return pd.DataFrame(rows, columns=columns)


def prove_families(found: dict[str, Any]) -> dict[str, Any]:
    """The entry `families` of proof.json: the cut, and how many each tried cut has."""
    return {"cut": found["cut"], "counts": found["counts"]}


def summarise_families(table: pd.DataFrame, found: dict[str, Any]) -> dict[str, Any]:
    """The families' part of the summary: counts, cut, null, shares that come back."""
    n = len(found["family"])
    by_chance = {cut: chance for cut, _, chance in found["counts"]}
    kinds, by_chance_jaccard = table["kind"].value_counts(), table["null_jaccard"]
    tried = bool(len(table)) and bool(table["jaccard"].notna().all())
    return {
        "families": len(table),
        "family_cut": found["cut"],
        "families_null": by_chance.get(found["cut"], 0),
        "families_come_back": round(float(table["comes_back"].mean()), 4) if tried else None,
        "families_null_back": round(float((by_chance_jaccard >= COMES_BACK).mean()), 4)
        if tried
        else None,
        "family_jaccard": round(float(table["jaccard"].mean()), 4) if tried else None,
        "family_null_jaccard": round(float(table["null_jaccard"].mean()), 4) if tried else None,
        "family_kinds": {k: int(n) for k, n in sorted(kinds.items()) if k},
        "family_share": round(float(table["size"].sum()) / max(n, 1), 4),
    }


def render_families(s: dict[str, Any]) -> str:
    """The line on families that the stage prints at its end."""
    if not s["families"]:
        return "  no families: nowhere does a Gaussian cloud have under a hundredth as many"
    back = "not tried"
    if s["families_come_back"] is not None:
        back = f"{s['families_come_back']:.0%} come back in subsamples"
    kinds = ", ".join(f"{n} {kind}" for kind, n in s["family_kinds"].items()) or "none of a kind"
    return (
        f"  {s['families']} families at distance {s['family_cut']:.2f} "
        f"({s['families_null']} in a Gaussian cloud) hold {s['family_share']:.0%} of the features; "
        f"{back}; {kinds}"
    )

"""Names of families, from what the labels of their members say and those of other families do not.

Without an LLM by contrast of words; with one by `family_naming`. A family whose members share
nothing gets no name. A name is solid where the family comes back in subsamples and light where it
does not, or where no subsamples were tried.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from autointerp.titles import contrast

SHOWN = 10  # marks kept as evidence
COLUMNS = ["family", "title", "solid", "size", "evidence", "share"]


def name_families(
    alive: pd.DataFrame, families: pd.DataFrame | None, marks: dict[int, set[contrast.Mark]]
) -> pd.DataFrame:
    """A row a family, with COLUMNS: the title (empty where members share nothing), whether it is
    solid, the marks that stand out most, and the share of members that have one of the title.

    `alive` is the table of live features with their `family`; a family is compared with all
    features and with the members of the other families.
    """
    if families is None or not len(families):
        return pd.DataFrame({column: [] for column in COLUMNS})
    members, evidence, titles = title_families(alive, marks)
    rows = []
    for family, back in zip(families["family"].tolist(), families["comes_back"], strict=True):
        made, part = titles[family], members[family]
        used = set(made.marks)
        best = {contrast.render_marks([m]): n for m, n, _ in evidence[family].ranked[:SHOWN]}
        listed = json.dumps(best, ensure_ascii=False)
        share = float(np.mean([bool(used & marks[feature]) for feature in part]))
        rows.append((family, made.text if used else "", bool(back), len(part), listed, share))
    return pd.DataFrame(rows, columns=COLUMNS)


def title_families(
    alive: pd.DataFrame, marks: dict[int, set[contrast.Mark]]
) -> tuple[dict[int, list[int]], dict[int, contrast.Evidence], dict[int, contrast.Title]]:
    """(members, evidence, title) of each family in the column `family` of `alive`."""
    inside = alive[alive["family"] >= 0]
    members = {int(f): part.tolist() for f, part in inside.groupby("family")["feature"]}  # type: ignore[arg-type]
    evidence = contrast.gather_evidence(members, {}, marks)
    return members, evidence, contrast.make_titles(evidence)


def marks_without(
    alive: pd.DataFrame, marks: dict[int, set[contrast.Mark]], held: dict[int, int]
) -> dict[int, set[contrast.Mark]]:
    """The marks of each family's name when the features in `held` have no say in any name."""
    rest = alive[~alive["feature"].isin(held.values())]
    _, _, titles = title_families(rest, {f: marks[f] for f in rest["feature"]})
    return {family: set(made.marks) for family, made in titles.items()}


def take_llm_names(names: pd.DataFrame, named: dict[int, str]) -> pd.DataFrame:
    """The table with an LLM's names; a family that it did not name has none."""
    titles = [named.get(family, "") for family in names["family"].tolist()]
    return names.assign(title=titles, share=np.nan)


def summarise_names(names: pd.DataFrame) -> dict[str, int]:
    """How many families have a name, and how many of those are solid."""
    named = names[names["title"].astype(bool)]
    return {"families_named": len(named), "families_solid": int(named["solid"].astype(bool).sum())}

"""What the report says of scores: every kind beside its null and the controls, and every set of labels beside the rules."""

from __future__ import annotations

import pandas as pd

from core.run import Run
from figures.markdown import table


def scores_section(run: Run, controls: list[Run]) -> str:
    found = run.find(f"score/{main_set(run)}/simulation")
    if not found:
        return f"Not scored yet: `python main.py score {run.name}`."
    rows = [row for name, r in compared(run, controls) if (row := score_row(name, r, "simulation"))]
    head = ["", "median score", "null", "live features above their null", "scored", "failures"]
    return (
        "A score is the correlation between what the printed label predicts and what the feature does, over windows of documents that the labeller never saw: "
        "top activations, all strata of the non-zero activations, and random text. The null is the label of another feature of like density on the same tokens.\n\n"
        + table(head, rows)
    )


def untrained_subject(controls: list[Run]) -> Run | None:
    """The control whose subject has random weights, which the verdict and the figure speak of."""
    return next((c for c in controls if c.settings.weights == "random"), None)


def compared(run: Run, controls: list[Run]) -> list[tuple[str, Run]]:
    """The run and its controls with the names that the tables give them."""
    named = lambda r: (
        "untrained subject"
        if r.settings.weights == "random"
        else f"{untrained} directions"
        if (untrained := of_train(r, "untrained"))
        else r.name
    )
    return [("this subject", run), *((named(r), r) for r in controls)]


def of_train(run: Run, entry: str):
    found = run.find("train")
    return found.summary.get(entry) if found else None


def score_row(name: str, run: Run, kind: str) -> list[str] | None:
    found = run.find(f"score/{main_set(run)}/{kind}")
    if not found or not found.summary["n"]:
        return None
    s = found.summary
    failures = ", ".join(f"{n} {k}" for k, n in s["failures"].items()) or "none"
    median = f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"
    null = "-" if s["null_median"] is None else f"{s['null_median']:.2f}"
    return [
        name,
        median,
        null,
        f"{s['share_above_null']:.0%}",
        f"{s['n']:,} of {s['live']:,}",
        failures,
    ]


WHAT = {
    "simulation-corpus": "the same correlation over every held-out token",
    "detection": "in which windows it fires (balanced accuracy, .5 is chance)",
    "fuzzing": "whether the marked tokens are those it fires on (the same)",
    "effect": "whether the label names what a clamp promotes (area under the ROC curve, .5 is chance)",
    "effect-choice": "which of three sets of texts its clamp wrote (a third is chance)",
    "generation": "whether texts written from the label make it fire (.5 is chance)",
}


def kinds_of_score_section(run: Run, controls: list[Run]) -> str:
    """The other kinds of score, with hard negatives, controls and how far the kinds agree in rank."""
    rows = []
    for kind, what in WHAT.items():
        for name, r in compared(run, controls):
            row = score_row(name, r, kind)
            if row is None:
                continue
            hard = r.find(f"score/{main_set(r)}/{kind}").summary.get("hard")
            rows.append(
                [
                    f"{kind}: {what}" if r is run else "",
                    *row[:4],
                    f"{hard['median']:.2f}" if hard and hard["median"] is not None else "-",
                    *row[4:],
                ]
            )
    if not rows:
        return ""
    head = ["kind", "", "median", "null", "above null", "against rivals", "scored", "failures"]
    agreement = rank_table(run)
    return (
        "### Other kinds of score\n\nAgainst rivals: the silent windows are those where the nearest directions and the features that fire together with it do fire.\n\n"
        + table(head, rows)
        + (
            f"\n\nHow far the kinds put features in the same order (Spearman):\n\n{agreement}"
            if agreement
            else ""
        )
    )


def rank_table(run: Run) -> str:
    """Spearman's correlation of every pair of kinds, as the units tell it."""
    units = {
        k: found for k in ("simulation", *WHAT) if (found := run.find(f"score/{main_set(run)}/{k}"))
    }
    told: dict[frozenset, float] = {}
    for kind, unit in units.items():
        for other, found in unit.summary.get("rank_correlation", {}).items():
            told[frozenset((kind, other))] = found["rho"]
    if not told:
        return ""
    value = lambda a, b: f"{told[frozenset((a, b))]:.2f}" if frozenset((a, b)) in told else ""
    return table(
        ["", *units], [[a, *("" if a == b else value(a, b) for b in units)] for a in units]
    )


# ---------------------------------------------------------------- sets of labels


def sets_of(run: Run) -> list[str]:
    """The label sets of a run, the rules first."""
    names = [unit.removeprefix("label/") for unit in run.committed() if unit.startswith("label/")]
    return sorted(names, key=lambda name: (name != "rules", name))


def main_set(run: Run) -> str:
    """The set that the report is about: the rules, or where there are none the first whose simulation is scored."""
    names = sets_of(run)
    return next(
        (name for name in names if name == "rules" or run.find(f"score/{name}/simulation")), "rules"
    )


def label_units(run: Run) -> list[str]:
    """Labels and scores that the report shows: all of the main set, of others what is not stale."""
    units = [unit for unit in run.committed() if unit.startswith(("label/", "score/"))]
    return [
        unit for unit in units if unit.split("/")[1] == main_set(run) or run.state(unit) == "done"
    ]


def label_sets_section(run: Run) -> str:
    """Every other set of labels against the main one, kind by kind, on the features that both have a value for; nothing where there is no other."""
    main = main_set(run)
    current = label_units(run)
    scored = [
        (name, kind)
        for name in sets_of(run)
        if name != main
        for kind in ("simulation", *WHAT)
        if f"score/{name}/{kind}" in current
    ]
    rows = [row for name, kind in scored if (row := set_row(run, main, name, kind))]
    if not rows:
        return ""
    head = [
        "set",
        "kind",
        "features",
        "median",
        "null",
        f"{main}, same features",
        f"better than {main}",
        "asked for",
    ]
    return f"### Sets of labels\n\nBoth sets are scored on the same tokens and windows; a tie counts half.\n\n{table(head, rows)}"


def set_row(run: Run, main: str, name: str, kind: str) -> list[str] | None:
    """One kind of score of one set; None where nothing has a value."""
    own, other = values_of(run, name, kind), values_of(run, main, kind)
    if own is None:
        return None
    cells = [
        name,
        kind,
        f"{len(own):,}",
        f"{own['value'].median():.2f}",
        f"{own['null'].median():.2f}" if own["null"].notna().any() else "-",
    ]
    both = (
        own.merge(other, left_index=True, right_index=True, suffixes=("", "_main"))
        if other is not None
        else own[:0]
    )
    better = (
        [
            f"{both['value_main'].median():.2f}",
            f"{won(both['value'], both['value_main']):.0%} of {len(both):,}",
        ]
        if len(both)
        else ["-", "-"]
    )
    return [*cells, *better, price(run.find(f"score/{name}/{kind}").summary)]


def values_of(run: Run, name: str, kind: str) -> pd.DataFrame | None:
    """value and null of the features that have a value, by feature."""
    if not run.find(f"score/{name}/{kind}"):
        return None
    scores = pd.read_parquet(run.path / "score" / name / kind / "scores.parquet")
    found = (
        scores[(scores["kind"] == kind) & scores["value"].notna()]
        .set_index("feature")[["value", "null"]]
        .astype(float)
    )
    return found if len(found) else None


def won(ours: pd.Series, theirs: pd.Series) -> float:
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())


def price(summary: dict) -> str:
    """What the LLM was asked for a unit; free labels say so."""
    if not (told := summary.get("llm")):
        return "nothing"
    money = f", {told['cost']:.4f} in money" if "cost" in told else ""
    return f"{told['replies']:,} replies, {told['tokens_in'] + told['tokens_out']:,} tokens{money}"

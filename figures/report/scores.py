"""What the report says of scores: every kind beside its null and the controls, and label sets."""

from __future__ import annotations

from typing import Any

import pandas as pd

from autointerp.labels.unit import RULES, list_sets
from autointerp.scores.unit import COVERAGE, find_scores, unit_of
from core.run import Run
from figures.markdown import table

SIMULATION = "simulation"
KINDS = {  # kind of score -> what its value is
    "simulation-corpus": "the same correlation over every held-out token",
    "detection": "in which windows it fires (balanced accuracy, .5 is chance)",
    "fuzzing": "whether the marked tokens are those it fires on (the same)",
    "intruder": "whether a stranger's window is found among its own (a fifth is chance)",
    "effect": (
        "whether the label names what a clamp promotes (area under the ROC curve, .5 is chance)"
    ),
    "effect-choice": "which of three sets of texts its clamp wrote (a third is chance)",
    "generation": "whether texts written from the label make it fire (.5 is chance)",
}
INTRO = (
    "A score is the correlation between what the printed label predicts and what the feature does, "
    "over windows of documents that the labeller never saw: top activations, all strata of the "
    "non-zero activations, and random text. The null is the label of another feature of like "
    "density on the same tokens."
)


COVERED = (
    "How much of what the features do is named: the share of the activation on held-out tokens "
    "that lies on tokens for which the label predicts something, over all features together and "
    "for the median feature; the share of the predictions on tokens where the feature fires; and "
    "the first share within the upper half and the top tenth of a feature's firings (medians)."
)
# what `--sae` names where the features are units of the subject
OWN_UNITS = {"neurons": "MLP neurons", "heads": "attention heads"}


# ---------------------------------------------------------------- simulation and controls


def scores_section(run: Run, controls: list[Run]) -> str:
    """What the labels cover, then the simulation scores, of the run and of its controls."""
    covered = coverage_table(run, controls)
    if not run.find(unit_of(find_main_set(run), SIMULATION)):
        return f"Not scored yet: `python main.py score {run.name}`."
    rows = [score_row(name, r, SIMULATION) for name, r in name_runs(run, controls)]
    head = ["", "median score", "null", "alive features above their null", "scored", "failures"]
    simulated = f"{INTRO}\n\n{table(head, [row for row in rows if row])}"
    return f"{COVERED}\n\n{covered}\n\n{simulated}" if covered else simulated


def coverage_table(run: Run, controls: list[Run]) -> str:
    """How much of the features' activity the labels name; empty where it was not measured."""
    rows = []
    for name, r in name_runs(run, controls):
        unit = r.find(unit_of(find_main_set(r), COVERAGE))
        if unit and unit.summary["n"]:
            s, medians = unit.summary, unit.summary["medians"]
            shares = [s["named"], s["null_named"], s["median"], s["null_median"]]
            shares += [medians[key] for key in ("precision", "recall_half", "recall_top")]
            rows.append([name, *(format_share(share) for share in shares)])
    head = [
        "", "all activation", "by other labels", "median feature", "null", "fires where predicted",
        "upper half", "top tenth",
    ]  # fmt: skip
    return table(head, rows) if rows else ""


def format_share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def untrained_subject(controls: list[Run]) -> Run | None:
    """The control whose subject has random weights: the verdict and the figure show it."""
    return next((c for c in controls if c.settings.weights == "random"), None)


def name_runs(run: Run, controls: list[Run]) -> list[tuple[str, Run]]:
    """The run and its controls with the names that the tables give them."""
    return [("this subject", run), *((name_control(c), c) for c in controls)]


def name_control(run: Run) -> str:
    if run.settings.weights == "random":
        return "untrained subject"
    unit = run.find("train")
    directions = unit.summary.get("untrained") if unit else None
    own = run.settings.sae.partition(":")[0]
    if own in OWN_UNITS:
        return f"{OWN_UNITS[own]} of the same layer"
    return f"{directions} directions" if directions else run.name


def score_row(name: str, run: Run, kind: str) -> list[str] | None:
    """One kind of score of the run's main set; None where nothing has a value."""
    unit = run.find(unit_of(find_main_set(run), kind))
    if not unit or not unit.summary["n"]:
        return None
    s = unit.summary
    return [
        name,
        f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}]",
        format_number(s["null_median"]),
        f"{s['share_above_null']:.0%}",
        f"{s['n']:,} of {s['alive']:,}",
        ", ".join(f"{n} {k}" for k, n in s["failures"].items()) or "none",
    ]


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


# ---------------------------------------------------------------- other kinds


def kinds_of_score_section(run: Run, controls: list[Run]) -> str:
    """The other kinds of score, with rivals and controls, and how far the kinds agree in rank."""
    rows = [
        row
        for kind in KINDS
        for name, r in name_runs(run, controls)
        if (row := kind_row(kind, name, r, r is run))
    ]
    if not rows:
        return ""
    head = ["kind", "", "median", "null", "above null", "against rivals", "scored", "failures"]
    text = (
        "### Other kinds of score\n\nAgainst rivals: the silent windows are those where the "
        "nearest directions and the features that fire together with it do fire.\n\n"
        + table(head, rows)
    )
    if agreement := rank_table(run):
        text += "\n\nHow far the kinds put features in the same order (Spearman):\n\n" + agreement
    return text


def kind_row(kind: str, name: str, run: Run, first: bool) -> list[str] | None:
    """One kind of score of one run; the `first` row of a kind says what it is."""
    row = score_row(name, run, kind)
    if row is None:
        return None
    hard = run.manifest(unit_of(find_main_set(run), kind)).summary.get("hard") or {}
    about = f"{kind}: {KINDS[kind]}" if first else ""
    return [about, *row[:4], format_number(hard.get("median")), *row[4:]]


def rank_table(run: Run) -> str:
    """Spearman's correlation of every pair of kinds, from the summaries of their units."""
    main, known = find_main_set(run), {}
    units = {k: u for k in (SIMULATION, *KINDS) if (u := run.find(unit_of(main, k)))}
    for kind, unit in units.items():
        for other, entry in unit.summary.get("rank_correlation", {}).items():
            known[frozenset((kind, other))] = f"{entry['rho']:.2f}"
    if not known:
        return ""
    rows = [[a, *(known.get(frozenset((a, b)), "") for b in units)] for a in units]
    return table(["", *units], rows)


# ---------------------------------------------------------------- sets of labels


def find_main_set(run: Run) -> str:
    """The set that the report is about: the rules, or without them the first with a simulation."""
    names = sorted(list_sets(run), key=lambda name: (name != RULES, name))
    scored = (n for n in names if n == RULES or run.find(unit_of(n, SIMULATION)))
    return next(scored, RULES)


def label_sets_section(run: Run, units: list[str]) -> str:
    """Every other set of labels against the main one, kind by kind, on features that both score.

    `units` are the inputs of the report; a set that is stale is not among them. Nothing where there
    is no other set.
    """
    main = find_main_set(run)
    rows = [
        row
        for name in sorted(list_sets(run))
        if name != main
        for kind in (SIMULATION, *KINDS)
        if unit_of(name, kind) in units and (row := set_row(run, main, name, kind))
    ]
    if not rows:
        return ""
    same, better = f"{main}, same features", f"better than {main}"
    head = ["set", "kind", "features", "median", "null", same, better, "asked for"]
    intro = "Both sets are scored on the same tokens and windows; a tie counts half."
    return f"### Sets of labels\n\n{intro}\n\n{table(head, rows)}"


def set_row(run: Run, main: str, name: str, kind: str) -> list[str] | None:
    """One kind of score of one set; None where nothing has a value."""
    own, other = read_values(run, name, kind), read_values(run, main, kind)
    if not len(own):
        return None
    null = f"{own['null'].median():.2f}" if own["null"].notna().any() else "-"
    cells = [name, kind, f"{len(own):,}", f"{own['value'].median():.2f}", null]
    both = own.merge(other, left_index=True, right_index=True, suffixes=("", "_main"))
    if len(both):
        better = share_better(both["value"], both["value_main"])
        cells += [f"{both['value_main'].median():.2f}", f"{better:.0%} of {len(both):,}"]
    else:
        cells += ["-", "-"]
    return [*cells, describe_price(run.manifest(unit_of(name, kind)).summary)]


def read_values(run: Run, name: str, kind: str) -> pd.DataFrame:
    """value and null of the features that have a value, by feature."""
    scores = find_scores(run, name, kind)
    if scores is None:
        return pd.DataFrame({"value": [], "null": []})
    scores = scores[(scores["kind"] == kind) & scores["value"].notna()]
    return scores.set_index("feature")[["value", "null"]].astype(float)


def share_better(ours: pd.Series, theirs: pd.Series) -> float:
    """Share of features on which ours is better; a tie counts half."""
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())


def describe_price(summary: dict[str, Any]) -> str:
    """What the LLM was asked for a unit; nothing for labels without one."""
    if not (llm := summary.get("llm")):
        return "nothing"
    money = f", {llm['cost']:.4f} in money" if "cost" in llm else ""
    return f"{llm['replies']:,} replies, {llm['tokens_in'] + llm['tokens_out']:,} tokens{money}"

"""Stage `score`: labels -> how well they predict features on documents the labeller never saw.

Each kind of score is a unit of its own, `score/<set>/<kind>`, made by a module of its own:

    simulation          predict activations token by token                    simulation
    simulation-corpus   the same over every held-out token, for rules alone   simulation_corpus
    coverage            how much of the activity the label names              coverage
    detection, fuzzing  tell firing windows and marked tokens from others     detection
    intruder            tell windows of the feature from a stranger's         intruder
    effect              name the tokens that the feature promotes             effect
    effect-choice       tell the texts of its clamp from those of others      effect_choice
    generation          write texts that make the feature fire                generation

Without --kind the labels decide: where all of them predict by themselves (rules), every kind that
needs no LLM; otherwise fuzzing and detection for all features, and simulation, which costs several
times as much, for a sample drawn evenly over densities (effect-choice, where it is asked for, is
sampled likewise). Scoring more features adds rows; only --redo replaces any (see `grow`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from autointerp.grow import GrowingUnit, Growth, grow
from autointerp.labels.unit import read_failures as read_label_failures
from autointerp.labels.unit import read_labels
from autointerp.labels.unit import unit_of as label_unit_of
from autointerp.llm.endpoint import is_named
from autointerp.llm.session import open_session
from autointerp.rules import language as rules
from autointerp.scores import effect_choice, intruder
from autointerp.scores.context import (
    EFFORTS,
    Context,
    LiveSubject,
    Scored,
    rank_correlations,
    summarise,
)
from autointerp.scores.coverage import coverage_figures, score_coverage
from autointerp.scores.detection import CHANCE, hard_summary, score_panels
from autointerp.scores.effect import score_effect
from autointerp.scores.generation import score_generation
from autointerp.scores.intruder import score_intruder
from autointerp.scores.simulation import score_simulation
from autointerp.scores.simulation_corpus import score_corpus
from autointerp.scores.unit import (
    COVERAGE,
    FAILURES,
    MISSES,
    SCORES,
    find_scores,
    miss_table,
    unit_of,
    write_scores,
)
from autointerp.settings import ScoreSettings, parse_features
from autointerp.tables import append_rows
from core.effects.unit import has_changes
from core.errors import UsageError
from core.firings.postings import Postings
from core.progress import say
from core.records import Failure, Manifest
from core.run import Run
from core.text.tokens import Tokens


@dataclass(frozen=True)
class Kind:
    """One kind of score."""

    name: str
    version: int  # of its code; raised when the meaning of its files changes
    score: Callable[[Context, list[int]], Scored]
    effort: tuple[str, ...] = ()  # fields of `Effort` that decide what it holds
    settings: tuple[str, ...] = ()  # settings that decide what it holds
    inputs: tuple[str, ...] = ("index",)
    chance: float = 0.0  # value that a label reaches which says nothing
    asks: bool = True  # needs an LLM for labels that do not predict by themselves
    live: bool = False  # needs the loaded subject, and an LLM whatever the label
    sampled: bool = False  # scores a sample of the features where an LLM is asked
    figures: Callable[[pd.DataFrame], dict[str, Any]] | None = None  # further ones, of its table

    def decides(self, settings: ScoreSettings) -> dict[str, Any]:
        """Return the values that decide what a unit of this kind holds."""
        effort = asdict(EFFORTS[settings.effort])
        chosen = {name: getattr(settings, name) for name in self.settings}
        return {name: effort[name] for name in self.effort} | chosen


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "simulation",
            4,
            score_simulation,
            effort=("top", "strata", "random"),
            settings=("simulate_by",),
            sampled=True,
        ),
        Kind("simulation-corpus", 1, score_corpus, asks=False),
        Kind(
            COVERAGE,
            2,
            score_coverage,
            effort=("top", "strata", "random"),
            settings=("simulate_by",),
            sampled=True,
            figures=coverage_figures,
        ),
        Kind(
            "detection",
            3,
            partial(score_panels, kind="detection"),
            effort=("windows",),
            inputs=("index", "train"),
            chance=CHANCE,
        ),
        Kind(
            "fuzzing",
            3,
            partial(score_panels, kind="fuzzing"),
            effort=("windows",),
            inputs=("index", "train"),
            chance=CHANCE,
        ),
        Kind("intruder", 1, score_intruder, chance=intruder.CHANCE, sampled=True),
        Kind("effect", 1, score_effect, inputs=("index", "effects"), chance=CHANCE, asks=False),
        Kind(
            "effect-choice",
            1,
            effect_choice.score_choice,
            inputs=("index", "train", "effects"),
            chance=effect_choice.CHANCE,
            live=True,
            sampled=True,
        ),
        Kind(
            "generation", 1, score_generation, inputs=("index", "train"), chance=CHANCE, live=True
        ),
    )
}
WITHOUT_LLM = ("simulation", "simulation-corpus", COVERAGE, "detection", "fuzzing", "effect")
WITH_LLM = ("fuzzing", "detection", "simulation", COVERAGE, "effect")


def needs_live(settings: ScoreSettings) -> bool:
    """Whether `score` needs the loaded subject and SAE; raises UsageError for an unknown kind."""
    return any(kind.live for kind in named_kinds(settings))


def score(
    run: Run, settings: ScoreSettings, redo: bool = False, live: LiveSubject | None = None
) -> Manifest:
    """Make the units that the settings name; returns the manifest of the first kind.

    Raises UsageError for an unknown kind or feature, NotReady where an input is missing, and Stop
    where the settings ask for an estimate or a batch file.
    """
    named = named_kinds(settings)
    table = read_labels(run, settings.labels).set_index("feature").sort_index()
    chosen = parse_features(settings.features, table.index)
    needs_llm = not named or any(kind.asks for kind in named)
    if needs_llm and not is_named(settings) and not any(kind.live for kind in named):
        kept = leave_out_free_words(table["text"], chosen, settings.labels)
        if len(kept) < len(chosen):
            chosen, settings = kept, replace(settings, features=",".join(map(str, kept)))
            table = table[table["text"].map(rules.is_rule)]  # the nulls too
    labels = table["text"]
    are_rules = bool(labels[chosen].map(rules.is_rule).all())
    kinds = named or default_kinds(are_rules, has_changes(run))
    asks = any(kind.live or (kind.asks and not are_rules) for kind in kinds)
    with open_session(run, settings) if asks else contextlib.nullcontext() as asker:
        tokens = Tokens(run.folder("capture"))
        postings = Postings(run.folder("index"), run.folder("capture"))
        context = Context(run, settings, labels, table["kind"], postings, tokens, asker, live)
        manifests = [score_kind(context, kind, redo) for kind in kinds]
    return next(manifest for manifest in manifests if manifest)


def leave_out_free_words(labels: pd.Series, chosen: list[int], label_set: str) -> list[int]:
    """Return the features of `chosen` whose labels are rules, and say what is left out.

    Raises UsageError where none is.
    """
    kept = [f for f in chosen if rules.is_rule(labels[f])]
    left = [f for f in chosen if not rules.is_rule(labels[f])]
    if not left:
        return chosen
    whose = f"feature {left[0]}" + (f" and of {len(left) - 1:,} more" if len(left) > 1 else "")
    what = f"The label of {whose} is not in the language of rules (docs/rules.md)."
    if not kept:
        raise UsageError(
            what,
            f"Name an LLM that scores it: --labels {label_set} --llm-url URL, or write a rule.",
        )
    say(f"{what} Scored {len(kept):,} of {len(chosen):,}; give --llm-url for the others.")
    return kept


def named_kinds(settings: ScoreSettings) -> list[Kind]:
    """Return the kinds that --kind names, in its order; raises UsageError for an unknown one."""
    named = [k.strip() for k in settings.kind.split(",") if k.strip()]
    if unknown := [k for k in named if k not in KINDS]:
        raise UsageError(
            f"There is no kind of score {unknown[0]!r}.", f"Kinds: {', '.join(KINDS)}."
        )
    return [KINDS[name] for name in named]


def default_kinds(are_rules: bool, clamps_known: bool) -> list[Kind]:
    """Return the kinds that suit the labels; effect only where the effects of clamps are known."""
    names = WITHOUT_LLM if are_rules else WITH_LLM
    return [KINDS[name] for name in names if name != "effect" or clamps_known]


def score_kind(context: Context, kind: Kind, redo: bool) -> Manifest | None:
    """Make the unit of one kind; None where nothing was sent (an estimate, a batch file)."""
    run, name = context.run, context.label_set
    unit = GrowingUnit(
        unit_of(name, kind.name),
        kind.version,
        kind.decides(context.settings),
        (*kind.inputs, label_unit_of(name)),
        (SCORES, FAILURES, MISSES),
    )
    held = find_scores(run, name, kind.name)

    def make(growth: Growth) -> dict[str, Any]:
        return write(context, kind, kind.score(context, growth.missing), growth)

    wanted = choose_features(context, kind)
    has_rows = held is not None and len(held) > 0  # a kind may have no row for any label of a set
    return grow(run, unit, wanted, make, redo, extend=has_rows)


def choose_features(context: Context, kind: Kind) -> list[int]:
    """Return the features to score: those of --features, else all, or a sample.

    A kind that is `sampled` scores a sample drawn evenly over densities where an LLM is asked.
    """
    settings = context.settings
    features = parse_features(settings.features, context.labels.index)
    costly = kind.sampled and (kind.live or any(context.is_free(f) for f in features))
    if settings.features or not costly or not 0 < settings.simulate < len(features):
        return features
    by_density = np.array(features)[np.argsort(context.postings.n_firings[features], kind="stable")]
    strata = np.array_split(by_density, settings.simulate)
    rng = np.random.default_rng([context.seed, 5])
    return sorted(int(rng.choice(stratum)) for stratum in strata)


# ---------------------------------------------------------------- write


def write(context: Context, kind: Kind, scored: Scored, growth: Growth) -> dict[str, Any]:
    """Write a unit's files, kept rows included; returns its summary, which is over all rows."""
    table = append_rows(growth.kept[SCORES], scored.table())
    table = table.sort_values(["feature", "kind"], kind="stable", ignore_index=True)
    kept = [Failure(*row) for row in growth.kept[FAILURES].itertuples(index=False, name=None)]
    failures = kept + scored.failures
    kept_misses = growth.kept[MISSES] if len(growth.kept[MISSES]) else miss_table([])
    misses = pd.concat([kept_misses, miss_table(scored.misses)], ignore_index=True)
    write_scores(growth.folder, table, failures, misses)
    asked = context.asker.summary() if context.asker else {}
    return key_figures(context, kind, table, failures) | scored.summary | asked


def key_figures(
    context: Context, kind: Kind, table: pd.DataFrame, failures: list[Failure]
) -> dict[str, Any]:
    """Return the key figures of a unit from its whole table."""
    own = table[table["kind"] == kind.name]
    alive = len(context.labels) + len(read_label_failures(context.run, context.label_set))
    if kind.sampled and len(own) < len(context.labels):
        alive = len(own)
    figures = summarise(own, failures, alive, context.seed, kind.chance, context.kinds)
    if len(own) < len(table):
        figures |= hard_summary(table, alive, context.seed, context.kinds)
    if kind.figures is not None:
        figures |= kind.figures(own)
    figures["rank_correlation"] = correlate_kinds(context, kind, table)
    return figures


def correlate_kinds(context: Context, kind: Kind, table: pd.DataFrame) -> dict[str, Any]:
    """Return the rank correlations of `kind` with all kinds that the set was scored by."""
    others = [find_scores(context.run, context.label_set, name) for name in KINDS]
    tables: dict[str, pd.DataFrame] = {}
    for part in [*(other for other in others if other is not None), table]:
        tables |= {str(name): rows for name, rows in part.groupby("kind")}
    return rank_correlations(tables, kind.name)

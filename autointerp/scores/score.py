"""Stage `score`: labels -> how well their text predicts what features do on documents that the labeller never saw.

Each kind of score is a unit of its own, `score/<set>/<kind>`, made by its own module:

    simulation, simulation-corpus   predict activations token by token           simulation, corpus_score
    detection, fuzzing              tell windows and tokens apart                detect
    effect                          name what the feature promotes               effect
    effect-choice                   tell the texts of its clamp from others'      choice
    generation                      write texts that make it fire                generation

Without --kind: what suits the labels. Labels that predict by themselves (rules) get every kind that is free; labels in free words get fuzzing and
detection for all, and simulation, which costs several times as much, for a sample drawn evenly over densities, as effect-choice when it is asked for. Scoring
more features adds rows; only --redo replaces any, with --features those alone.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from autointerp.llm.session import DryRun, open_session
from autointerp.rules import language as rules
from autointerp.scores import effect_choice as choice
from autointerp.scores.context import Context, LiveSubject, Scored, rank_correlations, summary
from autointerp.scores.detection import CHANCE, hard_summary, score_panels
from autointerp.scores.effect import score_effect
from autointerp.scores.generation import score_generation
from autointerp.scores.mistakes import table_of
from autointerp.scores.simulation import score_simulation
from autointerp.scores.simulation_corpus import score_corpus
from autointerp.settings import ScoreSettings, parse_features
from autointerp.tables import keep_rows
from core.errors import UsageError
from core.files import write_table
from core.firings.postings import Postings
from core.records import Failure, Manifest
from core.run import Run, Work
from core.text.tokens import Tokens


@dataclass(frozen=True)
class Kind:
    """One kind of score."""

    name: str
    version: int
    score: Callable[[Context, list[int]], Scored]
    decides: tuple[str, ...] = ()  # settings that decide what it holds
    inputs: tuple[str, ...] = ("index",)
    chance: float = 0.0  # what a label that says nothing reaches
    asks: bool = True  # an LLM, for labels that do not predict by themselves
    live: bool = False  # asks an LLM whatever the label, and the live subject
    sampled: bool = False  # costs several times as much as others where an LLM is asked


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "simulation",
            3,
            score_simulation,
            ("top", "strata", "random", "simulate_by"),
            sampled=True,
        ),
        Kind("simulation-corpus", 1, score_corpus, asks=False),
        Kind(
            "detection",
            2,
            partial(score_panels, kind="detection"),
            ("windows",),
            ("index", "train"),
            CHANCE,
        ),
        Kind(
            "fuzzing",
            2,
            partial(score_panels, kind="fuzzing"),
            ("windows",),
            ("index", "train"),
            CHANCE,
        ),
        Kind("effect", 1, score_effect, (), ("index", "effects"), CHANCE, asks=False),
        Kind(
            "effect-choice",
            1,
            choice.score_choice,
            (),
            ("index", "train", "effects"),
            choice.CHANCE,
            live=True,
            sampled=True,
        ),
        Kind("generation", 1, score_generation, (), ("index", "train"), CHANCE, live=True),
    )
}
FREE = ("simulation", "simulation-corpus", "detection", "fuzzing", "effect")
ASKED = ("fuzzing", "detection", "simulation", "effect")


def score(
    run: Run, settings: ScoreSettings, redo: bool = False, live: LiveSubject | None = None
) -> Manifest:
    """Make the units that the settings ask for; returns the manifest of the first kind."""
    table = (
        pd.read_parquet(run.folder(f"label/{settings.set}") / "labels.parquet")
        .set_index("feature")
        .sort_index()
    )
    labels = table["text"]
    kinds = chosen_kinds(
        settings,
        labels,
        run.find("effects") is not None and (run.path / "effects" / "clamped.npy").exists(),
    )
    asks = (
        any(KINDS[k].live for k in kinds)
        or any(KINDS[k].asks for k in kinds)
        and not labels.map(rules.is_rule).all()
    )
    with open_session(run, settings) if asks else contextlib.nullcontext() as asker:
        tokens, postings = (
            Tokens(run.folder("capture")),
            Postings(run.folder("index"), run.folder("capture")),
        )
        context = Context(run, settings, labels, table["kind"], postings, tokens, asker, live)
        made = [score_kind(context, KINDS[name], redo) for name in kinds]
    return next(m for m in made if m)


def chosen_kinds(settings: ScoreSettings, labels: pd.Series, clamps_known: bool) -> list[str]:
    """The kinds that the settings name, or those that suit the labels (effect only where the effects of clamps are known); raises UsageError for one that does not exist."""
    named = [k.strip() for k in settings.kind.split(",") if k.strip()]
    if unknown := [k for k in named if k not in KINDS]:
        raise UsageError(
            f"There is no kind of score {unknown[0]!r}.", f"Kinds: {', '.join(KINDS)}."
        )
    suited = FREE if labels.map(rules.is_rule).all() else ASKED
    return named or [k for k in suited if k != "effect" or clamps_known]


def score_kind(context: Context, kind: Kind, redo: bool) -> Manifest | None:
    """The committed unit of one kind; None where nothing was sent (an estimate, a batch file)."""
    run, name = context.run, context.set
    unit, labels_unit = f"score/{name}/{kind.name}", f"label/{name}"
    decides, inputs = (
        {s: getattr(context.settings, s) for s in kind.decides},
        [*kind.inputs, labels_unit],
    )
    asked_for = choose_features(context, kind)
    old = keep_rows(
        run.path / unit / "scores.parquet",
        run.is_current(unit, kind.version, decides, inputs),
        asked_for if redo else (),
    )
    missing = sorted(set(asked_for) - set(old["feature"]))
    failed = keep_rows(run.path / unit / "failures.parquet", len(old) > 0, missing)
    work = run.begin(
        unit, kind.version, decides, inputs, redo, extend=bool(missing) and len(old) > 0
    )
    if work is None:
        return run.manifest(unit)
    try:
        scored = kind.score(context, missing)
    except DryRun:
        shutil.rmtree(work.folder)
        return None
    return commit(
        context,
        kind,
        work,
        old,
        replace(
            scored, failures=[Failure(**f) for f in failed.to_dict("records")] + scored.failures
        ),
    )


def choose_features(context: Context, kind: Kind) -> list[int]:
    """The features to score: those asked for, else all, else (kinds that cost much, where an LLM is asked) a sample drawn evenly over densities."""
    settings = context.settings
    features = parse_features(settings.features, context.labels.index)
    costly = kind.sampled and (
        kind.live or any(context.parsed[context.labels[f]] is None for f in features)
    )
    if settings.features or not costly or not 0 < settings.simulate < len(features):
        return features
    by_density = np.array(features)[np.argsort(context.postings.n_firings[features], kind="stable")]
    strata = np.array_split(by_density, settings.simulate)
    rng = np.random.default_rng([context.seed, 5])
    return sorted(int(rng.choice(stratum)) for stratum in strata)


def kept_misses(run: Run, unit: str, old: pd.DataFrame) -> pd.DataFrame:
    """The misses of the scores that stay."""
    path = run.path / unit / "misses.parquet"
    if not (len(old) and path.exists()):
        return table_of([])
    found = pd.read_parquet(path)
    return found[found["feature"].isin(old["feature"])]


def commit(context: Context, kind: Kind, work: Work, old: pd.DataFrame, scored: Scored) -> Manifest:
    """Write scores and failures; the summary is over all rows that the unit then holds."""
    run, new = context.run, scored.table()
    table = (pd.concat([old, new], ignore_index=True) if len(old) else new).sort_values(
        ["feature", "kind"], kind="stable"
    )
    write_table(work.folder / "scores.parquet", table)
    if len(
        wrong := pd.concat(
            [kept_misses(run, work.unit, old), table_of(scored.misses)], ignore_index=True
        )
    ):
        write_table(work.folder / "misses.parquet", wrong)
    write_table(
        work.folder / "failures.parquet",
        pd.DataFrame([vars(f) for f in scored.failures], columns=list(Failure.__annotations__)),
    )
    main = table[table["kind"] == kind.name]
    sampled = kind.sampled and len(main) < len(context.labels)
    asked_for = (
        len(main)
        if sampled
        else len(context.labels)
        + len(pd.read_parquet(run.folder(f"label/{context.set}") / "failures.parquet"))
    )
    figures = summary(main, scored.failures, asked_for, context.seed, kind.chance, context.kinds)
    if (table["kind"] != kind.name).any():
        figures |= hard_summary(table, asked_for, context.seed, context.kinds)
    others = {
        k: pd.read_parquet(run.folder(f"score/{context.set}/{k}") / "scores.parquet")
        for k in KINDS
        if run.find(f"score/{context.set}/{k}")
    }
    by_kind = {name: part for t in [*others.values(), table] for name, part in t.groupby("kind")}
    figures["rank_correlation"] = rank_correlations(by_kind, kind.name)
    return work.commit(
        figures | scored.summary | (context.asker.summary() if context.asker else {})
    )

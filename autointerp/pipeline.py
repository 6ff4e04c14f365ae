"""The stages, declared once in one table, and one way to run them.

`--help`, `status`, `run`, the Python API, the report and the tests read this table. A stage is a
function with the verb's name in its module:

    stage(run, settings, folder) -> summary   writes into `folder`; `make` commits the unit
    stage(run, settings, redo) -> Manifest    with `grows`: adds rows to its units (see `grow`)

Modules are named as text and imported when a stage runs, so that reading this table loads nothing
heavy.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from autointerp.settings import (
    ClusterSettings,
    LabelSettings,
    RelateSettings,
    ReportSettings,
    ScoreSettings,
    TitleSettings,
)
from core.errors import Stop
from core.malloc import give_back_memory
from core.progress import say, working
from core.records import Manifest
from core.settings import (
    CaptureSettings,
    EffectsSettings,
    EvaluateSettings,
    IndexSettings,
    ParallelSettings,
    SweepSettings,
    TrainSettings,
    from_table,
    key_table,
)

if TYPE_CHECKING:
    from core.run import Run


@dataclass(frozen=True)
class Request:
    """What one call of a stage makes: the unit, what decides its content, and its inputs."""

    unit: str
    decides: Any  # the settings dataclass, or a table
    inputs: list[str]


@dataclass(frozen=True)
class Stage:
    """One stage: its name, what decides its result, what it reads, where its code is."""

    name: str  # the verb, the function in `module`, and the unit unless `units` says otherwise
    version: int  # of the code; 0 where the stage grows: its units have versions of their own
    settings: type
    reads: tuple[str, ...]  # units; {labels} is filled from the settings
    module: str
    shown: tuple[str, ...]  # entries of the summary that `status` and the stage's last line show
    units: tuple[str, ...] = ()  # what one call with default settings makes, the main unit first
    grows: bool = False  # it adds rows to units that are there, and commits them itself
    checks: bool = False  # its module's `check(run, settings)` raises before anything is written
    follows: bool = False  # it is made again, unasked, when what it reads has changed
    in_run: bool = True  # `run` makes it
    request: Callable[[Run, Any], Request] | None = None  # where the rule below does not hold

    @property
    def made(self) -> tuple[str, ...]:
        return self.units or (self.name,)

    def requested(self, run: Run, settings: Any) -> Request:
        """The unit is the stage's name, all settings decide, and `reads` are the inputs."""
        if self.request is not None:
            return self.request(run, settings)
        return Request(self.name, settings, [unit.format(**vars(settings)) for unit in self.reads])

    def function(self) -> Callable[..., Any]:
        """The stage's code; importing it loads what it needs."""
        code: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return code


def _train_request(run: Run, settings: TrainSettings) -> Request:
    """An autoencoder taken from a sweep is decided by its name alone."""
    if not settings.take:
        return Request("train", settings, ["capture"])
    inputs = ["capture", settings.take.rpartition("/")[0]]
    return Request("train", TrainSettings(take=settings.take), inputs)


def _sweep_request(run: Run, settings: SweepSettings) -> Request:
    return Request(f"sweep/{settings.name}", settings, ["capture"])


def _report_request(run: Run, settings: ReportSettings) -> Request:
    """The report reads what is there: label sets and scores that are not stale, and kept clamps.

    It also reads the scores of the controls beside the run, so that no later report loses them.
    """
    from autointerp.controls import find_controls
    from core.clamps.experiments import experiments

    optional = ("evaluate", "effects", "cluster", "title", "relate")
    sets = [unit for unit in run.committed() if unit.startswith(("label/", "score/"))]
    current = [u for u in sets if u.split("/")[1] == "rules" or run.state(u) == "done"]
    inputs = ["capture", "train", "index", *(u for u in optional if run.find(u)), *current]
    scored = {
        c.run.path.name: {u: c.run.manifest(u).key for u in c.run.committed() if "score/" in u}
        for c in find_controls(run)
    }
    decides = key_table(settings) | {"clamps": len(experiments(run)), "controls": scored}
    written = {"readme": settings.readme} if settings.readme else {}
    return Request("report", decides | written, inputs)


_SCORED = tuple(
    f"score/rules/{kind}"
    for kind in ("simulation", "simulation-corpus", "coverage", "detection", "fuzzing", "effect")
)

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "capture", 4, CaptureSettings, (), "core.activations.capture",
            ("documents", "tokens"),
        ),
        Stage(
            "train", 6, TrainSettings, ("capture",), "core.training.train",
            ("architecture", "features", "steps", "val_fvu", "l0", "dead"), checks=True,
            request=_train_request,
        ),
        Stage(
            "sweep", 4, SweepSettings, ("capture",), "core.training.sweep", ("saes",),
            checks=True, in_run=False, request=_sweep_request,
        ),
        Stage(
            "evaluate", 3, EvaluateSettings, ("capture", "train"), "core.training.evaluate",
            ("fvu", "l0", "ce_clean", "ce_spliced", "recovered_mean", "loss_tokens"),
        ),
        Stage(
            "index", 3, IndexSettings, ("capture", "train"), "core.firings.index",
            ("firings", "dead", "dense"),
        ),
        Stage(
            "effects", 4, EffectsSettings, ("capture", "train", "index"), "core.effects.effects",
            ("features",),
        ),
        Stage(
            "cluster", 4, ClusterSettings, ("train", "index"), "autointerp.clusters.cluster",
            (
                "families", "family_cut", "families_null", "families_come_back", "family_share",
                "layers", "isolated", "verdict_kind",
            ),
        ),
        Stage(
            "label", 0, LabelSettings, ("index",), "autointerp.labels.label",
            ("labels", "unclear", "failures"), units=("label/rules",), grows=True,
        ),
        Stage(
            "score", 0, ScoreSettings, ("index", "label/{labels}"), "autointerp.scores.score",
            ("median", "low", "high", "null_median", "n", "share_above_null", "failures"),
            units=_SCORED, grows=True,
        ),
        Stage(
            "title", 5, TitleSettings, ("cluster", "label/{labels}", "effects"),
            "autointerp.titles.title",
            (
                "families_named", "families_solid", "family_intruder_near_share",
                "family_intruder_far_share", "groups", "named", "mixed", "unstable",
                "intruder_share", "agreement_z",
            ),
        ),
        Stage(
            "relate", 3, RelateSettings, ("cluster", "label/{labels}"),
            "autointerp.clusters.relate",
            ("duplicate", "splitting", "absorption", "within_families"),
        ),
        Stage(
            "report", 5, ReportSettings, ("capture", "train", "index"), "figures.report.report",
            ("figures",), follows=True, request=_report_request,
        ),
    )
}  # fmt: skip
IN_RUN = [stage for stage in STAGES.values() if stage.in_run]
# ---------------------------------------------------------------- settings


def settings_as_made(run: Run, name: str, given: dict[str, Any]) -> Any:
    """The settings of stage `name`: `given` ones, and for the rest those that its unit was made
    with.

    A unit that is only begun counts too, so that the same command continues it. Raises UsageError
    for a setting that the stage does not have.
    """
    stage = STAGES[name]
    if name != "label" and given.get("labels") == "llm":
        from autointerp.labels.unit import complete_name

        given = given | {"labels": complete_name(run, given["labels"])}
    asked: Any = from_table(stage.settings, given)
    kept: dict[str, Any] = {}
    unit = _unit_of(run, stage, asked)
    for source in (
        run.begun_with(unit),
        manifest.settings if (manifest := run.find(unit)) else None,
    ):
        if source is not None:
            known = {f.name for f in fields(stage.settings)}
            kept = {k: v for k, v in source.items() if k in known}
            break
    return from_table(stage.settings, kept | given)


def _unit_of(run: Run, stage: Stage, settings: Any) -> str:
    labels = getattr(settings, "labels", "")
    if stage.name == "label":
        return f"label/{labels}"
    if stage.name == "score":
        return f"score/{labels}/simulation"
    return stage.requested(run, settings).unit


# ---------------------------------------------------------------- making


def make(run: Run, name: str, settings: Any = None, redo: bool = False, **more: Any) -> Manifest:
    """Run one stage under the run's lock, and say what came out; a unit that is done says so.

    `settings` defaults to the stage's own defaults; `more` goes to the stage. Raises NotReady when
    an input is missing or stale, or when the unit is committed with other settings and `redo` is
    not set.
    """
    stage = STAGES[name]
    settings = settings if settings is not None else stage.settings()
    with run.locked(name), working(name):
        before = {unit: run.find(unit) for unit in run.committed()}
        if stage.grows:
            manifest: Manifest = stage.function()(run, settings, redo, **more)
        else:
            manifest = _make_unit(run, stage, settings, redo)
    give_back_memory()
    known = before.get(manifest.unit)
    again = known is not None and (known.seconds, known.files) == (manifest.seconds, manifest.files)
    done = "already done" if again else f"done in {manifest.seconds:.0f} s"
    say(f"{manifest.unit}: {done}; {brief(stage, manifest.summary)}")
    return manifest


def _make_unit(run: Run, stage: Stage, settings: Any, redo: bool) -> Manifest:
    """Begin the unit, let the stage write its files, and commit them."""
    if stage.checks:
        importlib.import_module(stage.module).check(run, settings)
    request = stage.requested(run, settings)
    if stage.follows and run.find(request.unit):
        current = run.is_current(request.unit, stage.version, request.decides, request.inputs)
        redo = redo or not current
    work = run.begin(request.unit, stage.version, request.decides, request.inputs, redo)
    if work is None:
        return run.manifest(request.unit)
    try:
        return work.commit(stage.function()(run, settings, work.folder))
    except Stop:
        work.discard()
        raise


def make_pending(run: Run, name: str, settings: Any = None, **where: Any) -> Manifest:
    """Run stage `name` unless it is done; continue or redo it with the settings it had.

    `where` are settings of `ParallelSettings`, for a stage that has them.
    """
    stage = STAGES[name]
    if is_done(run, stage):
        return run.manifest(stage.made[0])
    states = {run.state(unit) for unit in stage.made}
    if {"stale", "partial"} & states and settings is None:
        settings = settings_as_made(run, name, {})
    if where and issubclass(stage.settings, ParallelSettings):
        settings = replace(settings or stage.settings(), **where)
    return make(run, name, settings, redo="stale" in states)


def make_inputs(run: Run, name: str, settings: Any) -> None:
    """Make what stage `name` reads and the run lacks, each with its defaults, in order."""
    missing = [
        unit for unit in STAGES[name].requested(run, settings).inputs if run.find(unit) is None
    ]
    for unit in missing:
        verb, label_set = unit.partition("/")[::2]
        if verb in STAGES and label_set in ("", "rules"):
            make_inputs(run, verb, STAGES[verb].settings())
            make_pending(run, verb)


def is_done(run: Run, stage: Stage) -> bool:
    """Whether `run` has nothing left to do for the stage."""
    return not stage.follows and {run.state(unit) for unit in stage.made} == {"done"}


def capture_together(
    runs: list[Run], settings: CaptureSettings, redo: bool = False
) -> list[Manifest]:
    """Capture runs that differ in their site only in one pass, under the lock of each.

    Raises UsageError when they differ in more.
    """
    from core.activations.capture import capture_sites, check_together

    check_together(runs)
    version = STAGES["capture"].version
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked("capture"))
        works = {run: run.begin("capture", version, settings, [], redo) for run in runs}
        begun = {run: work for run, work in works.items() if work is not None}
        if begun:
            summary = capture_sites({run: work.folder for run, work in begun.items()}, settings)
            for work in begun.values():
                work.commit(summary)
    manifests = [run.manifest("capture") for run in runs]
    for run, manifest in zip(runs, manifests, strict=True):
        say(f"{run.name}: {brief(STAGES['capture'], manifest.summary)}")
    return manifests


def needs_model(settings: ScoreSettings) -> bool:
    """Whether a kind of score that the settings name asks the loaded subject itself."""
    from autointerp.scores.score import needs_live

    return needs_live(settings)


FIGURES = {  # key in a summary -> words, with {} for its value; a key that is not here is its own
    "val_fvu": "{} of the variance missed on val (FVU)", "fvu": "{} of the variance missed (FVU)",
    "l0": "{} features fire on a token", "dead": "{} never fire", "dense": "{} fire everywhere",
    "ce_clean": "loss {}", "ce_spliced": "{} through the autoencoder",
    "recovered_mean": "{} of the loss recovered", "loss_tokens": "loss on {} tokens",
    "steps": "{} steps", "saes": "{} autoencoders", "features": "{} features",
    "documents": "{} documents", "tokens": "{} tokens", "firings": "{} firings",
    "families": "{} families", "family_cut": "cosine {} inside a family",
    "families_null": "{} families in noise", "families_come_back": "{} of them come back",
    "family_share": "{} of the features in one", "layers": "clusters by level {}",
    "isolated": "{} isolated", "labels": "{} labels", "unclear": "{} of them unclear",
    "median": "median {}", "low": "from {}", "high": "to {}", "null_median": "null {}",
    "family_intruder_near_share": "a near outsider told {}",
    "family_intruder_far_share": "a far one {}", "within_families": "{} of them in one family",
    "n": "{} features have a value", "share_above_null": "{} of all above their null",
    "families_named": "{} families named", "families_solid": "{} of them solid",
    "groups": "{} clusters", "named": "{} named", "mixed": "{} mixed", "unstable": "{} unstable",
    "intruder_share": "intruders told {}", "agreement_z": "agreement of labels z {}",
    "duplicate": "{} near duplicates", "splitting": "{} probably split",
    "absorption": "{} probably absorbed", "figures": "{} figures", "architecture": "{}",
}  # fmt: skip
VERDICTS = {
    "none": "no structure beyond one cloud",
    "unstable": "clusters that do not come back",
    "structure": "clusters beyond one cloud",
}


def brief(stage: Stage, summary: dict[str, Any]) -> str:
    """The key figures of a unit in words, on one line."""
    shown = {name: summary[name] for name in stage.shown if summary.get(name) not in (None, {})}
    return ", ".join(_say_figure(name, value) for name, value in shown.items())


def _say_figure(name: str, value: Any) -> str:
    if name == "failures" and isinstance(value, dict):
        kinds = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in value.items())
        return f"without a value: {kinds}"
    if name == "verdict_kind":
        return VERDICTS.get(value, str(value))
    return FIGURES.get(name, name.replace("_", " ") + " {}").format(_number(value))


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_number(one) for one in value)
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

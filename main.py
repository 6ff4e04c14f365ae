"""Verbs and flags. What a verb needs is imported when it runs, so --help does not load torch.

Standard output carries results only; progress and news go to standard error. Errors for a person are two lines and an exit code.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
from dataclasses import dataclass, fields

try:
    import click
except ModuleNotFoundError:
    sys.exit(
        "error: This Python has not got the packages that the program needs.\nType: make setup && . .venv/bin/activate"
    )

import verbs
from autointerp.settings import (
    ClusterSettings,
    LabelSettings,
    RelateSettings,
    ScoreSettings,
    TitleSettings,
)
from core.errors import INTERRUPTED, NotReady, ToolError, UsageError
from core.records import Clamp
from core.settings import (
    CaptureSettings,
    EffectsSettings,
    EvaluateSettings,
    IndexSettings,
    RunSettings,
    SweepSettings,
    TrainSettings,
    from_table,
)
from figures.report.settings import ReportSettings

# Large freed blocks stay with the process: without this, every big activation is mapped and page-faulted anew, and reading the
# subject is up to twice as slow. glibc reads it at start only, hence the one re-execution in `main`.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True)
class Stage:
    settings: type
    module: str  # holds a function with the stage's name
    unit: str
    figures: tuple[str, ...]  # entries of its summary that `status` and the stage's last line show
    more: tuple[str, ...] = ()  # units that the same verb makes beside `unit`


STAGES = {
    "capture": Stage(
        CaptureSettings, "core.activations.capture", "capture", ("documents", "tokens")
    ),
    "train": Stage(
        TrainSettings,
        "core.training.train",
        "train",
        ("architecture", "features", "steps", "val_fvu", "l0", "dead"),
    ),
    "evaluate": Stage(
        EvaluateSettings,
        "core.training.evaluate",
        "evaluate",
        ("fvu", "l0", "ce_clean", "ce_spliced", "recovered_mean"),
    ),
    "index": Stage(IndexSettings, "core.firings.index", "index", ("firings", "dead", "dense")),
    "effects": Stage(EffectsSettings, "core.effects.effects", "effects", ("features",)),
    "cluster": Stage(
        ClusterSettings,
        "autointerp.clusters.cluster",
        "cluster",
        ("layers", "noise", "isolated", "kept", "phi_z", "verdict_kind"),
    ),
    "label": Stage(
        LabelSettings, "autointerp.labels.label", "label/rules", ("labels", "unclear", "failures")
    ),
    "score": Stage(
        ScoreSettings,
        "autointerp.scores.score",
        "score/rules/simulation",
        ("median", "low", "high", "null_median", "n", "share_above_null", "failures"),
        (
            "score/rules/simulation-corpus",
            "score/rules/detection",
            "score/rules/fuzzing",
            "score/rules/effect",
        ),
    ),
    "title": Stage(
        TitleSettings,
        "autointerp.titles.title",
        "title",
        ("groups", "named", "mixed", "unstable", "intruder_share", "agreement_z"),
    ),
    "relate": Stage(
        RelateSettings,
        "autointerp.clusters.relate",
        "relate",
        ("duplicate", "splitting", "absorption"),
    ),
    "report": Stage(ReportSettings, "figures.report.report", "report", ("figures",)),
}

OPTIONAL = {
    "sweep": Stage(SweepSettings, "core.training.sweep", "sweep", ("saes",))
}  # `run` leaves these out
SWEPT = ["sae", "fvu", "l0", "dead_share", "ce_increase", "recovered_zero", "recovered_mean"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli():
    """Find out what the features of a language model mean, and prove it by clamping them."""


verbs.add_to(cli)


# ---------------------------------------------------------------- plumbing


def flags(settings):
    """A decorator with one option for each field of a settings dataclass."""

    def wrap(command):
        own_first = sorted(fields(settings), key=lambda f: f.name not in settings.__annotations__)
        for f in reversed(own_first):
            choices, switch = f.metadata["choices"], isinstance(f.default, bool)
            kind = click.Choice(choices) if choices else type(f.default)
            named = {"is_flag": True} if switch else {"type": kind, "show_default": f.default != ""}
            command = click.option(
                f"--{f.name.replace('_', '-')}",
                f.name,
                default=f.default,
                help=f.metadata["help"],
                **named,
            )(command)
        return command

    return wrap


json_flag = click.option(
    "--json", "as_json", is_flag=True, help="print one JSON document and nothing else"
)


def emit(value, text: str, as_json: bool) -> None:
    """The result on standard output, as JSON or as text."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False) if as_json else text)


def open_run(name: str):
    from core.run import Run

    return Run.open(name)


def brief(stage: Stage, summary: dict) -> str:
    """The key figures of a unit on one line."""
    number = lambda v: (
        f"{v:.3g}"
        if isinstance(v, float) and abs(v) < 1000
        else f"{v:,}"
        if isinstance(v, int)
        else str(v)
    )
    return ", ".join(
        f"{name} {number(summary[name])}"
        for name in stage.figures
        if summary.get(name) not in (None, {})
    )


def run_stage(run, name: str, settings, redo: bool = False):
    """Run one stage under the run's lock and say what came out; a stage that is done says so."""
    from core.malloc import give_back_memory
    from core.progress import say

    stage, extra = (STAGES | OPTIONAL)[name], {}
    if name == "score" and {"generation", "effect-choice"} & {
        *map(str.strip, settings.kind.split(","))
    }:  # no other stage of autointerp needs the live subject
        extra = {"live": importlib.import_module("core.clamps.live").Live(run)}
    with run.locked(name):
        before = {unit: run.find(unit) for unit in run.committed()}
        manifest = getattr(importlib.import_module(stage.module), name)(
            run, settings, redo, **extra
        )
    give_back_memory()
    known = before.get(manifest.unit)
    again = (
        known is not None and known.seconds == manifest.seconds and known.files == manifest.files
    )
    say(
        f"{manifest.unit}: {'already done' if again else f'done in {manifest.seconds:.0f} s'}; {brief(stage, manifest.summary)}"
    )
    return manifest


def stage_command(name: str, stage: Stage):
    @cli.command(
        name, help=stage.settings.__doc__, short_help=stage.settings.__doc__.split(": ", 1)[1]
    )
    @click.argument("run")
    @flags(stage.settings)
    @click.option("--redo", is_flag=True, help="make this unit anew, and what follows stale")
    def command(run, redo, also=(), **values):
        settings = from_table(stage.settings, values)
        if also:
            capture_several([run, *also], settings, redo)
        else:
            run_stage(open_run(run), name, settings, redo)

    return command


for _name, _stage in STAGES.items():
    _command = stage_command(_name, _stage)
    if _name == "capture":
        click.option(
            "--also",
            multiple=True,
            metavar="RUN",
            help="capture this run's site in the same pass; may be given more than once",
        )(_command)


def capture_several(names: list[str], settings: CaptureSettings, redo: bool) -> None:
    """Capture runs that differ in their site only in one pass, under the lock of each."""
    from core.activations.capture import capture_together
    from core.progress import say

    runs = [open_run(name) for name in dict.fromkeys(names)]
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked("capture"))
        for run, manifest in zip(runs, capture_together(runs, settings, redo), strict=True):
            say(f"{run.name}: {brief(STAGES['capture'], manifest.summary)}")


@cli.command(
    "sweep",
    help=SweepSettings.__doc__,
    short_help="several autoencoders in one pass over the activations",
)
@click.argument("run")
@flags(SweepSettings)
@click.option("--redo", is_flag=True, help="make this sweep anew")
@json_flag
def sweep_command(run, redo, as_json, **values):
    from figures.terminal import table_text

    manifest = run_stage(open_run(run), "sweep", from_table(SweepSettings, values), redo)
    rows = [{name: row.get(name) for name in SWEPT} for row in manifest.summary["table"]]
    emit(rows, "" if as_json else table_text(rows, SWEPT, len(rows)), as_json)


# ---------------------------------------------------------------- runs


@cli.command()
@click.argument("run")
@flags(RunSettings)
@click.pass_context
def new(context, run, **values):
    """Make a run: which subject, which site, which corpus, and whether it loads a published SAE."""
    from core.records import Site
    from core.run import Run
    from core.text.documents import check_corpus

    first = ""
    if values["sae"]:
        from core.saes.formats import load_published

        published = load_published(values["sae"])
        if context.get_parameter_source("site").name == "DEFAULT":
            if published.site is None:
                raise UsageError(
                    f"{values['sae']} does not say which site it reads.",
                    "Name it: --site resid_post.6, or a module path.",
                )
            values["site"] = str(published.site)
        first = (
            f"python main.py capture {run} --context {published.context} && "
            if published.context
            else ""
        )
        click.echo(
            f"{published.source}: {published.sae.n_features:,} features at {values['site']} of {published.subject or 'a subject that it does not name'}"
        )
    settings = from_table(RunSettings, values)
    Site.parse(settings.site)
    check_corpus(settings.corpus)
    made = Run.create(run, settings)
    click.echo(f"{made.path}\nNext: {first}python main.py run {made.name}")


@cli.command("run")
@click.argument("run")
def run_all(run):
    """Run every stage that is not done, with its default settings, or with those that it was begun with."""
    opened = open_run(run)
    for name in STAGES:
        run_pending(opened, name)
    click.echo(f"Report: {opened.path / 'report' / 'report.md'}")


def run_pending(run, name: str, settings=None):
    """Run stage `name` unless it is done; go on with a partial one's own settings."""
    stage = STAGES[name]
    states = {run.state(unit): unit for unit in reversed((stage.unit, *stage.more))}
    if set(states) == {"done"}:
        return run.manifest(stage.unit)
    if "stale" in states:
        settings = from_table(stage.settings, run.manifest(states["stale"]).settings)
    elif "partial" in states:
        settings = from_table(stage.settings, run.plan(states["partial"]) or {})
    return run_stage(run, name, settings or stage.settings(), redo="stale" in states)


@cli.command()
@click.argument("run")
@json_flag
def status(run, as_json):
    """Units of a run: state and key figures."""
    opened = open_run(run)
    units = [unit for stage in STAGES.values() for unit in (stage.unit, *stage.more)]
    units += [u for u in opened.committed() if u not in units]
    rows, lines = [], []
    for unit in units:
        manifest, state = opened.find(unit), opened.state(unit)
        rows.append(
            {
                "stage": unit,
                "state": state,
                "summary": manifest.summary if manifest else {},
                "seconds": manifest.seconds if manifest else None,
            }
        )
        shown = brief((STAGES | OPTIONAL)[unit.split("/")[0]], manifest.summary) if manifest else ""
        lines.append(
            f"{unit:28} {state:8} {f'{manifest.seconds:6.0f} s' if manifest else '':9} {shown}".rstrip()
        )
    emit({"run": opened.name, "stages": rows}, "\n".join(lines), as_json)


@cli.command()
@click.argument("run")
@click.option(
    "--directions",
    type=click.Choice(["random", "pca"]),
    default="random",
    show_default=True,
    help="what stands for the autoencoder",
)
def control(run, directions):
    """Label and score untrained directions of the same activations, to stand beside the real ones in the report."""
    from core.training.controls import make_control

    made = make_control(open_run(run), directions)
    for name in ("index", "label", "score"):
        run_pending(made, name, CONTROL.get(name))
    click.echo(f"{made.path}\nNext: python main.py report {run} --control {made.name} --redo")


# ---------------------------------------------------------------- features


def features_of(run: str):
    from autointerp.features import Features

    return Features(open_run(run))


@cli.command()
@click.argument("run")
@click.argument("feature", type=int)
@click.option(
    "--stratum",
    type=click.Choice(["top", "quantiles", "random", "near-miss", "fails", "all"]),
    default="all",
    help="which snippets",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="all",
    help="from which documents",
)
@click.option("-n", "count", default=0, help="snippets of each stratum")
@json_flag
def show(run, feature, stratum, split, count, as_json):
    """One feature: labels, scores, density, histogram, promoted tokens, neighbours, snippets."""
    from figures.terminal import feature_text

    chosen = {
        "top": {"top": count or 20}, "quantiles": {"strata": count or 4}, "random": {"random": count or 10},
        "near-miss": {"near_miss": count or 10}, "fails": {"failing": count or 5}, "all": {"top": count or 5, "strata": count or 1, "near_miss": count or 2},
    }[stratum]  # fmt: skip
    features = features_of(run)
    card = features.card(feature, chosen, split)
    emit(card, "" if as_json else feature_text(card, features.histogram(feature)), as_json)


def emit_table(table, as_json: bool, limit: int) -> None:
    from autointerp.tables import plain
    from figures.terminal import table_text

    rows = plain(table)
    emit(rows, "" if as_json else table_text(rows, list(table.columns), limit), as_json)


@cli.command("list")
@click.argument("run")
@click.option("--cluster", type=int, help="only this group; -1 is noise")
@click.option("--min-score", type=float, help="only labels that score at least this")
@click.option("--set", "label_set", default="", help="labels of this set")
@click.option(
    "--sort",
    type=click.Choice(["feature", "score", "density", "label", "cluster"]),
    default="feature",
)
@click.option("--limit", default=40, show_default=True, help="rows in the terminal")
@json_flag
def list_features(run, cluster, min_score, label_set, sort, limit, as_json):
    """Features with label, score, density, group."""
    table = features_of(run).overview(label_set)
    if cluster is not None:
        table = table[table["cluster"] == cluster]
    if min_score is not None:
        table = table[table["score"] >= min_score]
    table = table.sort_values(sort, ascending=sort not in ("score", "density"), kind="stable")
    emit_table(table, as_json, limit)


@cli.command()
@click.argument("run")
@click.argument("words")
@click.option("--limit", default=20, show_default=True, help="rows in the terminal")
@json_flag
def find(run, words, limit, as_json):
    """Search labels, promoted tokens and notes."""
    emit_table(features_of(run).find(words), as_json, limit)


@cli.command()
@click.argument("run")
@click.argument("a", type=int)
@click.argument("b", type=int)
@json_flag
def pair(run, a, b, as_json):
    """Two features: cosine of their directions, and how often they fire on the same token, counted over every token."""
    from figures.terminal import pair_text

    found = features_of(run).pair(a, b)
    emit(found, "" if as_json else pair_text(found), as_json)


@cli.command()
@click.argument("run")
@click.argument("feature", type=int)
@click.argument("words")
def note(run, feature, words):
    """Write down what you think a feature is."""
    from autointerp.labels.notes import add_note

    features = features_of(run)
    features.check(feature)
    add_note(features.run.path, feature, words)
    click.echo(
        f"Noted. Score what you wrote: python main.py label {run} --set hand && python main.py score {run} --set hand"
    )


@cli.command()
@click.argument("run")
@click.argument("words")
@click.option(
    "--against", default="", help="another text; features that fire on it too are left out"
)
@click.option(
    "--chat", is_flag=True, help="each text is a user's turn in the subject's chat template"
)
@click.option("--limit", default=20, show_default=True, help="rows in the terminal")
@json_flag
def text(run, words, against, chat, limit, as_json):
    """Which features fire on a text, and not on another."""
    from core.clamps.live import LoadedModel
    from figures.terminal import reading_text

    features = features_of(run)
    live = LoadedModel(features.run)
    if chat:
        words, against = (
            live.subject.chat_text([("user", t)]) if t else "" for t in (words, against)
        )
    reading = live.read(words)
    other = {f for _, f, _ in live.read(against).firings} if against else set()
    labels = features.overview().set_index("feature")["label"]
    maxima = {f: features.stats(f).max for f in {f for _, f, _ in reading.firings} - other}
    firings = [
        {"position": p, "feature": f, "activation": a, "label": labels[f]}
        for p, f, a in reading.firings
        if f not in other
    ]
    emit(
        {"tokens": reading.tokens, "firings": firings},
        "" if as_json else reading_text(reading.tokens, firings, maxima, limit),
        as_json,
    )


# ---------------------------------------------------------------- demo

DEMO = {
    "train": TrainSettings(epochs=2.0), "evaluate": EvaluateSettings(tokens=100_000, loss_tokens=20_000),
    "cluster": ClusterSettings(seeds=1, subsamples=4, tokens=500_000), "relate": RelateSettings(tokens=40_000),
}  # fmt: skip
CONTROL = {
    "capture": CaptureSettings(tokens=800_000),
    "train": TrainSettings(epochs=2.0),
    "label": LabelSettings(sample=400),
}
CONTROL["score"] = ScoreSettings(kind="simulation,detection")
DEMO_PROMPTS, DEMO_DOSES = ["def main():\n    ", "class Reader:\n    "], [0.5, 1.0, 2.0, 4.0]


@cli.command()
def demo():
    """The whole job on the embedded subject, offline, then what to try next."""
    from core.run import Run

    run, control = (
        Run.create("demo", RunSettings()),
        Run.create("demo-control", RunSettings(weights="random")),
    )
    for name in STAGES:
        if name != "report":
            run_pending(run, name, DEMO.get(name))
    for name in ("capture", "train", "index", "label", "score"):
        run_pending(control, name, CONTROL.get(name))
    chosen = demo_clamps(run)
    run_pending(run, "report", ReportSettings(control=control.name))
    feature = chosen[0] if chosen else 0
    python = os.path.relpath(sys.executable) if sys.prefix.startswith(os.getcwd()) else "python"
    click.echo(f"""
Report: {run.path / "report" / "report.md"}

Three things to try next:
  {python} main.py show demo {feature}
  {python} main.py text demo "for name in names:" --against "import os"
  {python} main.py clamp demo --set {feature}=2x --prompt "def main():" --figure""")


def demo_clamps(run) -> list[int]:
    """Clamp three labelled features and keep the experiments, unless that has been done; returns the features."""
    from autointerp.clamps import DoseBudget, measured_doses, worth_clamping
    from autointerp.features import Features
    from core.clamps.clamp import Sampling
    from core.clamps.experiments import experiments, save_experiment
    from core.clamps.live import LoadedModel
    from core.progress import progress

    if done := experiments(run):
        return [record["features"][0] for record in done]
    features = Features(run)
    chosen = worth_clamping(features, 3)
    live = LoadedModel(run) if chosen else None
    for feature in progress(chosen, "clamp", unit="feat"):
        clamp, maximum = Clamp(feature, "set", 2.0, relative=True), features.stats(feature).max
        record = live.clamp([clamp], {feature: maximum}, Sampling(DEMO_PROMPTS, 30, 0.7, (0,)))
        record |= {
            "labels": {str(feature): features.label(feature)},
            **measured_doses(
                features, live, [clamp], DEMO_DOSES, DoseBudget(prompts=6, tokens=20, seeds=1)
            ),
        }
        with run.locked("clamp"):
            save_experiment(run, record)
    return chosen


# ---------------------------------------------------------------- entry


def complain(error: ToolError) -> int:
    if error.code == 0:
        print(error)
        return 0
    print(f"error: {error.message}\n{error.next_step}", file=sys.stderr)
    return error.code


def main() -> int:
    """The exit code: 0 done, 2 usage, 3 missing, stale or busy, 4 provider, 130 interrupted."""
    try:
        cli(standalone_mode=False)
    except ToolError as error:
        return complain(error)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "main.py"
        return complain(UsageError(error.format_message(), f"See: python {command} --help"))
    except (KeyboardInterrupt, click.Abort):
        print(
            "\nstopped; what was committed is intact, and the same command goes on from here",
            file=sys.stderr,
        )
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in (
            "core",
            "autointerp",
            "figures",
            "verbs",
        ):  # a fault of ours, not of the installation
            raise
        return complain(
            NotReady(
                f"This Python has no package {error.name!r}.",
                "Type: make setup && . .venv/bin/activate",
            )
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = (
            f"The disk is full: {error.filename or error.strerror}. What was committed is intact."
        )
        return complain(NotReady(full, "Free some space; then type the same command again."))
    return 0


if __name__ == "__main__":
    if (
        sys.platform == "linux"
        and "MALLOC_TOP_PAD_" not in os.environ
        and not {"-h", "--help"} & set(sys.argv)
    ):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    sys.exit(main())

"""Verbs that make something: new, run, status, control, and one for each stage."""

from __future__ import annotations

from typing import Any

import click

from autointerp.pipeline import STAGES, Stage
from core.settings import ParallelSettings, RunSettings
from figures.cli.output import emit, flags, given, json_flag, open_study, redo_flag, run_argument

SWEPT = ["sae", "fvu", "l0", "dead_share", "ce_increase", "recovered_zero", "recovered_mean"]


# ---------------------------------------------------------------- runs


@click.command()
@run_argument
@flags(RunSettings)
def new(run: str, **values: Any) -> None:
    """Make a run: which subject, which site, which corpus, and whether it loads a published SAE."""
    from autointerp.study import create

    first = ""
    if values["sae"]:
        from core.training.basis import Basis

        if Basis.parse(values["sae"]) is None:
            values, first = _describe_published(run, given(values))
    study = create(run, values)
    click.echo(f"{study.path}\nNext: {first}python main.py run {study.name}")


def _describe_published(run: str, typed: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Describe a published SAE: (the run's settings, the command that its context asks for)."""
    from core.training.published import complete_settings as take_origin

    values, published = take_origin(typed)
    subject = published.subject or "a subject that it does not name"
    rows = "" if published.bos else ", in rows without BOS"
    count = f"{published.n_features:,} features"
    places = " to ".join(values[name] for name in ("site", "site_out") if values.get(name))
    click.echo(f"{published.source}: {count} at {places} of {subject}{rows}")
    if not published.context:
        return values, ""
    return values, f"python main.py capture {run} --context {published.context} && "


@click.command("run")
@run_argument
@click.option(
    "--controls/--no-controls",
    default=True,
    help="also label and score random directions, and the untrained subject on at most 200,000 "
    "tokens, 200 labels each",
)
@flags(ParallelSettings)
def run_all(run: str, controls: bool, **where: Any) -> None:
    """Run every stage that is not done, with its default settings or those it was begun with."""
    report = open_study(run).run(controls, **given(where))
    click.echo(f"Look: python main.py explore {run}\nReport: {report}")


@click.command()
@click.argument("run", default="")
@json_flag
def status(run: str, as_json: bool) -> None:
    """Units of a run with their state and key figures; without a name, the runs that there are."""
    from figures.terminal import runs_text, units_text

    if not run:
        rows = list_runs()
        emit(rows, lambda: runs_text(rows), as_json)
        return
    units = list_units(open_study(run).run_directory)
    emit({"run": run, "stages": units}, lambda: units_text(units), as_json)


def list_units(run: Any) -> list[dict[str, Any]]:
    """stage, state, summary, seconds of every unit that `run` makes or that is there."""
    units = [unit for stage in STAGES.values() if stage.in_run for unit in stage.made]
    units += [unit for unit in run.committed() if unit not in units]
    rows = []
    for unit in units:
        manifest = run.find(unit)
        summary, seconds = (manifest.summary, manifest.seconds) if manifest else ({}, None)
        rows.append(
            {"stage": unit, "state": run.state(unit), "summary": summary, "seconds": seconds}
        )
    return rows


def list_runs() -> list[dict[str, Any]]:
    """run, subject, site, bytes, made (seconds since 1970), next (the command to type) of every
    run.
    """
    from core.run import Run, known_runs

    rows = []
    for name in known_runs():
        run = Run.open(name)
        files = [path.stat() for path in run.path.rglob("*") if path.is_file()]
        waiting = [s.name for s in STAGES.values() if s.in_run and run.state(s.made[0]) != "done"]
        verb = "run" if waiting else "explore"
        rows.append(
            {
                "run": name,
                "subject": run.settings.subject,
                "site": run.settings.site,
                "bytes": sum(stat.st_size for stat in files),
                "made": max((stat.st_mtime for stat in files), default=0.0),
                "next": f"python main.py {verb} {name}",
            }
        )
    return rows


@click.command()
@run_argument
@click.option(
    "--directions",
    type=click.Choice(["random", "pca", "neurons", "heads"]),
    default="random",
    show_default=True,
    help="what stands for the autoencoder",
)
def control(run: str, directions: str) -> None:
    """Label and score untrained directions, or the subject's own units, as a control."""
    from autointerp.whole import make_control_run

    made = make_control_run(open_study(run).run_directory, directions)
    click.echo(f"{made.path}\nNext: python main.py report {run}")


# ---------------------------------------------------------------- stages


def stage_command(stage: Stage) -> click.Command:
    """The verb of one stage: its flags are the fields of its settings."""
    about = (stage.settings.__doc__ or "").split(": ", 1)[-1]

    @click.command(stage.name, help=about, short_help=about)
    @run_argument
    @flags(stage.settings)
    @redo_flag
    def command(run: str, redo: bool, **values: Any) -> None:
        asked = given(values)
        if also := values.pop("also", ()):
            _capture_together([run, *also], asked, redo)
        else:
            open_study(run).make(stage.name, redo, **asked)

    return command


def _capture_together(names: list[str], asked: dict[str, Any], redo: bool) -> None:
    from autointerp.pipeline import capture_together, settings_as_made

    asked.pop("also", None)
    runs = [open_study(name).run_directory for name in dict.fromkeys(names)]
    capture_together(runs, settings_as_made(runs[0], "capture", asked), redo)


def stage_commands() -> list[click.Command]:
    """One command for each stage of the table, in order."""
    commands = [
        sweep_command if name == "sweep" else stage_command(s) for name, s in STAGES.items()
    ]
    also = click.option(
        "--also",
        multiple=True,
        metavar="RUN",
        help="capture this run's site in the same pass; may be given more than once",
    )
    also(commands[0])
    return commands


@click.command("sweep", help=(STAGES["sweep"].settings.__doc__ or "").split(": ", 1)[-1])
@run_argument
@flags(STAGES["sweep"].settings)
@redo_flag
@json_flag
def sweep_command(run: str, redo: bool, as_json: bool, **values: Any) -> None:
    from figures.terminal import table_text

    manifest = open_study(run).make("sweep", redo, **given(values))
    rows = [{name: row.get(name) for name in SWEPT} for row in manifest.summary["table"]]
    emit(rows, lambda: table_text(rows, SWEPT, len(rows)), as_json)

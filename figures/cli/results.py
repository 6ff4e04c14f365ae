"""Verb results: the plan of commands behind the project's own report, and the report itself."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from figures.cli.output import parse_doses

if TYPE_CHECKING:
    from core.clamps.experiments import Experiment


@click.command()
@click.option(
    "--plan",
    "folder",
    default="data/results",
    show_default=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="folder with plan.txt (commands) and hand.json (what was read by hand)",
)
@click.option(
    "--out",
    default="docs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="folder for report.md and its images",
)
@click.option(
    "--readme",
    default="docs/python-7m.md",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Markdown whose part between the result marks is replaced",
)
@click.pass_context
def results(context: click.Context, folder: Path, out: Path, readme: Path) -> None:
    """Run the commands of the plan that are not done, then write the report from what the runs
    hold.
    """
    from core.progress import say
    from figures.results.write import write_results

    cli = context.find_root().command
    for words in read_plan(folder / "plan.txt"):
        if not has_run(words):
            say(f"$ {shlex.join(words)}")
            with contextlib.redirect_stdout(
                io.StringIO()
            ):  # only this verb's own results are printed
                cli.main(words, standalone_mode=False)
    for path in write_results(folder, out, readme):
        click.echo(path)


def read_plan(path: Path) -> list[list[str]]:
    """The commands in a plan as lists of words; `\\n` in a word is a newline."""
    lines = path.read_text(encoding="utf-8").splitlines()
    typed = [line for line in lines if line.strip() and not line.startswith("#")]
    return [[word.replace("\\n", "\n") for word in shlex.split(line)] for line in typed]


def has_run(words: list[str]) -> bool:
    """Whether a note, a clamp experiment or a gallery is there; each run would make another one."""
    from autointerp.labels.notes import read_notes
    from core.clamps.experiments import experiments
    from core.run import Run

    verb, name = words[:2]
    if verb not in ("note", "clamp", "gallery"):
        return False
    run = Run.open(name)
    if verb == "note":
        notes = [(n["feature"], n["text"]) for n in read_notes(run.path)]
        return (int(words[2]), words[3]) in notes
    if verb == "gallery":
        return (run.path / "gallery").exists()
    return _asked(words) in [_kept(record) for record in experiments(run)]


def _asked(words: list[str]) -> tuple[list[str], list[str], list[float]]:
    """(clamps, prompts, doses) of a clamp command."""

    def values(flag: str) -> list[str]:
        return [value for key, value in zip(words, words[1:], strict=False) if key == flag]

    doses = [dose for text in values("--doses") for dose in parse_doses(text)]
    return [f"set {value}" for value in values("--set")], sorted(values("--prompt")), doses


def _kept(record: Experiment) -> tuple[list[str], list[str], list[float]]:
    doses = [row["dose"] for row in record.doses or []]
    return list(record.clamps), sorted(set(record.prompts)), doses

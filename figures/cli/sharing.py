"""Verbs about others: compare, explore, export, import."""

from __future__ import annotations

from pathlib import Path

import click

from figures.cli.output import emit, json_flag, open_study, redo_flag, run_argument


@click.command()
@run_argument
@click.argument("other")
@redo_flag
@json_flag
def compare(run: str, other: str, redo: bool, as_json: bool) -> None:
    """Match features and families of two runs on one site; measure each on the other's text."""
    from autointerp.clusters.match import match_families
    from core.training.compare import compare as compare_runs
    from figures.terminal import compare_text, families_text

    ours, theirs = open_study(run).run_directory, open_study(other).run_directory
    with ours.locked("compare"):
        summary = compare_runs(ours, theirs, redo).summary
    families = match_families(ours, theirs)

    def text() -> str:
        matched = families_text(ours.name, other, families) if families else ""
        return "\n".join(filter(None, [compare_text(ours.name, other, summary), matched]))

    emit(summary | {"families": families}, text, as_json)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN ...")
@click.option("--port", default=8765, show_default=True, help="on 127.0.0.1")
def explore(runs: tuple[str, ...], port: int) -> None:
    """Serve the explorer of one run or several, with the loaded subject, on this machine only."""
    from core.progress import say
    from figures.explorer.live import live_calls
    from figures.explorer.server import Server, serve

    studies = [open_study(run) for run in dict.fromkeys(runs)]
    known = [study.known for study in studies]
    serve(Server(known, [live_calls(study) for study in studies]), port, say)


WHAT = {
    "site": "the explorer",
    "neuronpedia": "upload batches and bulk files for Neuronpedia",
    "csv": "a table of all features",
    "jsonl": "a line for each feature",
    "saelens": "the autoencoder in the layout of SAELens 6",
}
NEXT = {
    "site": "Open index.html in a browser, or put the folder on any web server.",
    "neuronpedia": "Upload what lies in the folder; docs/formats.md says which file goes where.",
    "csv": "Read it with pandas.read_csv or a spreadsheet.",
    "jsonl": "Read it with pandas.read_json(..., lines=True).",
    "saelens": "Load it with SAE.load_from_disk of SAELens.",
}


@click.command()
@run_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["site", "neuronpedia", "csv", "jsonl", "saelens"]),
    help="site: the explorer as a folder; neuronpedia: upload batches and bulk files; "
    "saelens: the SAE in the layout of SAELens 6",
)
@click.option("--model", default="", help="neuronpedia: its name of the model [the subject's own]")
@click.option("--source", default="", help="neuronpedia: its name of the source [from the site]")
@click.option("--also", multiple=True, metavar="RUN", help="site: another run in the same page")
@click.option(
    "--small",
    is_flag=True,
    help="site: fewer snippets, and of features whose labels are unclear only the strongest",
)
def export(
    run: str, folder: Path, to: str, model: str, source: str, also: tuple[str, ...], small: bool
) -> None:
    """Write what is known of all features, or the SAE itself, to FOLDER, for others."""
    paths = open_study(run).export(folder, to, model=model, source=source, also=also, small=small)
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else paths
    size = sum(path.stat().st_size for path in files) / 1e6
    shown = paths[0] if len(paths) == 1 else folder
    count = f"{len(files)} file{'s' * (len(files) != 1)}"
    click.echo(f"{shown}: {WHAT[to]}, {count}, {size:.1f} MB. {NEXT[to]}")


@click.command("import")
@run_argument
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--from",
    "layout",
    required=True,
    type=click.Choice(["neuronpedia"]),
    help="the layout of FOLDER",
)
@click.option(
    "--labels",
    "name",
    default="neuronpedia",
    show_default=True,
    help="name of the label set that they become",
)
def import_labels(run: str, folder: Path, layout: str, name: str) -> None:
    """Bring in other people's explanations as a label set, to be scored here."""
    from autointerp.exchange.neuronpedia_import import import_neuronpedia

    opened = open_study(run).run_directory
    with opened.locked("import"):
        summary = import_neuronpedia(opened, folder, name).summary
    without = summary["failures"].get("none", 0)
    click.echo(f"label/{name}: {summary['labels']:,} labels, {without:,} features without one")
    click.echo(f"Next: python main.py score {run} --labels {name}")

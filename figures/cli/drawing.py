"""Verb map: draw the map of all features to a file, for a readme or for print."""

from __future__ import annotations

from pathlib import Path

import click

from core.errors import UsageError
from figures.cli.output import open_study, run_argument

ENDINGS = (".png", ".svg", ".pdf")
COLOURS = ("family", "cluster", "kind", "label", "score", "coverage", "density")


@click.command("map")
@run_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--colour",
    type=click.Choice(COLOURS),
    default="family",
    show_default=True,
    help="what the points' colours mean; kind is that of the family, label the kind of label",
)
@click.option("--print", "large", is_flag=True, help="A3, with every name; else for a readme")
@click.option("--dark", is_flag=True, help="light on dark")
@click.option("--no-contours", is_flag=True, help="leave out the contours of density")
def draw_map(run: str, file: Path, colour: str, large: bool, dark: bool, no_contours: bool) -> None:
    """Draw the map of all features with their names to FILE: .png, .svg or .pdf."""
    from figures.style import DOTS, PRINT_DOTS, save

    if file.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{file.name} does not say which kind of picture it is to be.",
            f"End it with one of: {', '.join(ENDINGS)}.",
        )
    figure = open_study(run).map(dark, colour, large, not no_contours)
    save(figure, file, PRINT_DOTS if large else DOTS)
    click.echo(str(file))

"""What every verb shares: opening a run, flags made from settings, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

import click

from core.errors import ToolError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from autointerp.study import Study

json_flag = click.option(
    "--json", "as_json", is_flag=True, help="print one JSON document and nothing else"
)
redo_flag = click.option(
    "--redo", is_flag=True, help="recompute this unit; everything that depends on it becomes stale"
)
run_argument = click.argument("run")


def open_study(name: str) -> Study:
    """The run that a verb is about. Raises NotReady when there is none of that name."""
    from autointerp.study import open

    return open(name)


def flags(settings: type) -> Callable[[Any], Any]:
    """A decorator with one option for each field of a settings dataclass, its own fields first."""
    own_first = sorted(fields(settings), key=lambda f: f.name not in settings.__annotations__)

    def wrap(command: Any) -> Any:
        for field in reversed(own_first):
            command = _option(field)(command)
        return command

    return wrap


def _option(field: Field) -> Callable[[Any], Any]:
    choices = field.metadata["choices"]
    kind = click.Choice(choices) if choices else type(field.default)
    named: dict[str, Any] = {"type": kind, "show_default": field.default != ""}
    if isinstance(field.default, bool):
        named = {"is_flag": True}
    default = field.default
    if field.metadata.get("several"):
        named = {"multiple": True, "callback": lambda _, __, texts: " ".join(texts)}
        default = ()
    flag = f"--{field.name.replace('_', '-')}"
    if field.default is True:
        flag += f"/--no-{field.name.replace('_', '-')}"
    return click.option(flag, field.name, default=default, help=field.metadata["help"], **named)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were typed for the running command, without those that are defaults."""
    source = click.get_current_context().get_parameter_source
    return {n: v for n, v in values.items() if source(n) is not click.core.ParameterSource.DEFAULT}


def emit(value: Any, text: str | Callable[[], str], as_json: bool) -> None:
    """The result on standard output, as JSON or as text; `text` is made only when it is printed."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(text() if callable(text) else text)


def emit_table(table: pd.DataFrame, as_json: bool, limit: int, nothing: ToolError) -> None:
    """A table on standard output: every row as JSON, or `limit` rows as text.

    Raises `nothing` where it has no rows, behind `[]` as JSON.
    """
    from autointerp.tables import plain
    from figures.terminal import table_text
    from figures.text import short_label

    rows = plain(table)
    if not rows:
        if as_json:
            emit(rows, "", as_json)
        raise nothing

    def text() -> str:
        shown = [
            r | {"label": short_label(r["label"])} if "label" in r else r for r in rows[:limit]
        ]
        return table_text([*shown, *rows[limit:]], list(table.columns), limit)

    emit(rows, text, as_json)


def parse_doses(text: str) -> list[float]:
    """`0.5,1,2` as ascending numbers. Raises UsageError for anything else."""
    try:
        return sorted({float(part) for part in text.split(",")}) if text else []
    except ValueError:
        raise UsageError(
            f"--doses {text!r} is not a list of numbers.",
            "Give multiples of the maximum, such as 0.5,1,2,4,8.",
        ) from None


def names_in(text: str) -> Sequence[str]:
    """`a, b` as ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]

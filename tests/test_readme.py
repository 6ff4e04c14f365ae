"""Every command in the README is one that the program understands, and its Python runs."""

import ast
import pathlib
import re
import shlex

import click
import pytest

import autointerp
import main
from autointerp.pipeline import IN_RUN

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
USING = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
SHELL = [
    line.split("  #")[0].strip()
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
    if line.strip()
]
INLINE = re.findall(r"`((?:python main\.py|make|conda) [^`]+)`", TEXT)
IN_USING = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", USING, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
COMMANDS = [c for c in SHELL + INLINE + IN_USING if c.startswith("python main.py")]
TARGETS = sorted({c.split()[1] for c in SHELL + INLINE if c.startswith("make ")})


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    """The verb exists and its own parser takes the flags and arguments."""
    verb, *words = shlex.split(command.removeprefix("python main.py "))
    main.cli.commands[verb].make_context(verb, words)


def test_a_command_with_a_wrong_flag_would_fail():
    with pytest.raises(click.UsageError):
        main.cli.commands["show"].make_context("show", ["demo", "12", "--no-such-flag"])


def test_make_targets_exist():
    targets = set(
        re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"setup", "demo", "test"} <= set(TARGETS) <= targets


def test_every_verb_of_a_stage_is_in_the_table():
    table = USING[USING.index("## What each stage writes") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [s.name for s in IN_RUN]


def test_pictures_and_documents_exist():
    for name in re.findall(r'(?:src|srcset)="([^"]+)"', TEXT) + re.findall(
        r"`((?:docs|data)/[\w/]+\.md)`", TEXT
    ):
        assert (ROOT / name).exists(), name


def test_the_python_runs_on_a_small_job(job_copy):
    [code] = [block for kind, block in BLOCKS if kind == "python"]
    code = code.replace('"demo"', repr(str(job_copy)))
    lines = code.strip().splitlines()
    assert len(lines) <= 12
    shown = {"ai": autointerp}
    for line in lines[1:]:
        statement = ast.parse(line).body
        if statement and isinstance(statement[0], ast.Expr):
            assert repr(eval(line, shown)) != "None", line
        else:
            exec(line, shown)


def test_requirements_and_environment_cannot_disagree():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in lines)
    assert "-r requirements.txt" in (ROOT / "environment.yml").read_text(encoding="utf-8")

"""The command line: verbs in five groups, errors in two lines, exit codes.

Standard output carries results only; progress and news go to standard error. What a verb needs is
imported when it runs, so that `--help` does not load torch.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from core.errors import INTERRUPTED, NotReady, ToolError, UsageError
from figures.cli import clamps, demo, drawing, reading, results, sharing, stages

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
GROUPS: dict[str, list[str]] = {
    "Start": ["demo", "new", "run", "status"],
    "Stages, in order": [
        "capture", "train", "evaluate", "index", "effects", "cluster", "label", "score", "title",
        "relate", "report", "sweep", "control",
    ],
    "Look": ["show", "list", "find", "text", "why", "pair", "map", "explore", "compare"],
    "Change": ["clamp", "replay", "gallery", "note"],
    "Share": ["export", "import", "results", "completion"],
}  # fmt: skip
RENAMED = {
    "--rate": "--lr",
    "--l1": "--penalty",
    "--l0": "--target-l0",
    "--batch": "--batch-size",
    "--tokens": "--max-tokens",
    "--set": "--labels",
    "--replay": "the verb `replay RUN N`",
    "--gallery": "the verb `gallery RUN N`",
}
GONE = (
    "--shard-tokens", "--checkpoint-every", "--dead-after", "--top", "--dimensions", "--neighbours",
    "--spread", "--min-size", "--words", "--promoted", "--min-share", "--strata", "--random",
    "--windows",
)  # fmt: skip
SHELLS = ("bash", "zsh", "fish")


class Grouped(click.Group):
    """A group whose help lists its verbs under headings, in the order of the work."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in GROUPS.items():
            rows = [(name, self.commands[name].get_short_help_str(74)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for names in GROUPS.values() for name in names]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("brain-surgery")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0.2.0 (not installed)"


@click.group(cls=Grouped, context_settings=HELP)
@click.version_option(_version(), prog_name="brain-surgery")
def cli() -> None:
    """Find out what the features of a language model mean, and test it by clamping them."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(brain-surgery completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(
            f"There is no completion for {shell}.", f"Use one of: {', '.join(SHELLS)}."
        )
    click.echo(kind(cli, {}, "brain-surgery", "_BRAIN_SURGERY_COMPLETE").source())


for _command in (
    *stages.stage_commands(), stages.new, stages.run_all, stages.status, stages.control,
    reading.show, reading.list_features, reading.find, reading.pair, reading.text,
    reading.why, reading.note, drawing.draw_map,
    clamps.clamp, clamps.replay, clamps.gallery,
    sharing.compare, sharing.explore, sharing.export, sharing.import_labels,
    demo.demo, results.results, completion,
):  # fmt: skip
    cli.add_command(_command)


# ---------------------------------------------------------------- errors


def main() -> int:
    """The exit code: 0 done, 2 usage, 3 missing, stale or busy, 4 provider, 130 interrupted."""
    try:
        cli(standalone_mode=False)
    except ToolError as error:
        return complain(error)
    except click.UsageError as error:
        return complain(explain_usage(error))
    except (KeyboardInterrupt, click.Abort):
        print(
            "\nstopped; what was committed is intact, and the same command continues from here",
            file=sys.stderr,
        )
        return INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("core", "autointerp", "figures"):  # a fault of ours, not of the installation
            raise
        how = "Type: make setup && . .venv/bin/activate"
        return complain(NotReady(f"This Python has no package {error.name!r}.", how))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or error.strerror
        full = f"The disk is full: {where}. What was committed is intact."
        return complain(NotReady(full, "Free some space; then type the same command again."))
    return 0


def complain(error: ToolError) -> int:
    """Print an error in two lines; commands in it are named as the program was called."""
    called = "brain-surgery" if os.path.basename(sys.argv[0]) == "brain-surgery" else None
    lines = [error.message, error.next_step]
    if called:
        lines = [line.replace("python main.py", called) for line in lines]
    if error.code == 0:
        print(*lines, sep="\n")
    else:
        print(f"error: {lines[0]}\n{lines[1]}", file=sys.stderr)
    return error.code


def explain_usage(error: click.UsageError) -> UsageError:
    """A wrong command as an error for a person; a flag of version 0.1 names what replaces it."""
    path = error.ctx.command_path if error.ctx else "main.py"
    program = path if path.startswith("brain-surgery") else f"python {path}"
    see = f"See: {program} --help"
    if isinstance(error, click.NoSuchOption):
        old = error.option_name
        if old in RENAMED and _has(error.ctx, RENAMED[old]):
            return UsageError(f"{old} is now called {RENAMED[old]}.", see)
        if old in GONE:
            return UsageError(f"{old} is no longer a flag: its usual value always holds.", see)
    return UsageError(error.format_message(), see)


def _has(context: Any, new: str) -> bool:
    """Whether the command takes the new flag, or the old one became a verb."""
    if not new.startswith("--") or context is None:
        return True
    return any(new in parameter.opts for parameter in context.command.params)

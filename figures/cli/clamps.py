"""Verbs that change what the subject writes: clamp, replay, gallery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from core.errors import NotReady, UsageError
from core.records import Clamp
from figures.cli.output import emit, json_flag, open_study, parse_doses, run_argument

MODES = {
    "set": "set feature F to V (3.5), or to a multiple of its maximum (5x)",
    "max": "raise F to at least V",
    "add": "add V to F",
    "scale": "multiply F by V",
    "ablate": "set F to 0",
}


def clamp_flags(command: Any) -> Any:
    """A decorator with one flag for each mode of a clamp."""
    for mode, about in reversed(MODES.items()):
        metavar = "F" if mode == "ablate" else "F=V"
        command = click.option(f"--{mode}", f"{mode}_", multiple=True, metavar=metavar, help=about)(
            command
        )
    return command


@click.command()
@run_argument
@clamp_flags
@click.option("--prompt", multiple=True, help="text to continue; may be given more than once")
@click.option("--tokens", default=40, show_default=True, help="tokens to generate")
@click.option("--samples", default=2, show_default=True, help="continuations of each prompt")
@click.option("--temperature", default=0.7, show_default=True)
@click.option(
    "--positions",
    type=click.Choice(["all", "prompt", "generated"]),
    default="all",
    show_default=True,
    help="where the clamp holds",
)
@click.option("--at", default="", metavar="REGEX", help="only on tokens whose text matches")
@click.option("--chat", is_flag=True, help="each prompt is a user's turn in the chat template")
@click.option(
    "--logprobs",
    default=0,
    metavar="N",
    help="also the N likeliest next tokens at the prompt's end, with and without",
)
@click.option(
    "--doses",
    default="",
    help="also measure these multiples of the maximum, such as 0.5,1,2,4; "
    "with several clamps, of their values",
)
@click.option("--figure", is_flag=True, help="draw the dose-response curve")
@json_flag
def clamp(
    run: str,
    prompt: tuple[str, ...],
    chat: bool,
    doses: str,
    figure: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Continue a prompt with and without clamped features, from the same random seeds.

    A feature of another run of the same subject, at another site, is written RUN:F.
    """  # fmt: skip
    from autointerp.clamps import DOSES
    from figures.terminal import clamp_text

    own, also = parse_clamps({mode: values.pop(f"{mode}_") for mode in MODES})
    measured = parse_doses(doses) or (DOSES if figure else [])
    check_clamps(own, also, prompt, measured)
    study = open_study(run)
    prompts = [study.as_chat(p, answer=True) for p in prompt] if chat else list(prompt)
    made = study.clamp(own, prompts, also=also, doses=measured, **values)
    record, kept = made.experiment, study.path / made.saved
    saved = [str(kept)]
    if figure:
        from figures.plots.doses import save_dose_figure

        saved.append(str(kept.with_name(save_dose_figure(kept, record))))
    ending = [f"Kept: {' '.join(saved)}"]
    if not measured:
        ending.append(
            "What it does against a random direction: the same command with --doses 1,2,4"
        )
    ending.append(f"Look: python main.py explore {run}")
    emit(record.to_dict(), lambda: "\n".join([clamp_text(record), *ending]), as_json)


def parse_clamps(
    modes: dict[str, tuple[str, ...]],
) -> tuple[list[Clamp], dict[str, list[Clamp]]]:
    """(clamps of the run itself, {other run: its clamps}) from the flags of each mode."""
    own: list[Clamp] = []
    also: dict[str, list[Clamp]] = {}
    for mode, texts in modes.items():
        for text in texts:
            other, colon, rest = text.rpartition(":")
            parsed = Clamp.parse(mode, rest)
            (also.setdefault(other, []) if colon else own).append(parsed)
    return own, also


def check_clamps(own: list[Clamp], also: dict, prompt: tuple[str, ...], doses: list[float]) -> None:
    """Raises UsageError for a command that lacks a clamp or a prompt, or measures doses at two
    sites.
    """
    if not own:
        raise UsageError(
            "There is nothing to clamp.",
            "Give one or more of --set, --max, --add, --scale, --ablate, such as --set 1234=5x.",
        )
    if not prompt:
        raise UsageError("There is no prompt.", 'Give one: --prompt "def main():"')
    if doses and also:
        raise UsageError(
            "Doses are measured of clamps at one site.",
            "Leave those of other runs out, or leave --doses and --figure out.",
        )


@click.command()
@run_argument
@click.argument("number", type=int)
@json_flag
def replay(run: str, number: int, as_json: bool) -> None:
    """Run kept clamp experiment NUMBER again and say whether every text is the same."""
    from figures.terminal import clamp_text

    kept, again = open_study(run).replay(number)
    texts = len(kept.baseline) + len(kept.clamped)
    pairs = zip(kept.baseline + kept.clamped, again.baseline + again.clamped, strict=True)
    same = sum(a == b for a, b in pairs)
    said = f"{same} of {texts} texts are the same as in experiment {number}."
    again = replace(again, replay={"number": number, "same": same, "texts": texts})
    emit(again.to_dict(), lambda: f"{clamp_text(again)}\n{said}", as_json)


@click.command()
@run_argument
@click.argument("count", type=int, default=3)
@json_flag
def gallery(run: str, count: int, as_json: bool) -> None:
    """Find COUNT features whose clamp works, and write a page and a figure of them."""
    from autointerp.gallery import MOST_TRIED
    from core.progress import say
    from figures.report.gallery import write_gallery

    study = open_study(run)
    about = study.run_directory.settings
    subject = f"{Path(about.subject).name}, {about.site}"
    folder, records = study.path / "gallery", []
    minutes = max(1.0, study.estimate_working() / 60)
    say(
        f"about {minutes:.0f} min for each feature that is tried; {count} are wanted and at most "
        f"{MOST_TRIED * count} tried: up to {MOST_TRIED * count * minutes:.0f} min. Each is "
        "written as it is found, so Ctrl-C keeps those."
    )
    for made in study.find_working(count):
        records.append(made.experiment)
        write_gallery(records, folder, subject)
        say(f"{made.experiment.clamps[0]}: {folder / 'gallery.html'} has {len(records)} of {count}")
    if not records:
        raise NotReady(
            "No well-labelled feature's clamp beat its controls.",
            f"Try one: python main.py clamp {run} --set F=2x --doses 1,2,4 --prompt ...",
        )
    paths = [str(path) for path in sorted(folder.iterdir())]
    shown = {"features": [record.features[0] for record in records], "files": paths}
    emit(shown, "\n".join(paths), as_json)

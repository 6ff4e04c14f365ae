"""The verbs beside the stages: clamp, compare, explore, export, import, results. `main` adds them to its own."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path

import click

from core.errors import NotReady, UsageError
from core.records import Clamp

MODES = {
    "set": "set feature F to V (3.5), or to a multiple of its maximum (5x)", "max": "raise F to at least V",
    "add": "add V to F", "scale": "multiply F by V", "ablate": "set F to 0",
}  # fmt: skip


def add_to(cli: click.Group) -> None:
    for command in (clamp, compare, explore, export, import_, results):
        cli.add_command(command)


def features_of(name: str):
    from autointerp.features import Features
    from core.run import Run

    return Features(Run.open(name))


def emit(value, text: str, as_json: bool) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False) if as_json else text)


# ---------------------------------------------------------------- clamp


def clamp_options(command):
    for mode, text in reversed(MODES.items()):
        command = click.option(
            f"--{mode}",
            f"{mode}_",
            multiple=True,
            metavar="F" if mode == "ablate" else "F=V",
            help=text,
        )(command)
    return command


@click.command()
@click.argument("run")
@clamp_options
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
@click.option(
    "--chat",
    is_flag=True,
    help="each prompt is a user's turn in the subject's chat template, and the subject answers",
)
@click.option(
    "--doses",
    default="",
    help="also measure these multiples of the maximum, such as 0.5,1,2,4; with several clamps, of their values",
)
@click.option("--figure", is_flag=True, help="draw the dose-response curve")
@click.option(
    "--replay", type=int, default=0, metavar="N", help="run kept experiment N again, exactly"
)
@click.option(
    "--gallery",
    type=int,
    default=0,
    metavar="N",
    help="find N well-labelled features whose clamp works, and write a page and a figure of them",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON document and nothing else")
def clamp(
    run,
    prompt,
    tokens,
    samples,
    temperature,
    positions,
    at,
    chat,
    doses,
    figure,
    replay,
    gallery,
    as_json,
    **modes,
):
    """Continue a prompt with features clamped, beside the same luck without.

    A feature of another run of the same subject, at another site, is written RUN:F.
    """
    features = features_of(run)
    if replay:
        return replayed(features, replay, as_json)
    if gallery:
        return hung(features, gallery, as_json)
    own, also = parsed(modes)
    if not own:
        raise UsageError(
            "There is nothing to clamp.",
            "Give one or more of --set, --max, --add, --scale, --ablate, such as --set 1234=5x.",
        )
    if not prompt:
        raise UsageError("There is no prompt.", 'Give one: --prompt "def main():"')
    if (doses or figure) and also:
        raise UsageError(
            "Doses are measured of clamps at one site.",
            "Leave those of other runs out, or leave --doses and --figure out.",
        )
    return clamped(features, own, also, {"prompts": list(prompt), "chat": chat, "tokens": tokens, "temperature": temperature, "seeds": tuple(range(samples))},
                   {"positions": positions, "at": at}, (doses, figure, as_json))  # fmt: skip


def parsed(modes: dict[str, tuple[str, ...]]) -> tuple[list[Clamp], dict[str, list[Clamp]]]:
    """(clamps of the run itself, {other run: its clamps}) from the flags of each mode."""
    own, also = [], {}
    for mode, values in modes.items():
        for value in values:
            other, colon, rest = value.rpartition(":")
            one = Clamp.parse(mode.rstrip("_"), rest)
            (also.setdefault(other, []) if colon else own).append(one)
    return own, also


def clamped(
    features,
    own: list[Clamp],
    also: dict[str, list[Clamp]],
    written: dict,
    places: dict,
    then: tuple,
) -> None:
    """Make, keep and print one experiment; `then` is (--doses, --figure, --json)."""
    from core.clamps.clamp import Sampling
    from core.clamps.experiments import save_experiment
    from core.clamps.live import LoadedModel, Positions
    from figures.terminal import clamp_text

    doses, figure, as_json = then
    maxima = lambda known, clamps: {c.feature: known.stats(c.feature).max for c in clamps}
    live = LoadedModel(features.run)
    if written.pop("chat"):
        written["prompts"] = [
            live.subject.chat_text([("user", prompt)], answer=True) for prompt in written["prompts"]
        ]
    others = tuple(
        of_other_run(name, features.run, live, clamps, maxima) for name, clamps in also.items()
    )
    record = live.clamp(
        own, maxima(features, own), Sampling(**written), Positions(**places), others
    )
    record["labels"] = {str(c.feature): features.label(c.feature) for c in own}
    if doses or figure:
        from autointerp.clamps import DOSES, measured_doses

        record |= measured_doses(
            features, live, own, parse_doses(doses) or DOSES, places=Positions(**places)
        )
    with features.run.locked("clamp"):
        saved = save_experiment(features.run, record)
    if figure:
        from figures.plots.doses import save_dose_figure

        saved += ", " + save_dose_figure(features.run.path / saved, record)
    emit(record, "" if as_json else f"{clamp_text(record)}\n({saved})", as_json)


def of_other_run(name: str, run, live, clamps: list[Clamp], maxima):
    """(Live of run `name` on the same subject, its clamps, their maxima)."""
    from core.clamps.live import LoadedModel

    other = features_of(name)
    same = lambda r: (r.settings.subject, r.settings.revision, r.settings.weights, r.settings.seed)
    if same(other.run) != same(run):
        raise UsageError(
            f"Run {name} is about another subject than {run.name}.",
            "Clamp features of runs on one subject together.",
        )
    return LoadedModel(other.run, live.subject), clamps, maxima(other, clamps)


def parse_doses(text: str) -> list[float]:
    try:
        return sorted({float(part) for part in text.split(",")}) if text else []
    except ValueError:
        raise UsageError(
            f"--doses {text!r} is not a list of numbers.",
            "Give multiples of the maximum, such as 0.5,1,2,4,8.",
        ) from None


def replayed(features, number: int, as_json: bool) -> None:
    """Run a kept experiment again and say whether every text is the same."""
    from core.clamps.experiments import experiment
    from core.clamps.live import LoadedModel
    from figures.terminal import clamp_text

    kept = experiment(features.run, number)
    again = LoadedModel(features.run).replay(kept)
    same = sum(
        a == b
        for a, b in zip(
            kept["baseline"] + kept["clamped"], again["baseline"] + again["clamped"], strict=True
        )
    )
    again |= {
        "labels": kept["labels"],
        "replay": {"number": number, "same": same, "texts": 2 * len(kept["clamped"])},
    }
    emit(
        again,
        ""
        if as_json
        else f"{clamp_text(again)}\n{same} of {2 * len(kept['clamped'])} texts are the same as in experiment {number}.",
        as_json,
    )


def hung(features, count: int, as_json: bool) -> None:
    """Find clamps that work, keep them, and write the gallery."""
    from figures.report.gallery import write_gallery

    found = find_working(features, count)
    if not found:
        raise NotReady(
            "No well-labelled feature's clamp beat its controls.",
            f"Look at doses yourself: python main.py clamp {features.run.name} --set F=2x --doses 1,2,4 --prompt ...",
        )
    folder = write_gallery(
        found,
        features.run.path / "gallery",
        f"{Path(features.run.settings.subject).name}, {features.run.settings.site}",
    )
    paths = [str(path) for path in sorted(folder.iterdir())]
    emit({"features": [r["features"][0] for r in found], "files": paths}, "\n".join(paths), as_json)


def find_working(features, count: int) -> list[dict]:
    """Kept experiments of the first `count` features worth clamping whose clamp works, at their useful dose, on the prompts that the
    dose was not sought on. At most 6 features are tried for each that is wanted."""
    from autointerp.clamps import (
        DOSES,
        DoseBudget,
        found_again,
        held_out_prompts,
        measured_doses,
        works,
        worth_clamping,
    )
    from core.clamps.clamp import Sampling
    from core.clamps.experiments import save_experiment
    from core.clamps.live import LoadedModel
    from core.progress import progress

    live, found, effort = LoadedModel(features.run), [], DoseBudget()
    for feature in progress(worth_clamping(features, 6 * count), "gallery", unit="feat"):
        measured = measured_doses(
            features, live, [Clamp(feature, "set", 1.0, relative=True)], DOSES[1:], effort
        )
        by = "useful" if works(measured) else "useful_found" if found_again(measured) else None
        if by is None:
            continue
        chosen = Clamp(feature, "set", measured[by]["dose"], relative=True)
        writing = Sampling(held_out_prompts(features, effort)[1::2], effort.tokens, 0.7, (0,))
        record = live.clamp([chosen], {feature: features.stats(feature).max}, writing) | measured
        record |= {"labels": {str(feature): features.label(feature)}, "shown_by": by}
        record["promoted"] = features.effects.loc[feature]["promoted"][:10].tolist()
        with features.run.locked("clamp"):
            save_experiment(features.run, record)
        found.append(record)
        if len(found) == count:
            break
    return found


# ---------------------------------------------------------------- compare


@click.command()
@click.argument("run")
@click.argument("other")
@click.option("--redo", is_flag=True, help="compare them anew")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document and nothing else")
def compare(run, other, redo, as_json):
    """Did the autoencoder of another run on the same site find the same features? Best matches both ways, and each on the other's text."""
    from core.run import Run
    from core.training.compare import compare as compared
    from figures.terminal import compare_text

    own = Run.open(run)
    with own.locked("compare"):
        summary = compared(own, Run.open(other), redo).summary
    emit(summary, "" if as_json else compare_text(own.name, other, summary), as_json)


# ---------------------------------------------------------------- explore, export, import


@click.command()
@click.argument("run")
@click.option("--port", default=8765, show_default=True, help="on 127.0.0.1")
def explore(run, port):
    """Serve the explorer with the subject behind it: your text, clamps, notes. On this machine only."""
    from dataclasses import asdict

    from core.clamps.clamp import Sampling
    from core.clamps.live import LoadedModel, Positions
    from core.progress import say
    from figures.explorer.server import LiveCalls, Server, serve

    features = features_of(run)
    live = LoadedModel(features.run)

    def clamp_once(clamps, maxima, prompt, tokens, samples, temperature, positions, seconds):
        return live.clamp(
            clamps,
            maxima,
            Sampling([prompt], tokens, temperature, tuple(range(samples))),
            Positions(positions),
            seconds=seconds,
        )

    serve(Server(features, LiveCalls(lambda text: asdict(live.read(text)), clamp_once)), port, say)


@click.command()
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["site", "neuronpedia", "csv", "jsonl", "saelens"]),
    help="site: the explorer as a folder; neuronpedia: upload batches and bulk files; saelens: the SAE in the layout of SAELens 6",
)
@click.option(
    "--model", default="", help="neuronpedia: its name of the model; the subject's own when empty"
)
@click.option(
    "--source",
    default="",
    help="neuronpedia: its name of the source, such as 6-my-res-16k; made from the site when empty",
)
def export(run, folder, to, model, source):
    """Write what is known of all features, or the SAE itself, to FOLDER, for others."""
    if to == "saelens":
        from core.run import Run
        from core.training.published import export_saelens

        made = export_saelens(Run.open(run), folder)
        click.echo(
            f"{made['folder']}: {made['architecture']}, {made['features']:,} features on {made['width']} dimensions at {made['site']}"
        )
        return
    features = features_of(run)
    if to == "site":
        from figures.explorer.site import export_site

        made = export_site(features, folder)
        click.echo(
            f"{folder / 'index.html'}\n{made['files']} files, {made['bytes'] / 1e6:.1f} MB; {made['first_paint_bytes'] / 1e6:.2f} MB before the first paint"
        )
        return
    from autointerp.exchange.neuronpedia import export_neuronpedia
    from autointerp.exchange.tables import export_table

    paths = (
        export_neuronpedia(features, folder, model, source)
        if to == "neuronpedia"
        else export_table(features, folder, to)
    )
    click.echo("\n".join(str(path) for path in paths))


@click.command("import")
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--from",
    "from_",
    required=True,
    type=click.Choice(["neuronpedia"]),
    help="the layout of FOLDER",
)
@click.option(
    "--set",
    "name",
    default="neuronpedia",
    show_default=True,
    help="name of the label set that they become",
)
def import_(run, folder, from_, name):
    """Bring other people's explanations of the same features in as a label set, so that our scorers can score them."""
    from autointerp.exchange.neuronpedia_import import import_neuronpedia
    from core.run import Run

    opened = Run.open(run)
    with opened.locked("import"):
        manifest = import_neuronpedia(opened, folder, name)
    s = manifest.summary
    click.echo(
        f"label/{name}: {s['labels']:,} labels, {s['failures'].get('none', 0):,} live features without one\nNext: python main.py score {run} --set {name}"
    )


# ---------------------------------------------------------------- results


@click.command()
@click.option("--plan", "folder", default="data/results", show_default=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="folder with plan.txt (commands) and hand.json (what was read by hand)")  # fmt: skip
@click.option(
    "--out",
    default="docs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="folder for report.md and its images",
)
@click.option(
    "--readme",
    default="README.md",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Markdown whose part between the result marks is replaced",
)
@click.pass_context
def results(context, folder, out, readme):
    """Run every command of the plan that is not done, then write the report and the answers in the readme from what the runs hold."""
    from core.progress import say
    from figures.results.write import write_results

    cli = context.find_root().command
    for words in planned(folder / "plan.txt"):
        if not already(words):
            say(f"$ {shlex.join(words)}")
            with contextlib.redirect_stdout(
                io.StringIO()
            ):  # standard output is for what this verb itself has to say
                cli.main(words, standalone_mode=False)
    for path in write_results(folder, out, readme):
        click.echo(path)


def planned(path: Path) -> list[list[str]]:
    """The commands in a plan as lists of words; `\\n` in a word is a newline."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        [word.replace("\\n", "\n") for word in shlex.split(line)]
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def already(words: list[str]) -> bool:
    """Whether a note, a clamp experiment or a gallery is there: the commands that would otherwise make another one each time."""
    from autointerp.labels.notes import read_notes
    from core.clamps.experiments import experiments
    from core.run import Run

    verb, name = words[:2]
    if verb == "note":
        return {"feature": int(words[2]), "text": words[3]} in [
            {k: n[k] for k in ("feature", "text")} for n in read_notes(Run.open(name).path)
        ]
    if verb != "clamp":
        return False
    run, of = (
        Run.open(name),
        lambda flag: [value for key, value in zip(words, words[1:], strict=False) if key == flag],
    )
    if of("--gallery"):
        return (run.path / "gallery").exists()
    wanted = (
        [f"set {value}" for value in of("--set")],
        sorted(of("--prompt")),
        [parse_doses(text) for text in of("--doses")],
    )
    told = lambda record: (
        record["clamps"],
        sorted(set(record["prompts"])),
        [[row["dose"] for row in record["doses"]]] if "doses" in record else [],
    )
    return any(told(record) == wanted for record in experiments(run))

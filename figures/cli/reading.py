"""Verbs that look: show, list, find, pair, text, why, note."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import NothingFound, UsageError
from figures.cli.output import emit, emit_table, json_flag, open_study, run_argument

if TYPE_CHECKING:
    from autointerp.features import Features

WIDER = "Leave out one of --cluster, --family, --min-score or --labels."
STRATA = ["top", "quantiles", "random", "near-miss", "fails", "all"]


def counts_of(stratum: str, count: int) -> dict[str, int]:
    """How many snippets of each stratum `show` prints; 0 stands for the usual number."""
    if stratum == "all":
        return {"top": count or 5, "strata": count or 1, "near_miss": count or 2}
    usual = {
        "top": ("top", 20),
        "quantiles": ("strata", 4),
        "random": ("random", 10),
        "near-miss": ("near_miss", 10),
        "fails": ("failing", 5),
    }
    name, number = usual[stratum]
    return {name: count or number}


@click.command()
@run_argument
@click.argument("feature", type=int)
@click.option("--stratum", type=click.Choice(STRATA), default="all", help="which snippets")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="all",
    help="from which documents",
)
@click.option("-n", "--limit", "count", default=0, help="snippets of each stratum")
@json_flag
def show(run: str, feature: int, stratum: str, split: str, count: int, as_json: bool) -> None:
    """One feature: labels, scores, density, histogram, promoted tokens, neighbours, snippets."""
    from figures.terminal import feature_text

    known = open_study(run).known
    card = known.card(feature, counts_of(stratum, count), split)
    emit(card.to_dict(), lambda: feature_text(card), as_json)


@click.command("list")
@run_argument
@click.option("--cluster", type=int, help="only this cluster; -1 is noise")
@click.option("--family", type=int, help="only the members of this family; -1 is none")
@click.option("--min-score", type=float, help="only labels that score at least this")
@click.option("--labels", "label_set", default="", help="labels of this set")
@click.option(
    "--sort",
    type=click.Choice(["feature", "coverage", "gain", "score", "density", "label", "cluster"]),
    default="feature",
)
@click.option("--limit", default=40, show_default=True, help="rows in the terminal")
@json_flag
def list_features(
    run: str,
    cluster: int | None,
    family: int | None,
    min_score: float | None,
    label_set: str,
    sort: str,
    limit: int,
    as_json: bool,
) -> None:
    """Features with label, coverage, gain over controls, score, density and cluster."""
    from autointerp.labels.unit import complete_name

    known = open_study(run).known
    label_set = complete_name(known.run, label_set)
    check_choice(known, label_set, cluster)
    table = known.overview(label_set)
    if family is not None:
        table = table[table["feature"].isin(known.members(family))]
    if cluster is not None:
        table = table[table["cluster"] == cluster]
    if min_score is not None:
        table = table[table["score"] >= min_score]
    ascending = sort not in ("coverage", "gain", "score", "density")
    ordered = table.sort_values(sort, ascending=ascending, kind="stable")
    emit_table(ordered, as_json, limit, NothingFound("No feature is all of this.", WIDER))


def check_choice(known: Features, label_set: str, cluster: int | None) -> None:
    """Raises UsageError for a label set or a cluster that the run does not have."""
    sets = list(known.labels["set"].unique())
    if label_set and label_set not in sets:
        raise UsageError(
            f"There is no label set {label_set!r}. There are: {', '.join(sets) or 'none'}.",
            f"Make one: python main.py label {known.run.name} --labels {label_set}",
        )
    clusters: set[int] = set() if known.clusters is None else set(known.clusters["group"])
    if cluster is not None and cluster != -1 and cluster not in clusters:
        there = f"There are 0 to {max(clusters)}." if clusters else "The run has none."
        raise UsageError(
            f"There is no cluster {cluster}. {there}",
            f"See all features with their clusters: python main.py list {known.run.name}",
        )


@click.command()
@run_argument
@click.argument("words")
@click.option("--limit", default=20, show_default=True, help="rows in the terminal")
@json_flag
def find(run: str, words: str, limit: int, as_json: bool) -> None:
    """Search labels, names of families, promoted tokens and notes."""
    nothing = NothingFound(
        f"Nothing holds {words!r}: no label, family, promoted token or note.",
        f"Try fewer words, or see all features: python main.py list {run}",
    )
    emit_table(open_study(run).find(words), as_json, limit, nothing)


@click.command()
@run_argument
@click.argument("a", type=int)
@click.argument("b", type=int)
@json_flag
def pair(run: str, a: int, b: int, as_json: bool) -> None:
    """Two features: the cosine of their directions, and how often they fire on the same token."""
    from figures.terminal import pair_text

    both = open_study(run).known.pair(a, b)
    emit(both, lambda: pair_text(both), as_json)


@click.command()
@run_argument
@click.argument("words")
@click.option("--against", default="", help="leave out features that fire on this text too")
@click.option("--chat", is_flag=True, help="each text is a user's turn in the chat template")
@click.option("--limit", default=20, show_default=True, help="rows in the terminal")
@json_flag
def text(run: str, words: str, against: str, chat: bool, limit: int, as_json: bool) -> None:
    """Which features fire on a text, and not on another."""
    from figures.terminal import reading_text

    study = open_study(run)
    if chat:
        words, against = (study.as_chat(t) if t else "" for t in (words, against))
    top = study.top(words, against)
    maxima = study.maxima(sorted({firing["feature"] for firing in top.firings}))
    shown = {"tokens": top.tokens, "firings": top.firings}
    emit(shown, lambda: reading_text(top.tokens, top.firings, maxima, limit), as_json)


@click.command()
@run_argument
@click.argument("prompt")
@click.option(
    "--token", default="", help='the next token, such as " the"; without it the likeliest'
)
@click.option("--against", default="", help="explain the token's logit less that of this token")
@click.option(
    "--at",
    type=int,
    metavar="N",
    help="explain what follows the prompt's token N, numbered as in the column `at`",
)
@click.option("--top", default=10, show_default=True, help="firings to ablate, and random ones")
@click.option(
    "--steps",
    default=1,
    show_default=True,
    help="gradients to average, from all ablated to the prompt; 1: that at the prompt",
)
@click.option(
    "--also",
    multiple=True,
    metavar="RUN",
    help="attribute to this run's features too, with edges between them; may be given again",
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path, dir_okay=False),
    help="draw the ablations into this file (.png, .svg), and a dark variant beside it",
)
@click.option("--chat", is_flag=True, help="the prompt is a user's turn in the chat template")
@json_flag
def why(
    run: str, prompt: str, chat: bool, figure: Path | None, as_json: bool, **asked: Any
) -> None:
    """Which features, at which tokens, make the next token what it is; checked by ablation."""
    from figures.why_lines import why_text

    study = open_study(run)
    made = study.why(study.as_chat(prompt, answer=True) if chat else prompt, **asked)
    emit(made.to_dict(), lambda: why_text(made), as_json)
    if figure is not None:
        from figures.plots.why import save_why_figure

        paths = ", ".join(map(str, save_why_figure(figure, made)))
        click.echo(f"Figure: {paths}", err=True)


@click.command()
@run_argument
@click.argument("feature", type=int)
@click.argument("words")
def note(run: str, feature: int, words: str) -> None:
    """Write down what you think a feature is."""
    from autointerp.rules.language import is_rule

    open_study(run).note(feature, words)
    if not is_rule(words):
        click.echo("It is in free words, so an LLM scores it (docs/rules.md: what needs none).")
    label = f"python main.py label {run} --labels hand"
    click.echo(f"Noted. Score it: {label} && python main.py score {run} --labels hand")

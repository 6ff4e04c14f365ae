"""This project's own report: numbers and templates -> docs/report.md, its images, readme answers.

The text stands in report.md.j2 and readme.md.j2 beside this file. It holds no number of its own,
and a name in it that the runs do not know is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.clamps.experiments import experiments
from core.errors import UsageError
from figures.markdown import code, mark_peak, picture, table
from figures.plots.doses import describe_sizes, dose_curves
from figures.plots.training import Curves, training_curves
from figures.report.drawings import Drawing, draw, list_drawings
from figures.report.report import write_text
from figures.results import tables
from figures.results.numbers import Numbers, TestedClamp
from figures.results.pictures import Measure, matches_figure, sites_figure, sizes_figure
from figures.results.space import space_figure

IMAGES = "images/results"
BORROWED = ("density", "map", "nulls", "together", "scores")  # from the run's own report
BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"


def write_results(folder: Path, out: Path, readme: Path) -> list[Path]:
    """Write `out`/report.md with its images, and the part of `readme` between the marks.

    `folder` holds hand.json. Returns what was written. Raises NotReady for a run or unit of the
    plan that is missing, UsageError for a readme without the marks.
    """
    numbers = Numbers(folder)
    before, after = split_readme(readme)
    out.mkdir(parents=True, exist_ok=True)
    made = {f["name"]: f for f in draw(list_figures(numbers), out / IMAGES, ("png",))}
    names = template_names(numbers)
    report = render("report.md.j2", names, partial(link_figure, made, IMAGES))
    write_text(out / "report.md", report)
    images = os.path.relpath(out / IMAGES, readme.parent)
    answers = render("readme.md.j2", names, partial(link_figure, made, images))
    write_text(readme, f"{before}{BEGIN}\n\n{answers.strip()}\n\n{END}{after}")
    return [out / "report.md", readme]


def split_readme(readme: Path) -> tuple[str, str]:
    """The text before and after the marks. Raises UsageError without them."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(
            f"{readme} does not say where the answers go.",
            f"Put these two lines where they should stand: {BEGIN} and {END}",
        )
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def render(name: str, names: dict[str, Any], figure: Callable[[str], str]) -> str:
    """Fill a template that lies beside this file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"pct": format_percent, "f": format_decimal, "count": format_count}
    return environment.get_template(name).render(**names, figure=figure)


def format_percent(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def format_decimal(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def format_count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def link_figure(made: dict[str, dict], folder: str, name: str, caption: bool = True) -> str:
    """A figure for both themes, from `folder`, with its caption unless that is not wanted."""
    text = picture(name, made)
    for file in (f"{name}-dark.png", f"{name}.png"):
        text = text.replace(f'"{file}"', f'"{folder}/{file}"')
    return text if caption else text.split("\n\n")[0]


# ---------------------------------------------------------------- what the templates may name


def template_names(n: Numbers) -> dict[str, Any]:
    """All names of the two templates."""
    names = {entry["feature"]: entry["name"] for entry in n.read}
    return {
        "n": n,
        "main": n.main,
        "names": names,
        "table": table,
        "code": code,
        "mark_peak": mark_peak,
        **training_names(n),
        **table_names(n),
        **clamp_names(n, names),
    }


def training_names(n: Numbers) -> dict[str, Any]:
    penalties = [r["order"] for r in n.sizes if "penalty" in r["series"]]
    frequent = [code(t) for t, _ in n.main["capture"]["frequent_tokens"][:10]]
    return {
        "c_sites": n.sites["middle"]["capture"],
        "k": n.main["train"]["form"]["k"],
        "penalty_factor": max(penalties) / min(penalties),
        "patience": n.main.run.manifest("sweep/stopping").settings["patience"],
        "check_every": n.check_every(),
        "frequent": " ".join(frequent),
    }


def table_names(n: Numbers) -> dict[str, Any]:
    return {
        "proof": table(["measure", "here", "null or chance"], n.proof_rows()),
        "rows_table": tables.site_rows(n),
        "splits_table": tables.split_rows(n),
        "sizes_table": tables.size_rows(n),
        "scores_table": tables.score_rows(n),
        "named_table": tables.named_rows(n),
        "gallery_table": tables.gallery_rows(n),
        "ami_null": tables.describe_ami_null(n),
        "agreement_text": tables.describe_agreement(n),
        "label_rows": tables.label_rows,
        "promoted": tables.list_promoted,
        "hand_median": n.hand_median("hand"),
        "rules_median": n.hand_median("rules"),
    }


def clamp_names(n: Numbers, names: dict[int, str]) -> dict[str, Any]:
    best = choose_best(n.by_hand)
    return {
        "texts": tables.text_rows,
        "dose_table": tables.dose_rows,
        "useful": tables.describe_both,
        "clamp_verdict": tables.describe_tests,
        "failed_text": tables.describe_failed(n, names),
        "written": [r for r in n.by_hand if r.works],
        "found": [r for r in n.by_hand if r.found_again],
        "best": best,
        "best_name": names[best.features[0]],
        "best_prompt": best.prompts[0].strip(),
        "best_text": tables.shorten(best.clamped[0]),
    }


def choose_best(records: list[TestedClamp]) -> TestedClamp:
    """Choose the clamp that is found again by the widest margin: its text shows most."""

    def margin(record: TestedClamp) -> float:
        useful = record.useful_found
        return useful["found"] - useful["random_found"] if useful and record.found_again else 0.0

    return max(records, key=lambda record: (margin(record), record.works))


# ---------------------------------------------------------------- figures


def list_figures(numbers: Numbers) -> list[Drawing]:
    """Every figure of the report; BORROWED ones are those of the run's own report."""
    features, run = numbers.features, numbers.main.run
    own = {d.name: d for d in list_drawings(features, numbers.control.run, [], experiments(run))}
    figures = [site_drawing(numbers), match_drawing(numbers), space_drawing(numbers)]
    figures += [size_drawing(numbers), stopping_drawing(numbers)]
    figures += [own[name] for name in BORROWED]
    return figures + [dose_drawing(r) for r in numbers.by_hand]


def site_drawing(numbers: Numbers) -> Drawing:
    rows, labels = numbers.site_rows, numbers.sites["middle"]["label/rules"]["labels"]

    def measure(title: str, key: str, chance: float | None, form: str) -> Measure:
        return title, [row[key] for row in rows], chance, form

    measures = [
        measure("cross-entropy recovered", "recovered_mean", None, ".2f"),
        measure("simulation of labels", "simulation", None, ".2f"),
        measure("detection (chance: .5)", "detection", 0.5, ".2f"),
        measure("label names effect (.5)", "effect", 0.5, ".2f"),
        measure("promoted tokens, nats up", "rise", None, ".1f"),
    ]
    return Drawing(
        "sites",
        "Four sites of one subject",
        partial(sites_figure, [row["name"] for row in rows], measures),
        f"Medians over {labels:,} labelled features of each site; recovered of mean ablation.",
    )


def match_drawing(numbers: Numbers) -> Drawing:
    n = numbers.match("results-prompts")["there"]["n"]
    return Drawing(
        "matches",
        "Best matches between dictionaries",
        partial(matches_figure, numbers.match_arrays()),
        f"n = {n:,} features of the dictionary trained on plain text.",
    )


def space_drawing(numbers: Numbers) -> Drawing:
    first, second = numbers.hand[:2]
    pair = first["feature"], second["feature"]
    a, b = (str(h["name"] or f"feature {h['feature']}") for h in (first, second))
    return Drawing(
        "space",
        "Activation space, feature space, superposition",
        partial(space_figure, numbers.features, pair, (a, b)),
        "Tokens at random, and tokens on which either feature fires; the plane holds both decoder "
        "directions.",
    )


def size_drawing(numbers: Numbers) -> Drawing:
    return Drawing(
        "sizes",
        "Sparsity and reconstruction of swept autoencoders",
        partial(sizes_figure, numbers.sizes),
        f"n = {len(numbers.sizes)} autoencoders, one pass over the activations each.",
    )


def stopping_drawing(numbers: Numbers) -> Drawing:
    training = numbers.stopping["training"]
    curves = Curves.from_rows(numbers.stopping["rows"], training["best_step"])
    return Drawing(
        "stopping",
        "A tied-weight autoencoder that may stop early",
        partial(training_curves, curves),
        f"{training['steps']:,} of at most {training['steps_at_most']:,} steps.",
    )


def dose_drawing(record: TestedClamp) -> Drawing:
    caption = f"{len(record.doses or ())} doses; {describe_sizes(record)}."
    name = f"dose-{record.features[0]}"
    return Drawing(name, "Dose and response", partial(dose_curves, record), caption)

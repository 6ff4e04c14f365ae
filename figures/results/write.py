"""Numbers and templates -> docs/report.md with its images, and the answers in the readme.

The text stands in report.md.j2 and readme.md.j2 beside this file; it holds no figure of its own, and a name in it that the runs do not know is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.clamps.experiments import experiments
from core.errors import UsageError
from figures.markdown import code, marked, picture, table
from figures.plots.doses import dose_curves, dose_sizes
from figures.plots.training import training_curves
from figures.report.drawings import Drawing, draw, drawings_of
from figures.report.report import write_text
from figures.results import tables
from figures.results.numbers import Numbers
from figures.results.pictures import matches_figure, sites_figure, sizes_figure
from figures.results.space import space_figure

IMAGES = "images/results"
BORROWED = ("density", "map", "nulls", "together", "scores")  # from the run's own report
BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"


def write_results(folder: Path, out: Path, readme: Path) -> list[Path]:
    """Write `out`/report.md and its images, and replace the part of `readme` between the marks; returns what was written.

    `folder` holds hand.json. Raises NotReady for a run or unit of the plan that is missing, UsageError for a readme without the marks.
    """
    numbers = Numbers(folder)
    before, after = around(readme)
    out.mkdir(parents=True, exist_ok=True)
    made = {f["name"]: f for f in draw(drawings(numbers), out / IMAGES, ("png",))}
    shared = context(numbers)
    report = render("report.md.j2", shared, partial(linked, made, IMAGES))
    write_text(out / "report.md", report)
    answers = render("readme.md.j2", shared, partial(linked, made, f"{out.name}/{IMAGES}"))
    write_text(readme, f"{before}{BEGIN}\n\n{answers.strip()}\n\n{END}{after}")
    return [out / "report.md", readme]


def around(readme: Path) -> tuple[str, str]:
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(
            f"{readme} does not say where the answers go.",
            f"Put these two lines where they should stand: {BEGIN} and {END}",
        )
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def render(name: str, shared: dict, figure: Callable[[str], str]) -> str:
    """A template beside this file, filled."""
    source = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    known = lambda shown: lambda v, digits=0: "-" if v is None else shown(v, digits)
    source.filters |= {
        "pct": known(lambda v, d: f"{v:.{d}%}"),
        "f": known(lambda v, d: f"{v:.{d}f}"),
        "count": known(lambda v, d: f"{v:,}"),
    }
    return source.get_template(name).render(**shared, figure=figure)


def linked(made: dict[str, dict], folder: str, name: str, caption: bool = True) -> str:
    """A figure for both themes; its caption, unless it is not wanted, says what it shows and of how many."""
    text = picture(name, made)
    text = text.replace(f'"{name}-dark.png"', f'"{folder}/{name}-dark.png"').replace(
        f'"{name}.png"', f'"{folder}/{name}.png"'
    )
    return text if caption else text.split("\n\n")[0]


def context(n: Numbers) -> dict:
    """What the templates may name."""
    names = {entry["feature"]: entry["name"] for entry in n.read}
    penalties = [r["order"] for r in n.sizes if "penalty" in r["series"]]
    stopping = n.main.run.manifest("sweep/stopping").settings
    margin = lambda r: (
        r["useful_found"]["found"] - r["useful_found"]["random_found"] if r["found_again"] else 0.0
    )
    best = max(n.by_hand, key=lambda r: (margin(r), r["works"]))  # the one whose text shows most
    written, found = ([r for r in n.by_hand if r[test]] for test in ("works", "found_again"))
    return {
        "n": n, "main": n.main, "table": table, "code": code, "marked": marked, "names": names, "c_sites": n.sites["middle"]["capture"],
        "k": n.main["train"]["form"]["k"], "penalty_factor": max(penalties) / min(penalties), "patience": stopping["patience"], "check_every": n.check_every(),
        "frequent": " ".join(code(t) for t, _ in n.main["capture"]["frequent_tokens"][:10]), "proof": table(["measure", "here", "null or chance"], n.proof_rows()),
        "rows_table": tables.sites(n), "splits_table": tables.splits(n), "sizes_table": tables.sizes(n), "scores_table": tables.scores(n), "named_table": tables.named(n),
        "ami_null": tables.ami_null(n), "label_rows": tables.labels, "promoted": tables.promoted, "agreement_text": tables.agreement(n),
        "texts": tables.texts, "dose_table": tables.doses, "useful": tables.useful, "failed_text": tables.failed(n, names), "gallery_table": tables.gallery(n),
        "hand_median": n.hand_median("hand"), "rules_median": n.hand_median("rules"), "written": written, "found": found, "clamp_verdict": tables.verdict,
        "best": best, "best_name": names[best["features"][0]], "best_prompt": best["prompts"][0].strip(), "best_text": tables.shortened(best["clamped"][0]),
    }  # fmt: skip


# ---------------------------------------------------------------- figures


def drawings(numbers: Numbers) -> list[Drawing]:
    """Every figure of the report; those of the groups, scores and density are the ones of the run's own report."""
    features, main = numbers.features, numbers.main.run
    own = {d.name: d for d in drawings_of(features, numbers.control.run, [], experiments(main))}
    rows, stopping, pair = numbers.site_rows, numbers.stopping, numbers.hand[:2]
    measures = [
        ("cross-entropy recovered", [r["recovered_mean"] for r in rows], None, ".2f"),
        ("simulation of labels", [r["simulation"] for r in rows], None, ".2f"),
        ("detection (chance: .5)", [r["detection"] for r in rows], 0.5, ".2f"),
        ("label names effect (.5)", [r["effect"] for r in rows], 0.5, ".2f"),
        ("promoted tokens, nats up", [r["rise"] for r in rows], None, ".1f"),
    ]
    column = lambda part, name: [r[name] for r in stopping[part]]
    found = [
        Drawing("sites", "Four sites of one subject", lambda dark: sites_figure([r["name"] for r in rows], measures, dark),
                f"Medians over {numbers.sites['middle']['label/rules']['labels']:,} labelled features of each site; recovered of mean ablation."),
        Drawing("matches", "Best matches between dictionaries", lambda dark: matches_figure(numbers.match_arrays(), dark),
                f"n = {numbers.match('results-prompts')['there']['n']:,} features of the dictionary trained on plain text."),
        Drawing("space", "Activation space, feature space, superposition",
                lambda dark: space_figure(features, tuple(h["feature"] for h in pair), tuple(h["name"] or f"feature {h['feature']}" for h in pair), dark),
                "Tokens at random, and tokens on which either feature fires; the plane holds both decoder directions."),
        Drawing("sizes", "Sparsity and reconstruction of swept autoencoders", lambda dark: sizes_figure(numbers.sizes, dark),
                f"n = {len(numbers.sizes)} autoencoders, one pass over the activations each."),
        Drawing("stopping", "A tied-weight autoencoder that may stop early", lambda dark: stopping_figure(stopping, column, dark),
                f"{stopping['training']['steps']:,} of at most {stopping['training']['steps_at_most']:,} steps."),
        *(own[name] for name in BORROWED),
    ]  # fmt: skip
    return found + [dose_drawing(r) for r in numbers.by_hand]


def stopping_figure(stopping: dict, column: Callable, dark: bool):
    curves = [np.array(column("steps", name), float) for name in ("step", "fvu", "l0", "dead")]
    checks = [np.array(column("checks", name), float) for name in ("step", "val_fvu")]
    return training_curves(*curves, *checks, stopping["training"]["best_step"], dark)


def dose_drawing(record: dict) -> Drawing:
    return Drawing(
        f"dose-{record['features'][0]}",
        "Dose and response",
        lambda dark: dose_curves(record, dark),
        f"{len(record['doses'])} doses; {dose_sizes(record)}.",
    )

"""Verb demo: the whole job on the embedded subject, offline, then what to try next."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from autointerp.pipeline import CONTROL, IN_RUN, make_pending
from autointerp.settings import ClusterSettings, RelateSettings, ReportSettings
from core.settings import EvaluateSettings, TrainSettings

if TYPE_CHECKING:
    from autointerp.study import Study
    from core.clamps.experiments import Experiment

DEMO = {
    "train": TrainSettings(epochs=2.0),
    "evaluate": EvaluateSettings(tokens=100_000, loss_tokens=20_000),
    "cluster": ClusterSettings(seeds=1, subsamples=4),
    "relate": RelateSettings(),
}
PROMPTS, DOSES = ["def main():\n    ", "class Reader:\n    "], [0.5, 1.0, 2.0, 4.0]


@click.command()
def demo() -> None:
    """The whole job on the embedded subject, offline, then what to try next."""
    from autointerp.study import new

    study = new("demo")
    control = new("demo-control", weights="random")
    for stage in IN_RUN:
        if stage.name != "report":
            make_pending(study.run_directory, stage.name, DEMO.get(stage.name))
    for name in ("capture", "train", "index", "label", "score"):
        make_pending(control.run_directory, name, CONTROL.get(name))
    kept = clamp_three(study)
    make_pending(study.run_directory, "report", ReportSettings(control=control.name))
    feature = kept[0].features[0] if kept else 0
    inside = sys.prefix.startswith(os.getcwd())
    python = os.path.relpath(sys.executable) if inside else "python"
    click.echo(f"""
Look at it, then try the others:
  {python} main.py explore demo
  {python} main.py show demo {feature}
  {python} main.py text demo "for name in names:" --against "import os"
  {python} main.py {suggest_clamp(kept)}
Report: {study.path / "report" / "report.md"}""")


def suggest_clamp(kept: list[Experiment]) -> str:
    """The clamp of a kept experiment at its useful dose; where none is confirmed, the search."""
    from autointerp.clamps import beats_controls

    for record in kept:
        for useful, key in ((record.useful, "own"), (record.useful_found, "found")):
            if useful and beats_controls(useful, key):
                prompt = PROMPTS[0].split("\n")[0]
                value = f"{record.features[0]}={useful['dose']:g}x"
                return f'clamp demo --set {value} --prompt "{prompt}" --doses 1,2,4 --figure'
    return "gallery demo 1"


def clamp_three(study: Study) -> list[Experiment]:
    """Clamp three labelled features and keep the experiments, unless there are some."""
    from autointerp.clamps import DoseBudget, choose_features
    from core.clamps.experiments import experiments
    from core.progress import progress

    if kept := experiments(study.run_directory):
        return kept
    chosen = choose_features(study.known, 3)
    budget = DoseBudget(prompts=6, tokens=20, seeds=1)
    made = []
    for feature in progress(chosen, "clamp", unit="feat"):
        clamps = {feature: "2x"}
        texts = study.clamp(clamps, PROMPTS, tokens=30, samples=1, doses=DOSES, budget=budget)
        made.append(texts.experiment)
    return made

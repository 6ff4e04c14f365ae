"""Verb demo: the whole job on the embedded subject, offline, then what to try next."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from autointerp.pipeline import IN_RUN, make_controls, make_pending
from autointerp.settings import ClusterSettings, RelateSettings
from core.settings import EvaluateSettings, TrainSettings

if TYPE_CHECKING:
    from autointerp.study import Study

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
    for stage in IN_RUN:
        if stage.name != "report":
            make_pending(study.run_directory, stage.name, DEMO.get(stage.name))
    make_controls(study.run_directory)
    shown = clamp_three(study)
    make_pending(study.run_directory, "report")
    feature = shown[0] if shown else 0
    inside = sys.prefix.startswith(os.getcwd())
    python = os.path.relpath(sys.executable) if inside else "python"
    click.echo(f"""
Report: {study.path / "report" / "report.md"}

Things to try next:
  {python} main.py explore demo
  {python} main.py show demo {feature}
  {python} main.py text demo "for name in names:" --against "import os"
  {python} main.py clamp demo --set {feature}=2x --prompt "def main():" --figure""")


def clamp_three(study: Study) -> list[int]:
    """Clamp three labelled features and keep the experiments, unless there are some; returns the
    features.
    """
    from autointerp.clamps import DoseBudget, choose_features
    from core.clamps.experiments import experiments
    from core.progress import progress

    if kept := experiments(study.run_directory):
        return [record.features[0] for record in kept]
    chosen = choose_features(study.known, 3)
    budget = DoseBudget(prompts=6, tokens=20, seeds=1)
    for feature in progress(chosen, "clamp", unit="feat"):
        clamps = {feature: "2x"}
        study.clamp(clamps, PROMPTS, tokens=30, samples=1, doses=DOSES, budget=budget)
    return chosen

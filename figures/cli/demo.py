"""Verb demo: the whole job on a subject that comes with the program, then what to try next."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.pipeline import make_pending
from autointerp.settings import ClusterSettings
from autointerp.whole import make_run
from core.errors import NotReady, UsageError
from core.progress import progress, say
from core.settings import CaptureSettings, EvaluateSettings, TrainSettings

if TYPE_CHECKING:
    from autointerp.study import Study
    from core.clamps.experiments import Experiment

VALUE = "1.5x"  # at which the texts are written
CLUSTERS = ClusterSettings(seeds=1, subsamples=4)


@dataclass(frozen=True)
class Plan:
    """A demo: its run, the settings of its stages, and what it needs."""

    name: str
    about: dict[str, Any]  # settings of the run
    stages: dict[str, Any]  # stage -> settings; others take their defaults
    prompts: tuple[str, str]  # continued with features clamped
    text: str  # whose features are asked for
    features: tuple[int, ...]  # that are clamped; none: `choose_features` chooses
    needs: str  # minutes on two cores without matrix units, and disk
    candidates: int = 3  # features that are chosen
    doses: tuple[float, ...] = (0.5, 1.0, 1.5)
    clamp_prompts: int = 6  # that a dose is sought and confirmed on
    controls: bool = True  # label and score random directions and the untrained subject too


SMOLLM2 = Plan(
    "demo",
    {
        "subject": "smollm2",
        "site": "resid_post.12",
        "corpus": "prompts",
        "sae": "smollm2-135m",
    },
    {
        # index, evaluate and the control would each read the subject again
        "capture": CaptureSettings(store="yes"),
        "evaluate": EvaluateSettings(tokens=60_000),
        "cluster": CLUSTERS,
    },
    ("My best friend told me that", "Yesterday we talked about the"),
    "On Monday the Senate voted on a new law.",
    (4169, 3641),  # days of the week, God: of the SAE that comes with the program
    "15 to 40 minutes and 1.8 GB",
)
PYTHON = Plan(
    "demo-python-7m",
    {"subject": "python-7m", "site": "resid_post.3", "corpus": "stdlib"},
    {
        "train": TrainSettings(epochs=2.0),
        "evaluate": EvaluateSettings(tokens=100_000, loss_tokens=20_000),
        "cluster": CLUSTERS,
    },
    ("def main():\n    ", "class Reader:\n    "),
    "for name in names:",
    (),
    "about 10 minutes and 4 GB",
)
QUICK = replace(
    PYTHON,
    name="demo-quick",
    stages={
        "capture": CaptureSettings(max_tokens=60_000, cut="yes"),  # many short documents
        "train": TrainSettings(expansion=1.0, k=16, epochs=8.0, batch_size=512, check_every=50),
        "evaluate": EvaluateSettings(tokens=10_000, loss_tokens=2_000),
        "cluster": ClusterSettings(nulls=3, seeds=0, subsamples=2),
    },
    needs="about a minute and 100 MB",
    candidates=1,
    doses=(1.0, 2.0),
    clamp_prompts=4,
    controls=False,
)
PLANS = {"smollm2": SMOLLM2, "python-7m": PYTHON}


@click.command()
@click.option(
    "--subject", default="smollm2", show_default=True, help="smollm2, a model of English; python-7m"
)
@click.option(
    "--train", is_flag=True, help="train the autoencoder too, on activations that are stored first"
)
@click.option(
    "--quick",
    is_flag=True,
    help="a minute: 256 features of the small model of Python, to see every part of the program",
)
def demo(subject: str, train: bool, quick: bool) -> None:
    """The whole job on a subject that comes with the program, then what to try next."""
    from autointerp.study import new

    plan = QUICK if quick else use_what_there_is(choose_plan(Path(subject).name, train))
    study = new(plan.name, **plan.about)
    say(
        f"The demo takes {plan.needs} on two cores, less with matrix units. A killed one continues."
    )
    make_run(study.run_directory, plan.stages, plan.controls, without=("report",))
    kept = clamp_some(study, plan)
    make_pending(study.run_directory, "report")
    click.echo(say_next(study, plan, kept))


def choose_plan(subject: str, train: bool) -> Plan:
    """Raises UsageError for a subject that no demo is made for."""
    if subject not in PLANS:
        raise UsageError(
            f"There is no demo of the subject {subject!r}.",
            f"Use {' or '.join(PLANS)}; for your own: python main.py new NAME --subject {subject}",
        )
    plan = PLANS[subject]
    if not train or plan is PYTHON:
        return plan
    about = {key: value for key, value in plan.about.items() if key != "sae"}
    stages = plan.stages | {
        "capture": CaptureSettings(),
        "train": TrainSettings(expansion=8, k=32, epochs=4.0),
    }
    needs = "about 25 minutes and 4 GB"
    return replace(
        plan, name=f"{plan.name}-train", about=about, stages=stages, features=(), needs=needs
    )


def use_what_there_is(plan: Plan) -> Plan:
    """The plan, or that of the small Python model, with a line, where SmolLM2 cannot be had."""
    from core.subject.smollm2 import check_smollm2

    if plan.about["subject"] != "smollm2":
        return plan
    try:
        check_smollm2()
    except NotReady as error:
        say(f"{error.message} The demo runs on the small model of Python instead.")
        return PYTHON
    return plan


def clamp_some(study: Study, plan: Plan) -> list[Experiment]:
    """Clamp labelled features and keep the experiments, unless there are some."""
    from autointerp.clamps import DoseBudget, choose_features
    from core.clamps.experiments import experiments

    if kept := experiments(study.run_directory):
        return kept
    budget = DoseBudget(prompts=plan.clamp_prompts, tokens=20, seeds=1)
    features = plan.features or choose_features(study.known, plan.candidates)
    for feature in progress(features, "clamp", unit="feat"):
        study.clamp(
            {feature: VALUE}, plan.prompts, tokens=30, samples=1, doses=plan.doses, budget=budget
        )
    return experiments(study.run_directory)


def suggest_clamp(plan: Plan, kept: list[Experiment]) -> str:
    """The clamp of a kept experiment at a dose that was confirmed; without one, the search."""
    from autointerp.clamps import beats_controls

    for record in kept:
        for useful, measure in ((record.useful, "own"), (record.useful_found, "found")):
            if useful and beats_controls(useful, measure):
                value = f"{record.features[0]}={useful['dose']:g}x"
                prompt = plan.prompts[0].strip()
                return f'clamp {plan.name} --set {value} --prompt "{prompt}" --figure'
    return f"gallery {plan.name} 1"


def say_next(study: Study, plan: Plan, kept: list[Experiment]) -> str:
    feature = kept[0].features[0] if kept else 0
    inside = sys.prefix.startswith(os.getcwd())
    command = f"{os.path.relpath(sys.executable) if inside else 'python'} main.py"
    return f"""
What to open first:
  {command} explore {study.name}
Then:
  {command} show {study.name} {feature}
  {command} text {study.name} "{plan.text}"
  {command} {suggest_clamp(plan, kept)}
Report: {study.path / "report" / "report.md"}"""

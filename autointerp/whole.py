"""A whole job: every stage of a run in order, and its controls on a small budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autointerp.pipeline import IN_RUN, is_done, make, make_pending, settings_as_made
from autointerp.settings import LabelSettings, ScoreSettings
from core.progress import Steps, say
from core.settings import CaptureSettings, ParallelSettings, TrainSettings, from_table

if TYPE_CHECKING:
    from core.run import Run

# Shares of the time of a whole run, for the estimate of the rest: those of the demo
SHARES = {
    "capture": 0.03, "train": 0.02, "evaluate": 0.15, "index": 0.25, "effects": 0.10,
    "cluster": 0.05, "label": 0.08, "score": 0.07, "title": 0.02, "relate": 0.01,
    "control": 0.20, "report": 0.02,
}  # fmt: skip

CONTROL_TOKENS = 200_000  # that the untrained subject reads, at most
CONTROL: dict[str, Any] = {
    "capture": CaptureSettings(max_tokens=CONTROL_TOKENS),
    "train": TrainSettings(epochs=2.0),
    "label": LabelSettings(sample=200),
    "score": ScoreSettings(kind="coverage,simulation,detection"),
}  # a small budget: the control only has to say what chance reaches


def make_run(
    run: Run,
    settings: Mapping[str, Any] | None = None,
    controls: bool = True,
    without: tuple[str, ...] = (),
    **where: Any,
) -> None:
    """Run every stage that is not done, and say which it is and about how long the rest takes.

    A stage has the settings that it was begun with, or those in `settings` (stage -> settings), or
    its defaults. With `controls`, their labels are scored before the report, on the budget of
    CONTROL. Stages in `without` are left out; `where` are settings of `ParallelSettings`, for the
    stages that have them.
    """
    from_table(ParallelSettings, where)
    names = [s.name for s in IN_RUN if s.name not in without and not is_done(run, s)]
    if controls:
        names.insert(names.index("report") if "report" in names else len(names), "control")
    steps = Steps({name: SHARES.get(name, 0.02) for name in names})
    for name in names:
        steps.begin(name)
        if name == "control":
            make_controls(run)
        else:
            make_pending(run, name, (settings or {}).get(name), **where)


def make_controls(run: Run) -> list[Run]:
    """Make both controls of a run, each on the budget of CONTROL: random directions over its
    activations, and the same subject with random weights.

    The first is left out for a transcoder, because untrained directions predict nothing, and the
    second where the run has an autoencoder that others trained. A control has no controls of its
    own.
    """
    if run.settings.weights == "random" or "untrained" in run.manifest("train").summary:
        return []
    budget = f"{CONTROL['label'].sample} labels each"
    directions, untrained = not run.settings.site_out, not run.settings.sae
    if not directions:
        say(
            "control: untrained directions predict nothing for a transcoder, so none are made; "
            f"python main.py control {run.name} --directions neurons compares it with the MLP's own"
        )
    if not directions and not untrained:
        return []
    if untrained:
        budget += f", {CONTROL_TOKENS:,} tokens through the untrained subject at most"
    say(f"control: {budget}; leave it out with --no-controls")
    made = [make_control_run(run, "random")] if directions else []
    if untrained:
        made.append(make_untrained_run(run))
    return made


def make_control_run(run: Run, directions: str) -> Run:
    """The run NAME-DIRECTIONS beside `run`, labelled and scored: untrained directions of the same
    activations, or the subject's own neurons or heads in the same layer on the same text.
    """
    from core.training.controls import make_basis_run, make_control

    if directions in ("neurons", "heads"):
        control = make_basis_run(run, directions)
        if control.find("capture") is None:
            make(control, "capture", settings_as_made(run, "capture", {"store": "auto"}))
        make_pending(control, "train")
    else:
        control = make_control(run, directions)
    for name in ("index", "label", "score"):
        make_pending(control, name, CONTROL.get(name))
    return control


def make_untrained_run(run: Run) -> Run:
    """The run NAME-control beside `run`: the same subject with random weights, its corpus, its
    context, and an autoencoder of its own with the run's settings; labelled and scored.
    """
    from core.run import Run as Runs

    about = replace(run.settings, weights="random", sae="")
    control = Runs.create(str(run.path.with_name(f"{run.path.name}-control")), about)
    capture: CaptureSettings = settings_as_made(run, "capture", {})
    budget = CONTROL_TOKENS if not capture.max_tokens else min(capture.max_tokens, CONTROL_TOKENS)
    train = settings_as_made(run, "train", {"take": ""})
    settings = CONTROL | {
        "capture": replace(capture, max_tokens=budget),
        "train": replace(train, epochs=min(train.epochs, CONTROL["train"].epochs)),
    }
    for name in ("capture", "train", "index", "label", "score"):
        make_pending(control, name, settings.get(name))
    return control

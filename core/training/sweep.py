"""Stage `sweep`: several autoencoders in one pass over the stored activations, and one table of how they compare.

Each is trained as `train` would train it alone, to the same bits: all trainers get the same batches, each keeps its own optimiser, checkpoint and
early stopping. A unit `sweep/NAME` holds a folder for each SAE; `train --take sweep/NAME/SAE` makes one the run's own.
"""

from __future__ import annotations

import re
from dataclasses import fields

from core.errors import UsageError
from core.records import Manifest
from core.run import Run
from core.saes import load_sae
from core.settings import WITH_K, SweepSettings, TrainSettings, from_table
from core.training.evaluate import draw_sample, measured
from core.training.published import save_unit
from core.training.train import fit, load_data
from core.training.trainer import Trainer

VERSION = 3


def sweep(run: Run, settings: SweepSettings, redo: bool = False) -> Manifest:
    if not re.fullmatch(r"[\w.-]+", settings.name):
        raise UsageError(
            f"--name {settings.name!r} cannot be a folder's name.",
            "Use letters, digits, dots and dashes.",
        )
    unit, members = f"sweep/{settings.name}", expand(settings)
    work = run.begin(unit, VERSION, settings, ["capture"], redo)
    if work is None:
        return run.manifest(unit)
    seed = run.settings.seed
    data = load_data(run.folder("capture"), settings.batch, seed)
    trainers = {}
    for name, member in members.items():
        (work.folder / name).mkdir(exist_ok=True)
        trainers[name] = Trainer(member, data, seed, work.folder / name)
    fit(list(trainers.values()), data, settings.batch, seed)
    for name, trainer in trainers.items():
        save_unit(work.folder / name, trainer.finished(), run)
    sample = draw_sample(run, settings.tokens, settings.loss_tokens or None)
    table = [
        {
            "sae": name,
            **measured(load_sae(work.folder / name), sample),
            "training": trainer.summary(),
        }
        for name, trainer in trainers.items()
    ]
    manifest = work.commit({"saes": len(table), "table": table})
    for name in members:
        (run.path / unit / name / Trainer.CHECKPOINT).unlink(missing_ok=True)
    return manifest


def expand(settings: SweepSettings) -> dict[str, TrainSettings]:
    """Every combination that the lists ask for, by name; raises UsageError for lists that cannot be read or contradict each other."""
    if settings.l1 and settings.l0:
        raise UsageError(
            "--l1 and --l0 were both given: a penalty is either fixed or follows L0.",
            "Leave one of them out.",
        )
    names = {f.name for f in fields(TrainSettings)}
    shared = {
        f.name: getattr(settings, f.name)
        for f in fields(settings)
        if f.name in names and f.type != "str"
    }
    members = {}
    for architecture in parse_list("architecture", settings.architecture, str):
        flag = "k" if architecture in WITH_K else "l0" if settings.l0 else "l1"
        for expansion in parse_list("expansion", settings.expansion, float):
            for value in parse_list(
                flag, getattr(settings, flag) or "0", int if flag == "k" else float
            ):
                name = f"{architecture}-{expansion:g}x" + (
                    f"-{flag}{'_' if flag != 'k' else ''}{value:g}" if value else ""
                )
                members[name] = from_table(
                    TrainSettings,
                    {**shared, "architecture": architecture, "expansion": expansion, flag: value},
                )
    return members


def parse_list(flag: str, text: str, kind: type) -> list:
    """The values in a list such as `8,16,32`."""
    try:
        found = [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or "" in found:
        raise UsageError(
            f"--{flag} {text!r} is not a list.",
            "Give values with commas between them, such as 8,16,32.",
        )
    return found

"""Stage `sweep`: train several autoencoders in one pass over the activations and compare them.

Each is trained as `train` would train it alone, to the same bits: all trainers get the same
batches, each keeps its own optimiser, checkpoint and early stopping. A unit `sweep/NAME` holds a
folder for each SAE; `train --take sweep/NAME/SAE` makes one the run's own.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from core.errors import UsageError
from core.run import Run
from core.saes import SAE
from core.settings import WITH_K, SweepSettings, TrainSettings, from_table
from core.training.evaluate import measure_sae
from core.training.published import save_unit
from core.training.sample import draw_sample
from core.training.train import fit, load_data
from core.training.trainer import Trainer

NAMED = {"k": "-k{:g}", "penalty": "-penalty_{:g}", "target_l0": "-l0_{:g}"}  # in an SAE's name


def check(run: Run, settings: SweepSettings) -> None:
    """Raises UsageError for a name that cannot be a folder's and for lists that cannot be read."""
    if not re.fullmatch(r"[\w.-]+", settings.name):
        raise UsageError(
            f"--name {settings.name!r} cannot be a folder's name.",
            "Use letters, digits, dots and dashes.",
        )
    expand(settings)


def sweep(run: Run, settings: SweepSettings, folder: Path) -> dict[str, Any]:
    """Write the unit `sweep/NAME`: the files of `train` for each SAE; a table in the summary."""
    trainers = train_members(run, settings, expand(settings), folder)
    sample = draw_sample(run, settings.tokens, settings.loss_tokens or None)
    table = [
        {
            "sae": name,
            **measure_sae(SAE.load(folder / name), sample),
            "training": trainer.summarise(),
        }
        for name, trainer in trainers.items()
    ]
    return {"saes": len(table), "table": table}


def train_members(
    run: Run, settings: SweepSettings, members: dict[str, TrainSettings], folder: Path
) -> dict[str, Trainer]:
    """Train all members on the same batches and save each SAE in a folder of its own."""
    seed = run.settings.seed
    data = load_data(run.folder("capture"), settings.batch_size, seed)
    trainers = {}
    for name, member in members.items():
        (folder / name).mkdir(exist_ok=True)
        trainers[name] = Trainer(member, data, seed, folder / name)
    fit(list(trainers.values()), data, settings.batch_size, seed)
    for name, trainer in trainers.items():
        save_unit(folder / name, trainer.finish(), run)
    return trainers


def expand(settings: SweepSettings) -> dict[str, TrainSettings]:
    """Return the training settings of every combination in the lists, by the SAE's name.

    A name is such as topk-8x-k32, l1-8x-penalty_0.01 or jumprelu-8x-l0_32. Raises UsageError for
    lists that cannot be read or contradict each other.
    """
    if settings.penalty and settings.target_l0:
        raise UsageError(
            "--penalty and --target-l0 were both given: a penalty is fixed or follows L0.",
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
        flag = "target_l0" if settings.target_l0 else "penalty"
        flag, kind = ("k", int) if architecture in WITH_K else (flag, float)
        for expansion in parse_list("expansion", settings.expansion, float):
            for value in parse_list(flag, getattr(settings, flag) or "0", kind):
                own = {"architecture": architecture, "expansion": expansion, flag: value}
                name = f"{architecture}-{expansion:g}x{NAMED[flag].format(value) if value else ''}"
                members[name] = from_table(TrainSettings, shared | own)
    return members


def parse_list(name: str, text: str, kind: type) -> list[Any]:
    """Return the values in a list such as `8,16,32`; `name` is the setting's, for the error."""
    try:
        values = [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or "" in values:
        raise UsageError(
            f"--{name.replace('_', '-')} {text!r} is not a list.",
            "Give values with commas between them, such as 8,16,32.",
        )
    return values

"""Make stages of a run on an engine, and compare their files with those that another made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autointerp.settings import LabelSettings, ScoreSettings
from core.files import read_json, write_json
from core.run import Run
from core.settings import EffectsSettings, IndexSettings
from tests.support import stages
from tests.support.tiny import SMALL_CAPTURE

KINDS = "simulation,simulation-corpus,coverage,detection,fuzzing,effect"
SETTINGS: dict[str, tuple[Any, tuple[str, ...]]] = {  # stage: its settings, the units it makes
    "capture": (SMALL_CAPTURE, ("capture",)),
    "index": (IndexSettings(), ("index",)),
    "effects": (EffectsSettings(), ("effects",)),
    "label": (LabelSettings(), ("label/rules",)),
    "score": (ScoreSettings(kind=KINDS), tuple(f"score/rules/{k}" for k in KINDS.split(","))),
}


def make_on(run: Run, stage: str, **where: Any) -> dict[str, dict]:
    """Make one stage again on the engine that `where` names; unit -> name of a file -> its hash."""
    settings, units = SETTINGS[stage]
    getattr(stages, stage)(run, replace(settings, **where), redo=True)
    return {unit: run.manifest(unit).files for unit in units}


def forget_activations(run: Run) -> None:
    """Leave the capture as one that stored no activations: what follows reads the subject."""
    folder = run.folder("capture")
    write_json(folder / "shards.json", read_json(folder / "shards.json") | {"stored": False})
    for path in folder.glob("activations-*.npy"):
        path.unlink()

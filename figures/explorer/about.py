"""What the explorer's page is told of a run: its names, controls, units and clamps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from autointerp.clamps import is_found_again, works
from autointerp.controls import find_controls, name_control
from autointerp.features import Features
from autointerp.scores.unit import COVERAGE, PREFIX
from core.clamps.experiments import Experiment
from core.errors import NotReady
from core.run import Run


def shorten(value: Any, digits: int = 4) -> Any:
    """`value` with every number cut to `digits` significant digits; NaN and infinities are None."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: shorten(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shorten(v, digits) for v in value]
    return int(value) if isinstance(value, np.integer) else value


def describe_run(run: Run) -> dict[str, str]:
    """Names of the run, its subject, its site and its corpus, without folders."""
    settings = run.settings
    return {
        "name": Path(run.name).name,
        "subject": Path(settings.subject).name,
        "site": settings.site,
        "corpus": Path(settings.corpus).name,
    }


def describe_controls(features: Features) -> list[dict]:
    """name, what, medians by unit, gains by label set of each control of the run.

    They lie beside it or were named in its report. A gain is the median of a label's coverage less
    that of the control's labels at like density. A control that is not there any more is left out.
    """
    run = features.run
    found = {c.run.path: (c.name, c.run) for c in find_controls(run)}
    manifest = run.find("report")
    for name in (manifest.settings.get("control", "") if manifest else "").split(","):
        try:
            control = Run.open(name.strip()) if name.strip() else None
        except NotReady:
            continue
        if control and control.path not in found:
            found[control.path] = (name_control(control, run) or control.path.name, control)
    gains = median_gains(features)
    return [
        {
            "name": control.path.name,
            "what": what,
            "medians": shorten(score_medians(control)),
            "gains": shorten({name: known[what] for name, known in gains.items() if what in known}),
        }
        for what, control in found.values()
    ]


def score_medians(run: Run) -> dict[str, Any]:
    """The median of each committed unit of scores."""
    units = (unit for unit in run.committed() if unit.startswith(PREFIX))
    return {unit: run.manifest(unit).summary.get("median") for unit in units}


def median_gains(features: Features) -> dict[str, dict[str, float]]:
    """{label set: {what a control is: median gain of its labels' coverage}}, where known."""
    table, found = features.scores, {}
    if not features.references or not len(table):
        return {}
    for name, rows in table[table["kind"] == COVERAGE].groupby("set"):
        rows = rows.drop_duplicates("feature").dropna(subset=["value"])
        covered, known = rows["value"].to_numpy(float), rows["feature"].to_numpy()
        found[str(name)] = {
            what: float(np.nanmedian(covered - chance[known]))
            for what, chance in features.references.items()
            if np.isfinite(covered - chance[known]).any()
        }
    return found


def describe_unit(run: Run, unit: str) -> dict:
    manifest = run.manifest(unit)
    return {
        "key": manifest.key[:12],
        "seconds": manifest.seconds,
        "settings": shorten(manifest.settings),
        "summary": shorten(manifest.summary),
    }


def summarise_clamp(record: Experiment) -> dict:
    """What a list of experiments shows of one."""
    return {
        "number": record.number,
        "clamps": record.clamps,
        "features": record.features,
        "prompts": len(record.prompts),
        "doses": record.doses is not None,
        "works": works(record.useful) or is_found_again(record.useful_found),
    }

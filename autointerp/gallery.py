"""Search for features whose clamp beats its controls, and keep each as it is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from autointerp.answers import ClampedTexts
from autointerp.clamps import (
    DOSES,
    DoseBudget,
    choose_features,
    is_found_again,
    measure_doses,
    read_held_out_prompts,
    works,
)
from core.progress import progress
from core.records import Clamp

if TYPE_CHECKING:
    from autointerp.study import Study

MOST_TRIED = 6  # features that are tried for each one that is wanted
READ_BACK = 1.3  # what reading the written text again adds to writing it


def find_working(study: Study, count: int, budget: DoseBudget) -> Iterator[ClampedTexts]:
    """Features worth clamping whose clamp works, at their useful dose, each kept as it is found.

    At most MOST_TRIED features are tried for each one wanted. The dose is chosen on half of the
    prompts and the texts are written on the other half.
    """
    wanted, candidates = count, choose_features(study.known, MOST_TRIED * count)
    for feature in progress(candidates, "gallery", unit="feat"):
        made = clamp_usefully(study, feature, budget)
        if made is not None:
            yield made
            wanted -= 1
        if not wanted:
            return


def estimate_working(study: Study, budget: DoseBudget) -> float:
    """Seconds that `find_working` takes for each feature that it tries, from one timed text.

    A feature takes a clamp and two controls at each dose, and one unclamped text.
    """
    prompts = read_held_out_prompts(study.known.evidence, budget)
    start = perf_counter()
    study.model.subject.generate(prompts, budget.tokens, study.model.site, temperature=0.7)
    once = perf_counter() - start
    return once * budget.seeds * (1 + 3 * (len(DOSES) - 1)) * READ_BACK


def clamp_usefully(study: Study, feature: int, budget: DoseBudget) -> ClampedTexts | None:
    """The clamp of one feature at its useful dose; None when no dose beats its controls."""
    from core.clamps.clamp import Sampling

    evidence, model = study.known.evidence, study.model
    tried = Clamp(feature, "set", 1.0, relative=True)
    measured = measure_doses(evidence, model, [tried], DOSES[1:], budget)
    if works(measured["useful"]):
        by = "useful"
    elif is_found_again(measured.get("useful_found")):
        by = "useful_found"
    else:
        return None
    chosen = Clamp(feature, "set", measured[by]["dose"], relative=True)
    prompts = read_held_out_prompts(evidence, budget)[1::2]
    writing = Sampling(prompts, budget.tokens, 0.7, (0,))
    record = replace(
        model.clamp([chosen], study.maxima([feature]), writing).with_doses(measured),
        labels={feature: study.known.label(feature)},
        shown_by=by,
        promoted=tuple(e.token for e in evidence.promoted(feature)[:10]),
    )
    return study.keep(record)

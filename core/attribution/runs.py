"""Attribute one logit to the features of several runs of a subject, with edges between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.attribution.attribute import Question, Traced, trace
from core.attribution.edges import compute_edges
from core.attribution.record import Attribution, Edge
from core.records import Site
from core.saes import SAE
from core.subject.subject import Subject


class Loaded(Protocol):
    """What is used of the loaded model of a run."""

    subject: Subject
    sae: SAE
    site: Site  # that the SAE reads


def why_runs(models: Sequence[tuple[str, Loaded]], prompt: str, question: Question) -> Attribution:
    """Attribute the logit to the features of the first of `models`, the others' in `also`.

    `models` are (name of the run, its loaded model), all with one subject. `edges` connect the
    `question.top` strongest firings of every pair of runs of which one writes in front of what the
    other reads. Raises what `attribute` raises.
    """
    subject = models[0][1].subject
    traced = []
    for name, model in models:
        found, tensors = trace(subject, model.site, model.sae, prompt, question)
        traced.append((replace(found, run=name), tensors))
    edges = [
        edge
        for lower in traced
        for upper in traced
        if lower is not upper
        for edge in _edges(subject, lower, upper, question.top)
    ]
    edges.sort(key=lambda edge: -abs(edge.weight))
    first, *others = (found for found, _ in traced)
    return replace(first, also=tuple(others), edges=tuple(edges))


def _edges(
    subject: Subject,
    lower: tuple[Attribution, Traced],
    upper: tuple[Attribution, Traced],
    n: int,
) -> list[Edge]:
    weights: npt.NDArray[np.float64] | None = compute_edges(subject, lower[1], upper[1], n)
    if weights is None:
        return []
    return [
        Edge(
            lower[0].run,
            lower[0].firings[i].feature,
            lower[0].firings[i].position,
            upper[0].run,
            upper[0].firings[j].feature,
            upper[0].firings[j].position,
            float(weights[j, i]),
        )
        for j, i in np.argwhere(weights != 0).tolist()
    ]

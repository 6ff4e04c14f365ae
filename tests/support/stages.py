"""Stages as tests call them: `index(run, settings, redo)` begins, makes and commits the unit as
`pipeline.make` does.
"""

from __future__ import annotations

from typing import Any

from autointerp import pipeline
from core.records import Manifest
from core.run import Run


def _stage(name: str):
    def make(run: Run, settings: Any = None, redo: bool = False, **more: Any) -> Manifest:
        return pipeline.make(run, name, settings, redo, **more)

    make.__name__ = name
    return make


capture = _stage("capture")
train = _stage("train")
sweep = _stage("sweep")
evaluate = _stage("evaluate")
index = _stage("index")
effects = _stage("effects")
cluster = _stage("cluster")
label = _stage("label")
score = _stage("score")
title = _stage("title")
relate = _stage("relate")
report = _stage("report")

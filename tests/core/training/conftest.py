"""Small constants, so that small runs have checkpoints and dead features."""

import pytest

from core.training import trainer


@pytest.fixture(autouse=True)
def small_constants(monkeypatch):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 7)
    monkeypatch.setattr(trainer, "DEAD_AFTER", 20_000)

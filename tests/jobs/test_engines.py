"""Stages that make shards write the same files in this process and in others."""

import pytest

import core.activations.capture
import core.effects.effects
from tests.support.engines import forget_activations, make_on
from tests.support.tiny import SHARD_TOKENS


@pytest.fixture(autouse=True)
def several_shards(monkeypatch):
    """Several shards of each stage; capture and index have theirs from the small run."""
    monkeypatch.setattr(core.activations.capture, "SHARD_TOKENS", SHARD_TOKENS)
    monkeypatch.setattr(core.effects.effects, "ROWS", 20)


@pytest.fixture(autouse=True)
def one_thread(tiny):
    """The fixture `tiny` sets torch to one thread, and each process takes its share of that."""


@pytest.mark.slow
def test_processes_write_what_this_process_writes(run_copy):
    """tests/core/firings/test_index.py does the same for capture and for a stored index."""
    for stage in ("effects", "label", "score"):
        inline = make_on(run_copy, stage, engine="inline")
        assert all(inline.values()), stage
        assert (
            make_on(run_copy, stage, engine="processes", workers=1 + (stage != "effects")) == inline
        )
    forget_activations(run_copy)
    inline = make_on(run_copy, "index", engine="inline")
    assert make_on(run_copy, "index", engine="processes", workers=1) == inline

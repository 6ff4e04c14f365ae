"""Fixtures: tiny subjects of every family and one small run that is really made.

torch is imported when one is used, not before.
"""

from __future__ import annotations

import functools
import shutil
import ssl

import pytest

from tests.support import stages
from tests.support.shared import build_once


@pytest.fixture(scope="session", autouse=True)
def shorter_starts():
    """Do once what every client and stage does: read the system's certificates (50 ms), and look
    through all objects for garbage (up to 300 ms).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        patch.setattr("autointerp.pipeline.give_back_memory", lambda: None)
        yield


@pytest.fixture(scope="session")
def tiny():
    """The module `tests.core.tiny`, with torch on one thread: tiny tensors gain nothing from two
    and wait for each other on a busy machine.
    """
    import torch

    from tests.support import tiny

    torch.set_num_threads(1)
    return tiny


@pytest.fixture(scope="session")
def subjects(tiny) -> dict:
    """One subject of each family, float32, with a BOS."""
    from core.subject.subject import Subject

    tokenizer = tiny.byte_level_tokenizer()
    return {family: Subject(tiny.tiny_model(family), tokenizer) for family in tiny.FAMILY_NAMES}


@pytest.fixture(params=["gpt2", "gpt_neox", "llama", "mistral", "qwen2"])
def subject(request, subjects):
    return subjects[request.param]


@pytest.fixture(scope="session")
def gpt2(subjects):
    return subjects["gpt2"]


@pytest.fixture(scope="session")
def subject_folder(tiny, tmp_path_factory) -> str:
    return str(build_once(tmp_path_factory, "subject", tiny.save_subject))


@pytest.fixture(scope="session")
def subject_folder_without_bos(tiny, tmp_path_factory) -> str:
    return tiny.save_subject(tmp_path_factory.mktemp("subject"), bos=False)


@pytest.fixture(scope="session")
def documents_folder(tiny, tmp_path_factory):
    return tiny.write_documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory, subject_folder, documents_folder):
    """A run on the tiny GPT-2 with capture, train and index committed. Shared: read it, never write
    to it; `run_copy` may be changed.
    """
    import core.activations.capture
    import core.firings.index
    from core.settings import IndexSettings
    from tests.support.stages import train

    run = tiny.new_run(tmp_path_factory.mktemp("runs") / "tiny", subject_folder, documents_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.activations.capture, "SHARD_TOKENS", tiny.SHARD_TOKENS)
        patch.setattr(core.firings.index, "BATCH", tiny.INDEX_BATCH)
        stages.capture(run, tiny.SMALL_CAPTURE)
        train(run, tiny.SMALL_TRAIN)
        stages.index(run, IndexSettings())
    return run


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """A copy of the tiny run that a test may change."""
    from core.run import Run

    shutil.copytree(tiny_run.path, tmp_path / "copy")
    return Run.open(str(tmp_path / "copy"))

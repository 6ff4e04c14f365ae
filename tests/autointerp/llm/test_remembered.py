"""The LLM of a run is said once."""

import pytest

from autointerp.llm.remembered import complete_settings, read_config, recall
from core.errors import UsageError
from core.run import Run
from core.settings import RunSettings

URL = "http://127.0.0.1:9/v1"


@pytest.fixture
def run(tmp_path):
    return Run.create(str(tmp_path / "run"), RunSettings())


def config(tmp_path, text):
    path = tmp_path / "llm.toml"
    path.write_text(text)
    return str(path)


def test_a_flag_is_remembered_by_the_run(run):
    complete_settings(run, {"llm_url": URL, "rpm": 5.0, "features": "1"}, {})
    assert complete_settings(Run.open(str(run.path)), {}, {}) == {"llm_url": URL, "rpm": 5.0}


def test_a_flag_wins_over_the_environment_the_file_and_the_run(run, tmp_path):
    complete_settings(run, {"llm_model": "run", "rpm": 1.0}, {})
    path = config(tmp_path, '[llm]\nmodel = "file"\nrpm = 2\ntpm = 2\n')
    environment = {"BRAIN_SURGERY_LLM_MODEL": "env", "BRAIN_SURGERY_RPM": "3"}
    said = complete_settings(run, {"config": path, "llm_model": "flag"}, environment)
    assert said["llm_model"] == "flag"
    assert said["rpm"] == 3.0
    assert said["tpm"] == 2.0


@pytest.mark.parametrize("url", ["http://u:secret@h/v1", "http://h/v1?key=secret"])
def test_credentials_are_never_written(run, url):
    assert complete_settings(run, {"llm_url": url}, {})["llm_url"] == url
    assert "llm_url" not in recall(run)
    assert not [p for p in run.path.rglob("*") if p.is_file() and "secret" in p.read_text()]


@pytest.mark.parametrize(
    "text",
    ['[llm]\ncolour = "red"\n', "[llm\n", '[llm]\nrpm = "many"\n'],
    ids=["unknown", "broken", "type"],
)
def test_a_bad_file_is_refused(tmp_path, text):
    with pytest.raises(UsageError):
        read_config(tmp_path / config(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "none.toml")

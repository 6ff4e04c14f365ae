"""Clamp experiments: what is kept is read back, and a file that is none is an error."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from core.clamps.experiments import (
    ORDER,
    Experiment,
    OtherClamps,
    experiment,
    experiments,
    save_experiment,
)
from core.errors import UsageError
from core.records import Clamp
from core.run import Run
from core.settings import RunSettings

PLAIN = Experiment(
    clamps=("set 3=2x", "ablate 5"),
    features=(3, 5),
    prompts=("the", "a"),
    baseline=("cat", "dog"),
    clamped=("cats", "dogs"),
    seeds=(0, 0),
    values=(4.5, 0.0),
    resolved=(Clamp(3, "set", 4.5), Clamp(5, "ablate", 0.0)),
    also=(OtherClamps("other", (Clamp(7, "add", 1.0),)),),
    temperature=0.7,
    tokens=20,
    at="^ def$",
    sae="key",
    labels={3: "plural nouns", 5: ""},
)
MEASURED = {
    "doses": [{"dose": 0.0, "kl": 0.0}, {"dose": 1.0, "kl": 0.5}],
    "unclamped": {"own": 0.1},
    "useful": {"dose": 1.0, "own": 0.4},
    "useful_found": {"dose": None},
    "measured_on": {"prompts": 6, "rows": 16},
}
FULL = replace(
    PLAIN.with_doses(MEASURED),
    shown_by="useful",
    promoted=(" cats",),
    replay={"number": 1, "same": 4, "texts": 4},
)


@pytest.fixture
def run(tmp_path):
    return Run.create(str(tmp_path / "run"), RunSettings())


@pytest.mark.parametrize("kept", [PLAIN, FULL], ids=["plain", "with doses"])
def test_an_experiment_goes_through_json_and_back(kept):
    assert Experiment.from_dict(json.loads(json.dumps(kept.to_dict()))) == kept


def test_the_keys_of_json_are_those_that_scripts_read():
    assert list(PLAIN.to_dict()) == [
        "clamps", "values", "features", "also", "baseline", "clamped", "prompts", "seeds",
        "temperature", "tokens", "positions", "at", "resolved", "sae", "labels",
    ]  # fmt: skip
    added = list(FULL.to_dict())[len(PLAIN.to_dict()) :]
    assert added == [*MEASURED, "shown_by", "promoted", "replay"]
    assert PLAIN.to_dict()["labels"] == {"3": "plural nouns", "5": ""}
    assert PLAIN.to_dict()["resolved"][0] == {
        "feature": 3, "mode": "set", "value": 4.5, "relative": False,
    }  # fmt: skip
    assert set(ORDER) == {f.name for f in fields(Experiment)}


def test_experiments_are_numbered_and_read_back(run):
    assert save_experiment(run, PLAIN) == "clamps/0001.json"
    assert save_experiment(run, FULL) == "clamps/0002.json"
    assert experiments(run) == [replace(PLAIN, number=1), replace(FULL, number=2)]
    assert experiment(run, 2) == replace(FULL, number=2)
    with pytest.raises(UsageError, match="no clamp experiment 3; there are: 0001, 0002"):
        experiment(run, 3)


def test_an_experiment_that_is_kept_again_gets_a_number_of_its_own(run):
    save_experiment(run, PLAIN)
    save_experiment(run, experiment(run, 1))
    assert [kept.number for kept in experiments(run)] == [1, 2]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"colour": "red"}, "unknown key 'colour'"), ({"prompts": None}, "no 'prompts'")],
)
def test_a_file_that_is_no_experiment_is_an_error_that_names_it(run, change, told):
    save_experiment(run, PLAIN)
    path = run.path / "clamps" / "0001.json"
    table = {k: v for k, v in (PLAIN.to_dict() | change).items() if v is not None}
    path.write_text(json.dumps(table))
    with pytest.raises(UsageError, match=told) as raised:
        experiments(run)
    assert "0001.json" in raised.value.message


def test_reading_experiments_imports_no_torch():
    code = "import sys, core.clamps.experiments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

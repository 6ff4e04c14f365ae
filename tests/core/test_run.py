"""Units are whole or absent; keys chain; nothing that a person wrote is lost; one process at a
time.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest

from core.errors import NotReady, UsageError
from core.files import read_json, write_array, write_json
from core.run import Run, differences, run_path
from core.settings import (
    CaptureSettings,
    ParallelSettings,
    RunSettings,
    TrainSettings,
    from_table,
    key_table,
    setting,
)
from tests.support.tiny import Killed

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Knobs:
    size: int = setting(1, "decides what is written")
    speed: int = setting(1, "does not", in_key=False)


@pytest.fixture
def run(tmp_path):
    return Run.create(str(tmp_path / "run"), RunSettings(subject="s"))


def make(run, unit, content="x", inputs=(), version=1, size=1, **how):
    """Make `unit` as a stage does; None when there was nothing to do."""
    work = run.begin(unit, version, Knobs(size), list(inputs), **how)
    if work is None:
        return None
    write_json(work.folder / "content.json", content)
    return work.commit({"content": content})


def content(run, unit):
    return read_json(run.folder(unit) / "content.json")


# ---------------------------------------------------------------- keys and staleness


def test_a_unit_is_committed_with_the_hashes_of_its_files(run):
    assert run.state("capture") == "absent"
    manifest = make(run, "capture", "hello")
    assert run.state("capture") == "done"
    assert run.manifest("capture") == manifest == Run.open(str(run.path)).manifest("capture")
    assert manifest.files["content.json"]["bytes"] == len('"hello"\n')
    assert list(manifest.files) == ["content.json"]
    assert manifest.settings == {"size": 1}
    assert (
        not (run.path / "capture.partial").exists()
        and not (run.path / "capture" / "plan.json").exists()
    )


def test_a_second_begin_with_the_same_key_has_nothing_to_do(run):
    make(run, "capture")
    assert make(run, "capture", "y") is None
    assert run.begin("capture", 1, Knobs(speed=9), []) is None, (
        "what only changes the speed is not in the key"
    )
    assert content(run, "capture") == "x"


def test_keys_chain_over_inputs_settings_version_and_the_run(run, tmp_path):
    make(run, "capture")
    train = make(run, "train", inputs=["capture"])
    assert train.inputs == {"capture": run.manifest("capture").key}

    def key_of_train(name, subject="s", capture_size=1, **how):
        other = Run.create(str(tmp_path / name), RunSettings(subject=subject))
        make(other, "capture", size=capture_size)
        return make(other, "train", inputs=["capture"], **how).key

    assert key_of_train("same") == train.key
    others = {
        key_of_train("a", subject="t"),
        key_of_train("b", capture_size=2),
        key_of_train("c", version=2),
        key_of_train("d", size=2),
    }
    assert len(others | {train.key}) == 5


def test_other_settings_are_refused_with_a_list_of_what_changed(run):
    make(run, "capture")
    with pytest.raises(NotReady, match="size 1 -> 2") as caught:
        make(run, "capture", size=2)
    assert "--redo" in caught.value.next_step and caught.value.code == 3
    with pytest.raises(NotReady, match="version 1 -> 2"):
        make(run, "capture", version=2)
    assert content(run, "capture") == "x"


def test_what_follows_is_stale_after_an_input_was_made_anew(run):
    make(run, "capture")
    make(run, "train", inputs=["capture"])
    make(run, "index", inputs=["capture", "train"])
    make(run, "cluster", inputs=["train"])
    make(run, "title", inputs=["cluster"])
    make(run, "capture", "new", size=2, redo=True)
    assert [run.state(u) for u in ("capture", "train", "index", "cluster", "title")] == [
        "done",
        "stale",
        "stale",
        "stale",
        "stale",
    ]
    with pytest.raises(NotReady, match="train is stale") as caught:
        make(run, "index", inputs=["capture", "train"], redo=True)
    assert "train" in caught.value.next_step
    with pytest.raises(NotReady, match="capture was recomputed"):
        make(run, "train", inputs=["capture"])
    make(run, "train", inputs=["capture"], redo=True)
    assert [run.state(u) for u in ("train", "index", "cluster", "title")] == [
        "done",
        "stale",
        "stale",
        "stale",
    ]


def test_redo_with_the_same_key_leaves_nothing_stale(run):
    make(run, "capture")
    make(run, "train", inputs=["capture"])
    make(run, "capture", "again", redo=True)
    assert content(run, "capture") == "again" and run.state("train") == "done"


def test_a_missing_input_names_the_verb_to_run(run):
    with pytest.raises(NotReady, match="capture has not been made") as caught:
        make(run, "train", inputs=["capture"])
    assert "main.py capture" in caught.value.next_step
    with pytest.raises(NotReady) as caught:
        run.folder("label/rules")
    assert "main.py label" in caught.value.next_step and "--labels rules" in caught.value.next_step


# ---------------------------------------------------------------- interruptions


def test_a_partial_unit_does_not_exist_and_is_gone_on_with(run):
    work = run.begin("capture", 1, Knobs(), [])
    write_json(work.folder / "first.json", 1)
    assert (
        run.state("capture") == "partial" and run.find("capture") is None and run.committed() == []
    )
    assert run.begun_with("capture") == {"size": 1}
    again = run.begin("capture", 1, Knobs(speed=5), [])
    assert again.resumed and read_json(again.folder / "first.json") == 1
    assert set(again.commit({}).files) == {"first.json"}


@pytest.mark.parametrize("changed", [{"size": 2}, {"version": 2}])
def test_a_partial_unit_of_another_key_is_thrown_away(run, changed):
    write_json(run.begin("capture", 1, Knobs(), []).folder / "first.json", 1)
    work = run.begin("capture", changed.get("version", 1), Knobs(changed.get("size", 1)), [])
    assert not work.resumed and not (work.folder / "first.json").exists()


@pytest.mark.parametrize("old_exists", [False, True])
@pytest.mark.parametrize("nth", range(1, 8))
def test_a_kill_anywhere_in_a_commit_leaves_the_old_unit_or_the_new_one(
    run, monkeypatch, old_exists, nth
):
    """Each system call of a commit in turn is the one at which the process dies; afterwards the
    same command must end well.
    """
    import shutil

    if old_exists:
        make(run, "capture", "old")
        make(run, "capture", "older still in place", redo=True)
    work = run.begin("capture", 1, Knobs(2), [], redo=True)
    write_json(work.folder / "content.json", "new")
    calls = 0

    def dying(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth:
                if (
                    original is real_rmtree
                ):  # killed in the middle of it: some of the folder is still there
                    (Path(args[0]) / "manifest.json").unlink(missing_ok=True)
                raise Killed
            return original(*args, **kwargs)

        return call

    real_rmtree = shutil.rmtree
    with monkeypatch.context() as patch:
        for module, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(module, name, dying(getattr(module, name)))
        try:
            work.commit({})
        except Killed:
            pass
        else:
            assert calls < nth
    opened = Run.open(str(run.path))
    state = opened.state("capture")
    if state == "done":
        assert content(opened, "capture") in ("older still in place", "new")
    else:
        assert state == "partial" and not old_exists
        work = opened.begin("capture", 1, Knobs(2), [])
        assert work.resumed and read_json(work.folder / "content.json") == "new", (
            "what was done is gone on with"
        )
    assert opened.committed() == (["capture"] if state == "done" else [])
    for last in ("again", "and again"):
        work = opened.begin("capture", 1, Knobs(2), [], redo=True)
        write_json(work.folder / "content.json", last)
        work.commit({})
        assert content(opened, "capture") == last
    assert sorted(p.name for p in opened.path.iterdir()) == ["capture", "run.json"]


def test_the_old_unit_comes_back_when_the_new_one_never_took_its_place(run):
    make(run, "score/rules/simulation", "old")
    folder = run.path / "score" / "rules"
    os.replace(folder / "simulation", folder / "simulation.old")
    assert content(run, "score/rules/simulation") == "old"
    assert (
        run.committed() == ["score/rules/simulation"] and not (folder / "simulation.old").exists()
    )


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    with pytest.raises(ValueError, match="Object arrays"):
        write_array(tmp_path / "b.npy", __import__("numpy").array([{}, []], dtype=object))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# ---------------------------------------------------------------- what stays


def test_notes_replies_and_other_units_survive_a_redo(run):
    make(run, "capture")
    for unit in ("label/rules", "label/llm-x", "score/rules/simulation", "score/rules/detection"):
        make(run, unit, inputs=["capture"])
    (run.path / "notes.jsonl").write_text("mine\n")
    (run.path / "llm").mkdir()
    (run.path / "llm" / "replies.sqlite").write_text("paid")
    make(run, "label/rules", "new", inputs=["capture"], redo=True)
    make(run, "capture", "new", size=2, redo=True)
    assert (run.path / "notes.jsonl").read_text() == "mine\n" and (
        run.path / "llm" / "replies.sqlite"
    ).read_text() == "paid"
    assert run.committed() == [
        "capture",
        "label/llm-x",
        "label/rules",
        "score/rules/detection",
        "score/rules/simulation",
    ]
    assert content(run, "label/llm-x") == content(run, "score/rules/detection") == "x"
    assert content(run, "label/rules") == "new"


# ---------------------------------------------------------------- one process


HOLD = """
import sys
from core.run import Run
with Run.open(sys.argv[1]).locked("train"):
    print("held", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "die":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["well", "die"])
def test_a_second_process_is_told_who_holds_the_run_until_that_one_ends(run, end):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path), end],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                NotReady, match=rf"in use by process {holder.pid} \(train, since \d\d:\d\d:\d\d\)"
            ) as caught,
            run.locked("index"),
        ):
            pass
        assert caught.value.code == 3
    finally:
        holder.communicate("\n", timeout=30)
    with run.locked("index"):
        pass


# ---------------------------------------------------------------- runs and settings


def test_a_run_opens_as_it_was_made(run, tmp_path):
    assert Run.open(str(run.path)).settings == RunSettings(subject="s")
    assert Run.create(str(run.path), RunSettings(subject="s")).path == run.path
    with pytest.raises(NotReady, match="subject s -> t"):
        Run.create(str(run.path), RunSettings(subject="t"))


def test_a_run_that_is_not_there_is_told_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotReady, match="There are none yet"):
        Run.open("nowhere")
    Run.create("mine", RunSettings())
    with pytest.raises(NotReady, match="Runs here: mine"):
        Run.open("nowhere")
    assert Run.open("mine").name == "mine" and Run.open("mine").path == run_path("mine") == Path(
        "data/runs/mine"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"colour": "red"}, "no setting 'colour'"),
        ({"weights": "shaky"}, "weights is 'shaky'"),
        ({"format": 99}, "another version"),
    ],
)
def test_a_run_file_that_cannot_be_understood_is_an_error(run, change, told):
    table = read_json(run.path / "run.json") | change
    (run.path / "run.json").write_text(json.dumps(table))
    with pytest.raises(UsageError, match=told):
        Run.open(str(run.path))


def test_a_run_file_that_is_not_json_is_an_error(run):
    (run.path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        Run.open(str(run.path))


def test_settings_go_through_a_table_and_unknown_ones_are_errors():
    settings = TrainSettings(k=7, target_l0=20.0)
    assert from_table(TrainSettings, json.loads(json.dumps(asdict(settings)))) == settings
    with pytest.raises(UsageError, match="no setting 'kk'"):
        from_table(TrainSettings, {"kk": 1})
    with pytest.raises(UsageError, match="architecture is 'dense'"):
        from_table(TrainSettings, {"architecture": "dense"})


def test_what_only_changes_the_speed_is_not_in_the_key_and_all_else_is():
    outside = {
        name
        for kind in (RunSettings, CaptureSettings, TrainSettings)
        for name in asdict(kind()).keys() - key_table(kind()).keys()
    }
    optional = {
        "site_out",
        "skip",
        "bos",
    }  # in the key where they are given: older runs stay current
    engine = {field.name for field in fields(ParallelSettings)}
    assert outside == {"device", "batch_tokens", "trust_remote_code"} | engine | optional
    assert key_table(RunSettings(site_out="mlp_out.3"))["site_out"] == "mlp_out.3"
    assert key_table(TrainSettings(skip=True))["skip"] is True


def test_differences_lists_each_change():
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4}) == [
        "b 2 -> 5",
        "c 3 -> None",
        "d None -> 4",
    ]

"""The Python API: what it exports, and that a notebook can use it from anywhere."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import autointerp as ai
from core.errors import NotReady, UsageError

METHODS = [
    "capture",
    "train",
    "sweep",
    "evaluate",
    "index",
    "effects",
    "cluster",
    "label",
    "score",
    "title",
    "relate",
    "report",
    "run",
    "find",
    "note",
    "top",
    "why",
    "clamp",
    "replay",
    "map",
    "export",
]


def test_the_exported_names_are_there_and_documented():
    assert dir(ai) == sorted(ai.__all__)
    for name in ai.__all__:
        assert inspect.getdoc(getattr(ai, name)), name


def test_every_public_method_of_a_study_is_documented():
    for name in METHODS:
        assert inspect.getdoc(getattr(ai.Study, name)), name


def test_importing_it_loads_no_torch():
    code = "import sys, autointerp as ai; ai.open, ai.Study; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        ai.nothing_like_it  # noqa: B018


# ---------------------------------------------------------------- a study


@pytest.fixture
def study(job_copy):
    return ai.open(job_copy / "run" if (job_copy / "run").exists() else job_copy)


def test_a_run_that_is_not_there_is_an_error_with_a_next_step():
    with pytest.raises(NotReady, match="no run"):
        ai.open("no-such-run-anywhere")


def test_features_are_a_table_with_a_row_each(study):
    table = study.features
    assert {"feature", "label", "score", "null", "density", "cluster", "x", "y"} <= set(table)
    assert len(table) == study.known.postings.n_features


def test_a_feature_renders_in_a_notebook(study):
    card = study[3]
    assert card.feature == 3
    assert card._repr_html_().startswith("<")
    with pytest.raises(UsageError):
        study[10**6]


def test_a_stage_that_is_done_stays_as_it_was_made(study):
    made = study.run_directory.manifest("train")
    assert study.train() == made.summary
    with pytest.raises(NotReady, match="differs"):
        study.train(k=5)
    with pytest.raises(UsageError, match="no setting"):
        study.train(no_such_setting=1)


def test_missing_inputs_are_made_first(study):
    import shutil

    for unit in ("index", "effects", "cluster", "label", "score", "title", "relate", "report"):
        shutil.rmtree(study.path / unit)
    study.score(kind="simulation")
    assert study.run_directory.state("index") == "done"
    assert study.run_directory.state("label/rules") == "done"
    assert study.run_directory.find("cluster") is None


def test_the_features_of_a_text(study):
    top = study.top("a few words of text")
    assert top.activations.shape == (len(top.tokens), len(study.features))
    strongest = top.table.iloc[0]
    assert strongest["activation"] == pytest.approx(float(top.activations.max()))
    assert top.activations[strongest["position"], strongest["feature"]] == top.activations.max()
    same = study.top("a few words of text", against="a few words of text")
    assert not same.firings and not np.any(same.activations)


def test_why_the_next_token(study):
    found = study.why("a few words of text", top=2)
    whole = found.features + sum(found.errors) + found.bias + found.first + found.rest
    assert whole == pytest.approx(found.logit, abs=1e-3)
    assert {f.feature for f in found.firings} == set(
        study.top("a few words of text").table["feature"]
    )
    assert found.label(found.firings[0].feature) == study.known.label(found.firings[0].feature)
    assert [t.which for t in found.together] == ["strongest", "random", "all"]


def test_a_clamp_is_kept_with_and_without(study):
    feature = int(study.features.sort_values("density").iloc[-1]["feature"])
    texts = study.clamp({feature: "4x"}, "some words", tokens=4, samples=1)
    assert (study.path / texts.saved).exists()
    assert len(texts.baseline) == len(texts.clamped) == 1
    kept, again = study.replay(int(Path(texts.saved).stem))
    assert kept.clamped == again.clamped == texts.clamped
    dosed = texts.doses([0.5, 2])
    assert [row["dose"] for row in dosed.experiment.doses] == [0.5, 2.0]
    assert dosed.plot().axes


def test_a_note_becomes_a_label_set(study):
    study.note(3, '"word"')
    assert study.label("hand")["labels"] == 1
    assert 3 in study.find("word")["feature"].tolist()


def test_the_map_is_a_figure(study):
    assert study.map().axes


def test_it_exports(study, tmp_path):
    assert all(path.exists() for path in study.export(tmp_path / "csv", to="csv"))


# ---------------------------------------------------------------- without a run


def test_a_subject_and_an_sae_without_a_run(job, tmp_path, subject_folder):
    subject = ai.Subject.load(subject_folder, dtype="float32", device="cpu")
    sae = ai.SAE.load(job / "train")
    f = sae.encode(subject.read_text(sae.site, "a few words"))
    assert f.shape[1] == sae.n_features
    study = ai.open(job)
    expected = study.top("a few words").activations
    np.testing.assert_allclose(f.numpy(), expected, atol=1e-4)
    plain = subject.write("some words", 6)
    assert plain == subject.write("some words", 6, sae.clamp({}))
    feature = int(f.sum(0).argmax())
    assert isinstance(subject.write("some words", 6, sae.clamp({feature: 50.0})), str)
    sae.save(tmp_path / "out", layout="saelens")
    again = ai.SAE.load(tmp_path / "out")
    np.testing.assert_allclose(again.W_dec, sae.W_dec, atol=1e-6)
    with pytest.raises(UsageError, match="site is not known"):
        subject.read_text(None, "a few words")

"""A run that loads a published SAE, streamed from the subject, against the run that trained it and
stored its activations.
"""

import json

import numpy as np
import pytest

from tests.support.small_job import two_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(job, tmp_path_factory, call):
    """A second run about the same subject and corpus that loads the first one's SAE from its file."""
    path, settings = (
        tmp_path_factory.mktemp("published") / "run",
        json.loads((job / "run.json").read_text()),
    )
    words = (
        "--subject",
        settings["subject"],
        "--corpus",
        settings["corpus"],
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    code, out, err = call("new", path, *words, "--sae", job / "train")
    assert code == 0, err
    assert "at resid_post.1 of" in out and "capture" in out and "--context 32" in out
    assert call("capture", path, "--context", 32)[0] == 0
    code, out, err = call("run", path, "--no-controls")
    assert code == 0, err
    return path


def test_the_site_comes_from_the_sae_and_nothing_is_stored(published):
    assert json.loads((published / "run.json").read_text())["site"] == "resid_post.1"
    assert not list((published / "capture").glob("activations-*"))


def test_every_stage_comes_out_as_it_did_with_stored_activations(job, published, call):
    ours, theirs = (
        json.loads(call("status", path, "--json")[1])["stages"] for path in (published, job)
    )
    assert [(s["stage"], s["state"]) for s in ours] == [(s["stage"], "done") for s in theirs]
    summary = lambda stages, name: next(s["summary"] for s in stages if s["stage"] == name)
    for name in ("fvu", "l0", "ce_clean", "ce_spliced", "kl"):
        assert summary(ours, "evaluate")[name] == pytest.approx(
            summary(theirs, "evaluate")[name], rel=1e-3
        )
    assert summary(ours, "index")["firings"] == pytest.approx(
        summary(theirs, "index")["firings"], rel=1e-3
    )


def test_the_index_made_from_the_subject_is_the_one_made_from_the_store(job, published):
    for number in range(len(list((job / "index").glob("offsets-*")))):
        ours, theirs = (
            np.load(path / "index" / f"positions-{number:05d}.npy") for path in (published, job)
        )
        assert len(ours) == len(theirs) and (ours == theirs).mean() > 0.999
        np.testing.assert_allclose(
            *(
                np.load(path / "index" / f"firings-{number:05d}.npy").sum()
                for path in (published, job)
            ),
            rtol=1e-3,
        )


def test_features_of_a_loaded_sae_are_shown_searched_and_clamped(published, call):
    index = np.load(published / "index" / "offsets-00000.npy")
    feature = int(np.argmax(np.diff(index)))
    assert (
        call("show", published, feature)[0] == 0
        and call("text", published, "the cat sat on the mat")[0] == 0
    )
    code, out, err = call(
        "clamp", published, "--set", f"{feature}=3x", "--prompt", "the cat", "--tokens", 4, "--json"
    )
    assert code == 0 and json.loads(out)["clamped"], err


def test_training_flags_make_no_sense_there(published, call):
    code, _, err = call("train", published, "--k", 5, "--redo")
    assert code == 2 and "nothing to train" in two_lines(err)[0]


def test_an_sae_of_another_width_is_refused(job, tmp_path, call):
    settings = json.loads((job / "run.json").read_text())
    path = tmp_path / "run"
    words = (
        "--subject",
        settings["subject"],
        "--corpus",
        settings["corpus"],
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    assert (
        call(
            "new", path, *words, "--sae", job / "train", "--site", "transformer.h.1.mlp.act.output"
        )[0]
        == 0
    )
    assert call("capture", path, "--context", 32)[0] == 0
    code, _, err = call("train", path)
    assert code == 2 and "has 64" in two_lines(err)[0]


def test_several_runs_are_captured_by_one_command(job, tmp_path, call):
    settings = json.loads((job / "run.json").read_text())
    words = (
        "--subject",
        settings["subject"],
        "--corpus",
        settings["corpus"],
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    for name, site in (("a", "resid_post.1"), ("b", "mlp_out.2")):
        assert call("new", tmp_path / name, *words, "--site", site)[0] == 0
    code, _, err = call("capture", tmp_path / "a", "--also", tmp_path / "b", "--context", 32)
    assert code == 0, err
    manifests = [
        json.loads((tmp_path / name / "capture" / "manifest.json").read_text()) for name in "ab"
    ]
    assert (
        manifests[0]["files"].keys() == manifests[1]["files"].keys()
        and manifests[0]["key"] != manifests[1]["key"]
    )
    assert manifests[0]["files"]["ids.npy"] == manifests[1]["files"]["ids.npy"]
    assert manifests[0]["key"] == json.loads((job / "capture" / "manifest.json").read_text())["key"]

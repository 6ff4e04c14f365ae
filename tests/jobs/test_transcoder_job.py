"""Whole runs on transcoders through the command line: one in sparsify's layout, one trained here."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autointerp.study import open as ai_open
from core.activations.store import open_activations, open_targets
from core.run import Run
from core.saes import SAE
from core.subject.load import load_subject
from figures.explorer.live import live_calls
from tests.support.small_job import done
from tests.support.tiny import WIDTH, write_documents

pytestmark = pytest.mark.slow
FEATURES, K = 48, 4


def write_sparsify(folder):
    """A random transcoder as sparsify saves it, of the MLP of layer 1, and the run's config."""
    draw = torch.Generator().manual_seed(3)
    place = folder / "layers.1.mlp"
    place.mkdir(parents=True)
    tensors = {
        "encoder.weight": torch.randn(FEATURES, WIDTH, generator=draw),
        "encoder.bias": torch.randn(FEATURES, generator=draw) * 0.1,
        "W_dec": torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH, generator=draw), dim=1),
        "b_dec": torch.randn(WIDTH, generator=draw) * 0.1,
        "W_skip": torch.randn(WIDTH, WIDTH, generator=draw) * 0.1,
    }
    save_file(tensors, place / "sae.safetensors")
    config = {"activation": "topk", "k": K, "d_in": WIDTH, "num_latents": FEATURES, "transcode": True, "skip_connection": True}  # fmt: skip
    (place / "cfg.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model": "", "ctx_len": 32}))
    return place


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("texts"), n=120, words=40)


@pytest.fixture(scope="module")
def published(tmp_path_factory, call, texts, subject_folder):
    """The path of a run on the transcoder in sparsify's layout, every stage done."""
    root = tmp_path_factory.mktemp("transcoder")
    place, run = write_sparsify(root / "sae"), root / "run"
    new = ["--subject", subject_folder, "--corpus", texts, "--dtype", "float32", "--device", "cpu"]
    done(call("new", run, *new, "--sae", place))
    done(call("capture", run, "--context", 32))
    done(call("run", run))
    return run


def test_both_sites_come_from_the_sae(published):
    settings = Run.open(str(published)).settings
    assert (settings.site, settings.site_out) == ("mlp_in.1", "mlp_out.1")
    sae = SAE.load(published / "train")
    assert (str(sae.site_in), str(sae.site_out)) == ("mlp_in.1", "mlp_out.1")


def test_fvu_is_that_of_the_output_and_the_mlp_is_replaced(published):
    run = Run.open(str(published))
    summary = run.manifest("evaluate").summary
    subject, sae = load_subject(run), SAE.load(published / "train")
    x, y = open_activations(run, subject), open_targets(run, subject)
    tokens = np.arange(len(x))
    inputs, outputs = x.read(tokens).float(), y.read(tokens).float()
    error = (outputs - sae.reconstruct(inputs)).square().sum()
    whole = float(error / (outputs - outputs.mean(0)).square().sum())
    assert summary["fvu"] == pytest.approx(whole, rel=0.1)  # that of the test split
    assert 0 < summary["l0"] <= K
    assert summary["ce_spliced"] != summary["ce_clean"]


def test_every_verb_answers(published, call, tmp_path):
    for words in (
        ("show", published, 3),
        ("list", published),
        ("text", published, "the cat sat on the mat"),
        ("why", published, "the cat sat on the mat", "--top", 3, "--steps", 2, "--figure", tmp_path / "why.svg"),
        ("clamp", published, "--set", "3=5.0", "--prompt", "the cat", "--tokens", 4, "--samples", 1, "--logprobs", 3),
        ("export", published, "--to", "site", tmp_path / "site"),
        ("export", published, "--to", "csv", tmp_path / "csv"),
        ("status", published),
    ):  # fmt: skip
        code, out, err = call(*words)
        assert code == 0, (words, err)
        assert out
    panel = live_calls(ai_open(published)).why("the cat sat on", 1, "", 2)
    assert panel["site"] == "mlp_out.1" and len(panel["tokens"]) == 2
    assert "mlp_out.1" in (published / "report" / "report.md").read_text()


def test_a_clamp_writes_the_direction_at_the_output_of_the_mlp(published, call):
    """The clamped next-token table is that of an edit of mlp_out made by hand."""
    code, out, err = call(
        "clamp", published, "--set", "3=7.5", "--prompt", "the cat sat", "--tokens", 1,
        "--samples", 1, "--logprobs", 5, "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)["next_tokens"][0]["tokens"]
    run = Run.open(str(published))
    subject, sae = load_subject(run), SAE.load(published / "train")
    ids = torch.tensor([subject.prompt_tokens("the cat sat")])
    f = sae.encode(subject.read(sae.site_in, ids).float())[..., 3]

    def by_hand(hidden, editable):
        delta = (7.5 - f)[..., None] * sae.W_dec[3]
        return torch.where(editable[..., None], hidden.float() + delta, hidden.float())

    expected = subject.logits(ids, sae.site_out, by_hand)[0, -1].log_softmax(0)
    plain = subject.logits(ids)[0, -1].log_softmax(0)
    for row in rows:
        assert row["clamped"] == pytest.approx(float(expected[row["id"]]), abs=1e-4)
        assert row["baseline"] == pytest.approx(float(plain[row["id"]]), abs=1e-4)
    assert any(abs(row["clamped"] - row["baseline"]) > 0.01 for row in rows)


def test_what_has_no_meaning_says_so(published, call, tmp_path):
    code, _, err = call("export", published, "--to", "saelens", tmp_path / "saelens")
    assert code == 2 and "transcoder" in err and err.count("\n") == 2
    code, _, err = call("control", published, "--directions", "random")
    assert code == 2 and "transcoder" in err and err.count("\n") == 2


def test_a_run_of_one_site_refuses_a_transcoder(published, call, texts, subject_folder, tmp_path):
    sae = Run.open(str(published)).settings.sae
    new = ["--subject", subject_folder, "--corpus", texts, "--site", "mlp_out.1", "--sae", sae]
    code, _, err = call("new", tmp_path / "one", *new, "--site-out", "mlp_out.1")
    assert code == 2 and "reads and predicts" in err


def test_neurons_go_through_the_pipeline_beside_a_run(published, call, texts, subject_folder):
    """A control of one command: the same layer and text, exact but for the k that fire."""
    done(call("control", published, "--directions", "neurons"))
    run = Run.open(f"{published}-neurons")
    assert (run.settings.site, run.settings.site_out) == ("neurons.1", "mlp_out.1")
    assert run.find("score/rules/simulation") is not None
    done(call("evaluate", run.path, "--loss-tokens", 200))
    assert 0 < run.manifest("evaluate").summary["fvu"] < 1
    done(call("report", published, "--control", run.path, "--redo"))
    assert "MLP neurons of the same layer" in (published / "report" / "report.md").read_text()


@pytest.mark.parametrize("flags", [("--skip",), ("--architecture", "jumprelu")], ids=str)
def test_a_transcoder_is_trained_from_one_pass(call, texts, subject_folder, tmp_path, flags):
    """It explains more of the output than the mean does, and its run takes the stages."""
    run = tmp_path / "run"
    sites = ["--site", "mlp_in.1", "--site-out", "mlp_out.1"]
    new = ["--subject", subject_folder, "--corpus", texts, "--dtype", "float32", "--device", "cpu"]
    done(call("new", run, *new, *sites))
    done(call("capture", run, "--context", 32))
    small = ["--batch-size", 256, "--warmup", 5, "--check-every", 10, "--epochs", 12]
    done(call("train", run, "--expansion", 4, "--k", 4, *small, *flags))
    done(call("evaluate", run, "--loss-tokens", 200))
    opened = Run.open(str(run))
    summary = opened.manifest("evaluate").summary
    assert summary["fvu"] < 0.6
    sae = SAE.load(run / "train")
    assert sae.config.transcoder and sae.has_skip == ("--skip" in flags)
    assert opened.manifest("train").summary["val_fvu"] == pytest.approx(summary["fvu"], rel=0.35)
    x, y = open_activations(opened), open_targets(opened)
    subject = load_subject(opened)
    some = np.arange(40)
    assert x.width == y.width == WIDTH
    assert not torch.equal(x.read(some), y.read(some)) and subject.n_layers > 1


def test_one_layer_of_a_cross_layer_transcoder_is_labelled_and_scored(
    call, texts, subject_folder, tmp_path
):
    """What reads features alone works; what would need the other layers says so."""
    draw = torch.Generator().manual_seed(5)
    rand = lambda *shape: torch.randn(*shape, generator=draw)
    place = tmp_path / "clt"
    place.mkdir()
    four = {"W_enc_1": rand(24, WIDTH), "b_enc_1": rand(24) - 2, "b_dec_1": rand(WIDTH)}
    save_file(four, place / "W_enc_1.safetensors")
    save_file({"W_dec_1": rand(24, 2, WIDTH)}, place / "W_dec_1.safetensors")
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    (place / "config.yaml").write_text(hooks)
    run = tmp_path / "run"
    new = ["--subject", subject_folder, "--corpus", texts, "--dtype", "float32", "--device", "cpu"]
    done(call("new", run, *new, "--sae", place / "W_enc_1.safetensors"))
    done(call("capture", run, "--context", 32))
    for stage in ("train", "evaluate", "index", "effects", "label", "score", "report"):
        done(call(stage, run))
    opened = Run.open(str(run))
    assert "cross-layer" in opened.manifest("evaluate").summary["skipped"]
    assert opened.find("score/rules/simulation") is not None
    assert "was not evaluated" in (run / "report" / "report.md").read_text()
    for words in (("why", run, "the cat sat"), ("clamp", run, "--set", "3=1.0", "--prompt", "a b")):
        code, _, err = call(*words)
        assert code == 2 and "cross-layer" in err, err

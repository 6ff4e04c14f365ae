"""A run takes the subject, the site and the rows of the published SAE that it loads."""

import json

import pytest
import torch

import autointerp as ai
from core.errors import UsageError
from core.run import from_table
from core.saes import SAE, SAEConfig
from core.settings import RunSettings, key_table
from core.subject.load import load_subject
from core.text.tokens import Tokens
from tests.support.tiny import N_LAYERS, WIDTH, save_subject, write_documents


def published(folder, subject, bos, site="resid_post.1", layout="saelens"):
    """The folder of an SAE that says what it was trained on, in SAELens' layout or in ours."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (WIDTH, 24), "b_enc": (24,), "W_dec": (24, WIDTH), "b_dec": (WIDTH,)}
    tensors = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    sae = SAE(SAEConfig("topk", "topk", 3), tensors, ai.Site.parse(site), subject, 32)
    sae.bos = bos
    sae.save(folder, layout=layout)
    return str(folder)


@pytest.mark.parametrize(("layout", "bos"), [("saelens", False), ("own", False), ("saelens", True)])
def test_an_sae_says_whether_its_rows_began_with_bos(tmp_path, layout, bos):
    assert SAE.load(published(tmp_path, "gpt2", bos, layout=layout)).bos is bos


@pytest.mark.slow
def test_a_run_reads_what_its_sae_was_trained_on(tmp_path, bos=False):
    subject = save_subject(tmp_path / "subject", "llama")
    corpus = write_documents(tmp_path / "texts", n=8)
    sae = published(tmp_path / "sae", subject, bos)
    study = ai.new(tmp_path / "run", sae=sae, corpus=corpus, device="cpu", dtype="float32")
    about = study.run_directory.settings
    assert (about.subject, about.site, about.bos) == (subject, "resid_post.1", bos)
    study.make("capture", context=16)
    study.make("train")
    loaded, tokens = (
        load_subject(study.run_directory),
        Tokens(study.run_directory.folder("capture")),
    )
    assert loaded.bos is None
    assert loaded.prompt_tokens("the cat")[0] != loaded.tokenizer.bos_token_id
    room = 15  # tokens of a row of 16 that are kept: BOS, or the first token, is not
    assert (
        max(b - a for a, b in zip(tokens.row_offsets, tokens.row_offsets[1:], strict=False)) == room
    )
    assert study.run_directory.manifest("train").summary["bos"] is bos
    assert SAE.load(study.run_directory.folder("train")).bos is bos


def test_what_is_given_holds_and_a_difference_is_said(tmp_path, call):
    subject = save_subject(tmp_path / "subject", "llama")
    corpus = write_documents(tmp_path / "texts", n=4)
    sae = published(tmp_path / "sae", "google/gemma-2-2b", bos=False)
    words = ("--corpus", corpus, "--sae", sae)
    code, out, err = call("new", tmp_path / "a", *words, "--subject", subject)
    assert code == 0 and "24 features at resid_post.1 of google/gemma-2-2b" in out
    assert "in rows without BOS" in out and "--context 32" in out
    assert f"trained on google/gemma-2-2b, not on {subject}" in err
    settings = json.loads((tmp_path / "a/run.json").read_text())
    assert (settings["subject"], settings["bos"]) == (subject, False)
    code, _, err = call(
        "new", tmp_path / "b", *words, "--subject", subject, "--bos", "--site", "resid_pre.0"
    )
    assert code == 0 and "trained on rows without BOS" in err
    settings = json.loads((tmp_path / "b/run.json").read_text())
    assert (settings["site"], settings["bos"]) == ("resid_pre.0", True)
    plain = ("--corpus", corpus, "--subject", subject, "--site", "resid_post.1")
    assert call("new", tmp_path / "c", *plain, "--no-bos")[0] == 0
    assert json.loads((tmp_path / "c/run.json").read_text())["bos"] is False


def test_the_same_subject_under_another_name_is_not_warned_of(tmp_path, call):
    subject = save_subject(tmp_path / "pythia-70m", "gpt_neox")
    corpus = write_documents(tmp_path / "texts", n=4)
    sae = published(tmp_path / "sae", "EleutherAI/pythia-70m", bos=True)
    code, _, err = call(
        "new", tmp_path / "run", "--corpus", corpus, "--sae", sae, "--subject", subject
    )
    assert code == 0 and "warning" not in err


def test_a_site_beyond_the_saes_subject_is_refused(tmp_path):
    subject = save_subject(tmp_path / "subject", "llama")
    sae = published(tmp_path / "sae", subject, bos=True, site=f"resid_post.{N_LAYERS}")
    with pytest.raises(UsageError, match=f"has no site resid_post.{N_LAYERS}"):
        ai.new(tmp_path / "run", sae=sae, corpus="stdlib")
    assert not (tmp_path / "run").exists()


def test_an_sae_that_does_not_say_its_site_asks_for_one(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(WIDTH, 8, generator=draw), "b_enc": torch.zeros(8),
        "W_dec": torch.randn(8, WIDTH, generator=draw), "b_dec": torch.zeros(WIDTH),
    }  # fmt: skip
    SAE(SAEConfig("topk", "topk", 3), tensors).save(tmp_path / "sae")
    with pytest.raises(UsageError, match="does not say which site"):
        ai.new(tmp_path / "run", sae=str(tmp_path / "sae"), corpus="stdlib")


def test_runs_that_begin_with_bos_keep_their_keys():
    assert "bos" not in key_table(RunSettings())
    assert key_table(RunSettings(bos=False))["bos"] is False
    assert from_table(RunSettings, {}).bos  # a run that was made before the setting

"""What is saved, as SAELens or as our own file, loads again with the same numbers. That sae-lens
itself agrees: tests/fixtures/check_saelens.py."""

import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file

from core.errors import UsageError
from core.records import Site
from core.saes import SAE, SAEConfig

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
CASES = sorted(
    path.parent
    for path in FIXTURES.rglob("expected.safetensors")
    if path.parent.parent.name not in ("skip_connection", "transcoder", "saelens_transcoders")
)


@pytest.mark.parametrize(
    "folder", CASES, ids=[str(folder.relative_to(FIXTURES)) for folder in CASES]
)
def test_what_is_saved_as_saelens_or_as_our_own_loads_the_same(folder, tmp_path):
    x = load_file(folder / "expected.safetensors")["x"]
    published = SAE.load(folder)
    site, subject = published.site or Site("resid_post", layer=0), published.subject or "gpt2"
    sae = published.with_origin(site, subject, 64)
    sae.save(tmp_path / "own")
    if sae.config.activation == "groupmax":
        with pytest.raises(UsageError, match="groupmax"):
            sae.save(tmp_path / "saelens", layout="saelens")
    else:
        sae.save(tmp_path / "saelens", layout="saelens")
    for path in tmp_path.iterdir():
        again = SAE.load(path)
        torch.testing.assert_close(again.encode(x), published.encode(x), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            again.reconstruct(x), published.reconstruct(x), rtol=1e-6, atol=1e-6
        )
        assert (again.site, again.subject, again.context) == (site, subject, 64)


def test_an_sae_without_an_origin_is_saved_without_one(tmp_path):
    published = SAE.load(FIXTURES / "saelens/gated")
    sae = SAE(published.config, dict(published.state_dict()))
    sae.save(tmp_path)
    again = SAE.load(tmp_path)
    assert (again.site, again.subject, again.context) == (None, "", 0)
    assert again.config == sae.config
    assert again.source == f"our own, {tmp_path}"
    with pytest.raises(UsageError, match="which site it reads"):
        sae.save(tmp_path / "saelens", layout="saelens")


def test_a_layout_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no layout 'npz'"):
        SAE.load(FIXTURES / "saelens/gated").save(tmp_path, layout="npz")
    assert list(tmp_path.iterdir()) == []


def test_an_sae_with_another_origin_shares_its_tensors_and_leaves_the_first_as_it_was():
    sae = SAE.load(FIXTURES / "saelens/gated")
    before = (sae.site, sae.subject, sae.context)
    other = sae.with_origin(Site("mlp_out", layer=2), "mine", 7)
    assert (other.site, other.subject, other.context) == (Site("mlp_out", layer=2), "mine", 7)
    assert (sae.site, sae.subject, sae.context) == before
    assert other.W_dec.data_ptr() == sae.W_dec.data_ptr()


def test_saelens_has_no_name_for_the_input_of_a_module(tmp_path):
    sae = SAE.load(FIXTURES / "saelens/gated")
    reading = sae.with_origin(Site.parse("transformer.h.3.mlp.input"), "gpt2", 64)
    with pytest.raises(UsageError, match="no name for"):
        reading.save(tmp_path, layout="saelens")
    writing = sae.with_origin(Site.parse("transformer.h.3.mlp.output"), "gpt2", 64)
    writing.save(tmp_path, layout="saelens")
    assert str(SAE.load(tmp_path).site) == "transformer.h.3.mlp.output"


def test_a_centred_sae_tells_saelens_how_to_load_the_subject(tmp_path):
    tensors = dict(SAE.load(FIXTURES / "saelens/standard").state_dict())
    config = SAEConfig("standard", "relu", centred=True)
    sae = SAE(config, tensors, Site("resid_pre", layer=8), "gpt2", 128)
    sae.save(tmp_path, layout="saelens")
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert metadata["model_from_pretrained_kwargs"] == {"center_writing_weights": True}
    assert SAE.load(tmp_path).config.centred

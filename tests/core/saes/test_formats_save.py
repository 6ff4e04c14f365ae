"""What is saved, as SAELens or as our own file, loads again with the same numbers. That sae-lens itself agrees: tests/fixtures/check_saelens.py."""

import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file

from core.errors import UsageError
from core.records import Site
from core.saes import SAE, SAEConfig, load_sae, save_sae
from core.saes.formats import load_published
from core.saes.formats.saelens_save import save_saelens

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
CASES = sorted(
    path.parent
    for path in FIXTURES.rglob("expected.safetensors")
    if path.parent.parent.name not in ("skip_connection", "transcoder")
)


@pytest.mark.parametrize(
    "folder", CASES, ids=[str(folder.relative_to(FIXTURES)) for folder in CASES]
)
def test_what_is_saved_as_saelens_or_as_our_own_loads_the_same(folder, tmp_path):
    x = load_file(folder / "expected.safetensors")["x"]
    published = load_published(str(folder))
    site, subject = published.site or Site("resid_post", layer=0), published.subject or "gpt2"
    (tmp_path / "own").mkdir()
    save_sae(
        published.sae, tmp_path / "own", {"site": str(site), "subject": subject, "context": 64}
    )
    if published.sae.form.activation == "groupmax":
        with pytest.raises(UsageError, match="groupmax"):
            save_saelens(published.sae, tmp_path / "saelens", site, subject, 64)
    else:
        save_saelens(published.sae, tmp_path / "saelens", site, subject, 64)
    for path in tmp_path.iterdir():
        again = load_published(str(path))
        torch.testing.assert_close(
            again.sae.encode(x), published.sae.encode(x), rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(
            again.sae.reconstruct(x), published.sae.reconstruct(x), rtol=1e-6, atol=1e-6
        )
        assert (again.site, again.subject, again.context) == (site, subject, 64)


def test_our_own_file_says_nothing_more_than_it_was_told(tmp_path):
    sae = load_published(str(FIXTURES / "saelens/gated")).sae
    save_sae(sae, tmp_path)
    published = load_published(str(tmp_path))
    assert (published.site, published.subject, published.context) == (None, "", 0)
    assert load_sae(tmp_path).form == sae.form


def test_saelens_has_no_name_for_the_input_of_a_module(tmp_path):
    sae = load_published(str(FIXTURES / "saelens/gated")).sae
    with pytest.raises(UsageError, match="no name for"):
        save_saelens(sae, tmp_path, Site.parse("transformer.h.3.mlp.input"), "gpt2", 64)
    save_saelens(sae, tmp_path, Site.parse("transformer.h.3.mlp.output"), "gpt2", 64)
    assert str(load_published(str(tmp_path)).site) == "transformer.h.3.mlp.output"


def test_a_centred_sae_tells_saelens_how_to_load_the_subject(tmp_path):
    tensors = dict(load_published(str(FIXTURES / "saelens/standard")).sae.state_dict())
    save_saelens(
        SAE(SAEConfig("standard", "relu", centred=True), tensors),
        tmp_path,
        Site("resid_pre", layer=8),
        "gpt2",
        128,
    )
    assert json.loads((tmp_path / "cfg.json").read_text())["metadata"][
        "model_from_pretrained_kwargs"
    ] == {"center_writing_weights": True}
    assert load_published(str(tmp_path)).sae.form.centred

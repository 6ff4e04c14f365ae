"""Published SAEs against what their own libraries computed (tests/fixtures/make_*.py), and where
they belong."""

import json
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file

from core.errors import UsageError
from core.records import Site
from core.saes import SAE, SAEConfig
from core.saes.formats import saelens_releases
from core.saes.formats.names import hub_name, site_of_hook, site_of_module
from tests.support import published_numpy as by_hand

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
CASES = sorted(path.parent for path in FIXTURES.rglob("expected.safetensors"))


@pytest.mark.parametrize(
    "folder", CASES, ids=[str(folder.relative_to(FIXTURES)) for folder in CASES]
)
def test_encode_and_decode_are_the_librarys(folder):
    expected = load_file(folder / "expected.safetensors")
    sae = SAE.load(str(folder))
    f = sae.encode(expected["x"])
    assert (expected["f"] != 0).any() and (expected["f"] == 0).any()
    torch.testing.assert_close(f, expected["f"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        sae.decode(f, expected["x"]), expected["x_hat"], rtol=1e-5, atol=1e-5
    )


# ---------------------------------------------------------------- where they belong


@pytest.mark.parametrize(
    ("name", "site", "subject", "context", "told"),
    [
        ("saelens/standard", "resid_pre.3", "gpt2", 128, "SAELens (v6)"),
        ("saelens/standard_hook_z", "attn_z.5", "gpt2", 128, "SAELens (v6)"),
        ("saelens/flat_standard", "resid_post.6", "google/gemma-2b", 1024, "SAELens (flat)"),
        (
            "sparsify/topk/layers.5",
            "resid_post.5",
            "EleutherAI/pythia-160m",
            2048,
            "sparsify",
        ),
        (
            "sparsify/topk_sized_by_expansion/layers.5.mlp",
            "mlp_out.5",
            "EleutherAI/pythia-160m",
            2048,
            "sparsify",
        ),
        (
            "dictionary_learning/topk",
            "resid_post.8",
            "EleutherAI/pythia-70m-deduped",
            128,
            "dictionary_learning",
        ),
    ],
)
def test_the_files_say_where_an_sae_belongs(name, site, subject, context, told):
    published = SAE.load(str(FIXTURES / name))
    assert (str(published.site), published.subject, published.context) == (site, subject, context)
    assert published.source.startswith(told)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.8.hook_resid_pre", "resid_pre.8"),
        ("blocks.11.hook_resid_post", "resid_post.11"),
        ("blocks.0.hook_resid_mid", "resid_mid.0"),
        ("blocks.3.hook_mlp_out", "mlp_out.3"),
        ("blocks.3.hook_attn_out", "attn_out.3"),
        ("blocks.3.attn.hook_z", "attn_z.3"),
        ("model.layers.20.output", "model.layers.20.output"),
        ("model.layers.20.self_attn.o_proj.input", "model.layers.20.self_attn.o_proj.input"),
        ("model.layers.20", "model.layers.20.output"),
        ("blocks.3.hook_q", None),
        ("hook_embed", None),
        ("", None),
    ],
)
def test_names_of_hooks(hook, site):
    found = site_of_hook(hook)
    assert (found and str(found)) == site


def test_names_of_subjects_and_modules():
    assert (
        hub_name("gpt2-small") == "gpt2"
        and hub_name("gpt2-medium") == "gpt2-medium"
        and hub_name("pythia-70m-deduped") == "EleutherAI/pythia-70m-deduped"
    )
    assert (
        hub_name("gemma-2-2b") == "google/gemma-2-2b"
        and hub_name("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
    )
    assert (
        str(site_of_module("h.5")) == "resid_post.5"
        and str(site_of_module("gpt_neox.layers.5.mlp")) == "mlp_out.5"
    )
    assert site_of_module("embed_tokens") is None and site_of_module("layers.5.mlp.dense") is None
    norm = "model.layers.4.post_feedforward_layernorm.output"
    assert (
        str(site_of_hook("blocks.4.hook_mlp_out", "google/gemma-2-2b")) == norm
    )  # TransformerLens reads it behind the norm
    assert str(site_of_module("layers.4.mlp", "google/gemma-2-2b")) == "model.layers.4.mlp.output"


@pytest.mark.parametrize(
    ("trainer", "buffer", "site"),
    [
        ({"submodule_name": None}, {"io": "out"}, "resid_post.8"),
        ({"submodule_name": "mlp_out_layer_4"}, {}, "mlp_out.4"),
        ({"submodule_name": "attention_out_layer_4"}, {}, "attn_out.4"),
        (
            {"submodule_name": "gpt_neox.layers.2.mlp"},
            {"io": "out"},
            "gpt_neox.layers.2.mlp.output",
        ),
        ({"submodule_name": "gpt_neox.layers.2.mlp"}, {"io": "in"}, "gpt_neox.layers.2.mlp.input"),
        ({"submodule_name": None}, {"io": "in"}, None),
        ({"submodule_name": None, "layer": None}, {}, None),
    ],
)
def test_sites_of_dictionary_learning(copy, trainer, buffer, site):
    table = json.loads((FIXTURES / "dictionary_learning/topk/config.json").read_text())
    folder = copy(
        "dictionary_learning/topk",
        {"trainer": table["trainer"] | trainer, "buffer": buffer},
        "config.json",
    )
    found = SAE.load(str(folder)).site
    assert (found and str(found)) == site


# ---------------------------------------------------------------- centred releases, factors,
# finetuning


def standard_of(folder):
    return {
        name: tensor.double().numpy()
        for name, tensor in load_file(folder / "sae_weights.safetensors").items()
    }


def same(sae, expected, x):
    f = sae.encode(x)
    torch.testing.assert_close(f, torch.from_numpy(expected[0]).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        sae.decode(f, x), torch.from_numpy(expected[1]).float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "repo",
    [
        repo
        for repo, table in saelens_releases.OVERRIDES.items()
        if table is saelens_releases.CENTRED
    ],
)
def test_the_three_centred_releases_read_activations_less_their_mean(copy, monkeypatch, repo):
    """Known by their repository, through the hub and in its cache."""
    folder = copy(
        "saelens/flat_standard",
        {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre"},
    )
    x = load_file(folder / "expected.safetensors")["x"]
    cached = folder.parent / f"models--{repo.replace('/', '--')}/snapshots/abc"
    shutil.copytree(folder, cached / "blocks.8.hook_resid_pre")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *words, **more: str(cached))
    for spec in (
        f"hf:{repo}/blocks.8.hook_resid_pre",
        f"hf:{repo.lower()}/blocks.8.hook_resid_pre",
        str(cached / "blocks.8.hook_resid_pre"),
    ):
        published = SAE.load(spec)
        assert published.config.centred
        same(
            published,
            by_hand.standard(standard_of(folder), x.double().numpy(), centred=True),
            x,
        )
        same(
            published,
            tuple(
                part + (0, 3)[place]
                for place, part in enumerate(
                    by_hand.standard(standard_of(folder), x.double().numpy(), centred=True)
                )
            ),
            x + 3,
        )


def test_a_release_on_the_subject_as_it_is_and_one_that_nobody_knows(copy, monkeypatch):
    folder = copy("saelens/flat_standard", {"model_name": "gpt2-small"})
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *words, **more: str(folder))
    assert not SAE.load("hf:neuronpedia/gpt2-small__res_sce-ajt").config.centred
    with pytest.raises(UsageError, match="centred writing weights"):
        SAE.load("hf:somebody/a-copy-of-it")


def test_an_uncentred_gpt2_says_so(copy):
    kept = copy(
        "saelens/flat_standard",
        {
            "model_name": "gpt2-small",
            "model_from_pretrained_kwargs": {"center_writing_weights": False},
        },
    )
    assert not SAE.load(str(kept)).config.centred
    shutil.rmtree(kept)
    said = copy(
        "saelens/flat_standard",
        {
            "model_name": "gpt2-small",
            "model_from_pretrained_kwargs": {"center_writing_weights": True},
        },
    )
    assert SAE.load(str(said)).config.centred
    shutil.rmtree(said)
    rms = copy(
        "saelens/flat_standard",
        {
            "model_name": "gemma-2b",
            "model_from_pretrained_kwargs": {"center_writing_weights": True},
        },
    )
    assert not SAE.load(
        str(rms)
    ).config.centred  # an RMS norm does not remove the mean, so nothing was centred


def test_a_factor_is_found_in_the_settings_and_in_the_list_of_releases(copy, monkeypatch):
    table = json.loads((FIXTURES / "saelens/checkpoint_standard_scaled/cfg.json").read_text())
    folder = copy("saelens/checkpoint_standard_scaled", {"norm_scaling_factor": 0.45})
    (folder / "activation_scaler.json").unlink()
    expected = load_file(folder / "expected.safetensors")
    torch.testing.assert_close(
        SAE.load(str(folder)).encode(expected["x"]), expected["f"], rtol=1e-5, atol=1e-5
    )
    (folder / "cfg.json").write_text(json.dumps(table))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *words, **more: str(folder))
    monkeypatch.setitem(saelens_releases.FACTORS, "me/mine", {3: 0.45})
    torch.testing.assert_close(
        SAE.load("hf:me/mine").encode(expected["x"]), expected["f"], rtol=1e-5, atol=1e-5
    )


def test_a_finetuned_scaling_factor_belongs_to_the_decoder(copy):
    scaling = torch.linspace(0.5, 2, 11)
    folder = copy(
        "saelens/flat_standard", {"finetuning_scaling_factor": True}, scaling_factor=scaling
    )
    x = load_file(folder / "expected.safetensors")["x"]
    weights = standard_of(folder)
    weights["W_dec"] = weights["W_dec"] * scaling.double().numpy()[:, None]
    same(SAE.load(str(folder)), by_hand.standard(weights, x.double().numpy()), x)


# ---------------------------------------------------------------- edits


@pytest.mark.parametrize("activation", ["topk", "topk_signed", "relu", "jumprelu", "gated"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm"])
def test_an_edit_adds_the_difference_that_the_edited_features_make(norm, centred, activation):
    generator = torch.Generator().manual_seed(2)
    extras = {"jumprelu": ("threshold",), "gated": ("gate_scale", "gate_bias")}.get(activation, ())
    shapes = {"W_enc": (6, 11), "b_enc": (11,), "W_dec": (11, 6), "b_dec": (6,)} | dict.fromkeys(
        extras, (11,)
    )
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    sae = SAE(
        SAEConfig(activation, activation, 3 if "topk" in activation else 0, norm, centred=centred),
        tensors,
    )
    x = torch.randn(9, 6, generator=generator) * 2 + 0.5
    features, values = torch.tensor([1, 7]), torch.tensor([3.0, 0.0])
    f = sae.encode(x)
    edited = f.clone()
    edited[:, features] = values
    torch.testing.assert_close(
        sae.edit(x, features, values),
        sae.decode(edited, x) - sae.decode(f, x),
        rtol=1e-5,
        atol=1e-5,
    )


# ---------------------------------------------------------------- transcoders and skip connections


def test_a_transcoder_says_where_it_writes_and_refuses_what_needs_one_site(tmp_path):
    sae = SAE.load(FIXTURES / "sparsify" / "transcoder" / "layers.5.mlp")
    assert str(sae.site_in) == "mlp_in.5" and str(sae.site_out) == "mlp_out.5"
    assert sae.config.transcoder and not sae.config.subtract_b_dec
    sae.with_origin(Site("input", module="gpt_neox.layers.5.mlp"), "x", 64).save(tmp_path)
    again = SAE.load(tmp_path)
    assert (str(again.site_in), str(again.site_out)) == (
        "gpt_neox.layers.5.mlp.input",
        "mlp_out.5",
    )
    for refused in (lambda: again.clamp({1: 2.0}), lambda: again.save(tmp_path, "saelens")):
        with pytest.raises(UsageError, match="transcoder"):
            refused()


def test_a_transcoder_may_write_another_width_than_it_reads():
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    tensors = {
        "W_enc": draw(4, 9), "b_enc": draw(9), "W_dec": draw(9, 6), "b_dec": draw(6), "W_skip": draw(4, 6),
    }  # fmt: skip
    form = SAEConfig("x", "relu", subtract_b_dec=False, transcoder=True)
    sae, x = SAE(form, tensors), draw(3, 4)
    assert (sae.d_in, sae.d_out) == (4, 6)
    f = (x @ tensors["W_enc"] + tensors["b_enc"]).relu()
    y = f @ tensors["W_dec"] + tensors["b_dec"] + x @ tensors["W_skip"]
    torch.testing.assert_close(sae.reconstruct(x), y)
    with pytest.raises(ValueError, match="skip"):
        sae.decode(f)
    for wrong in ({"W_skip": draw(6, 4)}, {"b_dec": draw(4)}):
        with pytest.raises(UsageError, match="has shape"):
            SAE(form, tensors | wrong)
    with pytest.raises(UsageError, match="has shape"):
        SAE(SAEConfig("x", "relu", subtract_b_dec=False), tensors)
    with pytest.raises(UsageError, match="centres"):
        SAE(SAEConfig("x", "relu", transcoder=True), tensors)


def test_a_skip_connection_is_kept_and_leaves_clamps_as_they_are(tmp_path):
    sae = SAE.load(FIXTURES / "sparsify" / "skip_connection" / "layers.5.mlp")
    assert str(sae.site_in) == str(sae.site_out) == "mlp_out.5" and sae.has_skip
    sae.save(tmp_path)
    torch.testing.assert_close(SAE.load(tmp_path).W_skip, sae.W_skip)
    x = torch.randn(5, sae.d_in, generator=torch.Generator().manual_seed(0))
    f = sae.encode(x)
    wanted = f.index_fill(1, torch.tensor([2]), 3.0)
    delta = sae.edit(x, torch.tensor([2]), torch.tensor([3.0]))
    torch.testing.assert_close(delta, sae.decode(wanted, x) - sae.decode(f, x))
    with pytest.raises(UsageError, match="skip connection"):
        sae.save(tmp_path, "saelens")

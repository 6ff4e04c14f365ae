"""Transcoders in published layouts, against formulas written from their descriptions."""

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UsageError
from core.saes import SAE
from tests.core.conftest import FIXTURES

D, F, LAYERS, B = 6, 11, 4, 9


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


X = draw(B, D, seed=3) * 2 + 0.5
PLAIN = {"W_enc": draw(F, D), "b_enc": draw(F), "W_dec": draw(F, D, seed=1), "b_dec": draw(D)}
THRESHOLD = draw(F, seed=5).abs()
HOOKS = "model_name: gpt2\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"


def jumprelu(pre, threshold):
    return torch.where(pre > threshold, pre.relu(), 0.0)


def expect(sae, f, y):
    torch.testing.assert_close(sae.encode(X), f, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.decode(sae.encode(X), X), y, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- SAELens


@pytest.mark.parametrize("name", ["transcoder", "jumprelu_skip_transcoder"])
def test_a_transcoder_of_saelens_says_both_sites(name):
    sae = SAE.load(FIXTURES / "saelens_transcoders" / name)
    assert (str(sae.site_in), str(sae.site_out)) == ("mlp_in.3", "mlp_out.3")
    assert (sae.subject, sae.context, sae.d_in, sae.d_out) == ("gpt2", 128, 6, 5)
    assert sae.has_skip == ("skip" in name)


# ---------------------------------------------------------------- circuit-tracer


def save_layer(folder, tensors, config=HOOKS, name="layer_3"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / f"{name}.safetensors")
    if config:
        (folder / "config.yaml").write_text(config)
    return str(folder / f"{name}.safetensors")


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("threshold", [False, True])
def test_circuit_tracer_s_file_of_a_layer(tmp_path, skip, threshold):
    more = {"W_skip": draw(D, D)} if skip else {}
    more |= {"activation_function.threshold": THRESHOLD} if threshold else {}
    sae = SAE.load(save_layer(tmp_path, PLAIN | more))
    pre = X @ PLAIN["W_enc"].T + PLAIN["b_enc"]
    f = jumprelu(pre, THRESHOLD if threshold else torch.zeros(F))
    y = f @ PLAIN["W_dec"] + PLAIN["b_dec"]
    expect(sae, f, y + X @ more["W_skip"].T if skip else y)
    assert (str(sae.site_in), str(sae.site_out)) == ("mlp_in.3", "mlp_out.3")
    assert sae.subject == "gpt2"


def test_without_a_config_the_sites_are_not_known(tmp_path):
    sae = SAE.load(save_layer(tmp_path, PLAIN, config=""))
    assert (sae.site_in, sae.site_out, sae.subject) == (None, None, "")


@pytest.mark.parametrize(
    ("changes", "config", "told"),
    [
        ({"k": torch.tensor(4)}, HOOKS, "keeps negative pre-activations"),
        ({}, HOOKS + "activation: topk\n", "keeps negative pre-activations"),
        ({"gain": torch.ones(F)}, HOOKS, "gain"),
        ({"activation_function.threshold": -THRESHOLD}, HOOKS, "below 0"),
        ({"W_enc": draw(D, F)}, HOOKS, "both must be"),
        ({}, HOOKS.replace("mlp.hook_in", "ln2.hook_normalized"), "no site here"),
        ({}, "[1, 2]", "no table"),
        ({}, "a: [", "not YAML"),
    ],
)
def test_circuit_tracer_s_layout_refuses(tmp_path, changes, config, told):
    with pytest.raises(UsageError, match=told) as raised:
        SAE.load(save_layer(tmp_path, PLAIN | changes, config))
    assert str(raised.value).count("\n") == 1


def save_across(folder, decoder, threshold=True):
    four = {"W_enc_1": PLAIN["W_enc"], "b_enc_1": PLAIN["b_enc"], "b_dec_1": PLAIN["b_dec"]}
    path = save_layer(
        folder, four | ({"threshold_1": THRESHOLD} if threshold else {}), name="W_enc_1"
    )
    if decoder is not None:
        save_file({"W_dec_1": decoder}, folder / "W_dec_1.safetensors")
    return path


def test_one_layer_of_a_cross_layer_transcoder_encodes_and_decodes_nothing(tmp_path):
    decoder = draw(F, LAYERS - 1, D)
    sae = SAE.load(save_across(tmp_path, decoder))
    pre = X @ PLAIN["W_enc"].T + PLAIN["b_enc"]
    torch.testing.assert_close(sae.encode(X), jumprelu(pre, THRESHOLD), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.W_dec, decoder.sum(1))
    sae.save(tmp_path / "own")
    for made in (sae, SAE.load(tmp_path / "own")):
        with pytest.raises(UsageError, match="cross-layer"):
            made.reconstruct(X)
        with pytest.raises(UsageError, match="cross-layer"):
            made.editor(torch.tensor([1]))


@pytest.mark.parametrize(
    ("decoder", "told"), [(None, "W_dec_1.safetensors is missing"), (draw(F, D), "has shape")]
)
def test_a_cross_layer_transcoder_without_its_decoder_is_refused(tmp_path, decoder, told):
    with pytest.raises(UsageError, match=told):
        SAE.load(save_across(tmp_path, decoder))


# ---------------------------------------------------------------- Gemma Scope

PLACE = "gemma-scope-2b-pt-transcoders/layer_4/width_16k/average_l0_71"


def test_gemma_scope_1_reads_the_norm_s_input_and_scales_it(tmp_path):
    import numpy as np

    folder = tmp_path / PLACE
    folder.mkdir(parents=True)
    arrays = PLAIN | {"W_enc": PLAIN["W_enc"].T.contiguous(), "threshold": THRESHOLD}
    np.savez(folder / "params.npz", **{n: t.numpy() for n, t in arrays.items()})
    sae = SAE.load(folder)
    z = X / X.square().mean(1, keepdim=True).sqrt()
    f = jumprelu(z @ arrays["W_enc"] + PLAIN["b_enc"], THRESHOLD)
    expect(sae, f, f @ PLAIN["W_dec"] + PLAIN["b_dec"])
    assert str(sae.site_in) == "resid_mid.4" and sae.subject == "google/gemma-2-2b"
    assert str(sae.site_out) == "model.layers.4.post_feedforward_layernorm.output"
    change = sae.edit(X, torch.tensor([2]), torch.tensor([3.0]))
    torch.testing.assert_close(change, (3.0 - f[:, 2:3]) * PLAIN["W_dec"][2], rtol=1e-5, atol=1e-5)


def save_second(folder, tensors, name="params"):
    folder.mkdir(parents=True)
    renamed = {n.replace("W_", "w_"): t.contiguous() for n, t in tensors.items()}
    save_file(renamed, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2(tmp_path, affine):
    tensors = PLAIN | {"W_enc": PLAIN["W_enc"].T, "threshold": THRESHOLD}
    skip = draw(D, D)
    folder = tmp_path / "gemma-scope-2-1b-it" / "transcoder" / "layer_4_width_16k_l0_small"
    sae = SAE.load(
        save_second(folder, tensors | ({"affine_skip_connection": skip} if affine else {}))
    )
    f = jumprelu(X @ tensors["W_enc"] + PLAIN["b_enc"], THRESHOLD)
    y = f @ PLAIN["W_dec"] + PLAIN["b_dec"]
    expect(sae, f, y + X @ skip if affine else y)
    assert str(sae.site_in) == "model.layers.4.pre_feedforward_layernorm.output"
    assert str(sae.site_out) == "model.layers.4.post_feedforward_layernorm.output"
    assert sae.subject == "google/gemma-3-1b-it"


def test_gemma_scope_2_across_layers(tmp_path):
    decoder = draw(F, LAYERS, D)
    tensors = PLAIN | {"W_enc": PLAIN["W_enc"].T, "threshold": THRESHOLD, "W_dec": decoder}
    folder = tmp_path / "gemma-scope-2-1b-it" / "clt" / "width_16k_l0_small"
    sae = SAE.load(save_second(folder, tensors, "params_layer_4"))
    f = jumprelu(X @ tensors["W_enc"] + PLAIN["b_enc"], THRESHOLD)
    torch.testing.assert_close(sae.encode(X), f, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.W_dec, decoder.sum(1))
    assert sae.config.cross_layer and str(sae.site_in).startswith("model.layers.4.pre_feed")

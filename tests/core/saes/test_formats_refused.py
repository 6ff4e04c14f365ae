"""What would not mean here what its authors meant is refused with the reason."""

import json
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import UsageError
from core.saes import SAE

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"

# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("standard", {"architecture": "temporal"}, "'temporal'"),
        ("standard", {"architecture": "skip_transcoder"}, "b_dec off its input"),
        ("standard", {"architecture": "skip_transcoder", "apply_b_dec_to_input": False}, "disagree about a skip"),
        ("standard", {"architecture": "transcoder", "apply_b_dec_to_input": False,
                      "normalize_activations": "layer_norm"}, "'layer_norm'"),
        ("standard", {"architecture": "jumprelu"}, "threshold"),
        ("standard", {"normalize_activations": "zscore"}, "'zscore'"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "do not say by how much"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "activation_whitening.safetensors is missing"),
        ("standard", {"output_gain": 3.0}, "output_gain"),
        ("topk", {"k": None}, "do not say k"),
        ("topk", {"k": 12}, "k is 12"),
        ("flat_standard", {"hook_point_head_index": 3}, "one attention head"),
        ("flat_standard", {"activation_fn_str": "tanh-relu"}, "'tanh-relu'"),
        ("flat_standard", {"model_name": "gpt2-small"}, "centred writing weights"),
        ("standard_hook_z", {"metadata": {"sae_lens_version": "6.1.0", "hook_name": "blocks.5.attn.hook_z",
                                          "model_from_pretrained_kwargs": {"fold_value_biases": True}}}, "fold_value_biases"),
    ],
)  # fmt: skip
def test_saelens_refuses(copy, name, settings, told):
    with pytest.raises(UsageError, match=told):
        SAE.load(str(copy(f"saelens/{name}", settings)))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"W_gain": torch.ones(11)}, "W_gain"),
        ({"scaling_factor": torch.full((11,), 2.0)}, "scaling_factor"),
        ({"b_enc": torch.ones(10)}, "b_enc has shape"),
        ({"W_dec": torch.ones(11)}, "W_dec has shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(copy, tensors, told):
    with pytest.raises(UsageError, match=told):
        SAE.load(str(copy("saelens/standard", **tensors)))


def test_a_missing_tensor_or_setting_is_named(copy):
    folder = copy("saelens/standard")
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "W_dec"},
        folder / "sae_weights.safetensors",
    )
    with pytest.raises(UsageError, match="lacks .*W_dec"):
        SAE.load(str(folder))
    (folder / "cfg.json").unlink()
    with pytest.raises(UsageError, match="cfg.json is missing"):
        SAE.load(str(folder))
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(UsageError, match="no table"):
        SAE.load(str(folder))


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("skip_connection/layers.5.mlp", {"skip_connection": False}, "disagree about a skip"),
        ("topk/layers.5", {"skip_connection": True}, "disagree about a skip"),
        ("topk/layers.5", {"activation": "softmax"}, "softmax"),
        ("topk/layers.5", {"k": None}, "k is missing"),
        ("groupmax/layers.0", {"k": 5}, "divide"),
    ],
)
def test_sparsify_refuses(copy, name, settings, told):
    with pytest.raises(UsageError, match=told):
        SAE.load(str(copy(f"sparsify/{name}", settings)))


def test_sparsify_without_a_decoder_is_refused(copy):
    folder = copy("sparsify/topk/layers.5")
    weights = load_file(folder / "sae.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "W_dec"},
        folder / "sae.safetensors",
    )
    with pytest.raises(UsageError, match="without its decoder"):
        SAE.load(str(folder))


def test_dictionary_learning_refuses_to_guess_its_class(copy):
    for name in ("topk", "batchtopk"):
        folder = copy(f"dictionary_learning/{name}", file="config.json")
        (folder / "config.json").unlink()
        with pytest.raises(UsageError, match="same tensors"):
            SAE.load(str(folder))
    table = json.loads((FIXTURES / "dictionary_learning/gated/config.json").read_text())
    with pytest.raises(UsageError, match="'Later'"):
        SAE.load(
            str(
                copy(
                    "dictionary_learning/gated",
                    {"trainer": table["trainer"] | {"dict_class": "Later"}},
                    "config.json",
                )
            )
        )
    with pytest.raises(UsageError, match="k is .*3.* in the weights and 4"):
        table = json.loads((FIXTURES / "dictionary_learning/topk/config.json").read_text())
        shutil.rmtree(folder.parent / "topk")
        SAE.load(
            str(
                copy(
                    "dictionary_learning/topk",
                    {"trainer": table["trainer"] | {"k": 4}},
                    "config.json",
                )
            )
        )


@pytest.mark.parametrize("name", ["standard", "new", "gated", "matryoshka", "jumprelu"])
def test_dictionary_learning_without_settings_goes_by_its_tensors(copy, name):
    folder = copy(f"dictionary_learning/{name}", file="config.json")
    (folder / "config.json").unlink()
    expected = load_file(folder / "expected.safetensors")
    torch.testing.assert_close(
        SAE.load(str(folder)).encode(expected["x"]), expected["f"], rtol=1e-5, atol=1e-5
    )


def test_a_backup_without_the_scale_of_its_activations_is_refused(copy):
    folder = copy("dictionary_learning/backup_gated", file="config.json")
    saved = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(
        {key: value for key, value in saved.items() if key != "norm_factor"}, folder / "ae.pt"
    )
    with pytest.raises(UsageError, match="without norm_factor"):
        SAE.load(str(folder))

"""Layouts whose libraries are not at hand, against `published_numpy`: encode, decode, where they
belong, what is refused."""

import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import UsageError
from core.records import Site
from core.saes import SAE
from tests.support import published_numpy as by_hand

pytestmark = pytest.mark.numeric

D, F, K, B = 6, 11, 3, 9
SHAPES = {
    "W_enc": (D, F),
    "W_dec": (F, D),
    "encoder.weight": (F, D),
    "decoder.weight": (D, F),
    "encoder": (F, D),
    "decoder": (F, D),
}
WIDE = ("b_dec", "pre_bias", "decoder.bias", "center_trans")


def weights(*names, seed=0):
    """Random float32 arrays of those names; a threshold is positive."""
    generator = np.random.default_rng(seed)
    made = {
        name: generator.normal(size=SHAPES.get(name, (D,) if name in WIDE else (F,))).astype(
            np.float32
        )
        for name in names
    }
    return made | {name: abs(made[name]) * 0.5 for name in made if name == "threshold"}


def vectors():
    return (np.random.default_rng(9).normal(size=(B, D)) * 2 + 0.5).astype(np.float32)


def same(published, expected):
    """The SAE gives (f, x_hat) of the vectors, both within 1e-5, and some features fire while
    others do not."""
    f, x_hat = expected
    x = torch.from_numpy(vectors())
    mine = published.encode(x)
    assert (f != 0).any() and (f == 0).any()
    np.testing.assert_allclose(mine.numpy(), f, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(published.decode(mine, x).numpy(), x_hat, rtol=1e-5, atol=1e-5)


def doubles(arrays):
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) else value
        for name, value in arrays.items()
    }


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


X = vectors().astype(np.float64)


# ---------------------------------------------------------------- Gemma Scope

GEMMA = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def save_npz(folder, arrays):
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **arrays)
    return folder


@pytest.mark.parametrize(
    ("repo", "subject", "site"),
    [
        ("gemma-scope-2b-pt-res", "google/gemma-2-2b", "resid_post.20"),
        ("gemma-scope-9b-it-res", "google/gemma-2-9b-it", "resid_post.20"),
        ("gemma-scope-2b-pt-att", "google/gemma-2-2b", "attn_z.20"),
        (
            "gemma-scope-27b-pt-mlp",
            "google/gemma-2-27b",
            "model.layers.20.post_feedforward_layernorm.output",
        ),
        ("something-else", "", None),
    ],
)
def test_gemma_scope(tmp_path, repo, subject, site):
    arrays = weights(*GEMMA)
    published = SAE.load(
        str(save_npz(tmp_path / repo / "layer_20" / "width_16k" / "average_l0_71", arrays))
    )
    same(published, by_hand.gemma_scope(doubles(arrays), X))
    assert (
        published.subject == subject
        and published.site == (site and Site.parse(site))
        and published.context == 1024
    )


def test_gemma_scopes_embedding_reads_what_the_subject_scaled(tmp_path):
    arrays = weights(*GEMMA)
    published = SAE.load(
        str(
            save_npz(
                tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6",
                arrays,
            )
        )
    )
    same(published, by_hand.gemma_scope_embedding(doubles(arrays), X))
    assert str(published.site) == "resid_pre.0"


def save_second(folder, arrays, **settings):
    folder.mkdir(parents=True)
    save_file(
        {name.replace("W_", "w_"): tensor for name, tensor in tensors(arrays).items()},
        folder / "params.safetensors",
    )
    table = {
        "architecture": "jump_relu",
        "model_name": "gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.13.output",
    }
    (folder / "config.json").write_text(json.dumps(table | settings))
    return str(folder)


def test_gemma_scope_2(tmp_path):
    arrays = weights(*GEMMA)
    published = SAE.load(
        save_second(tmp_path / "resid_post" / "layer_13_width_16k_l0_small", arrays)
    )
    same(published, by_hand.gemma_scope(doubles(arrays), X))
    assert (str(published.site), published.subject) == (
        "model.layers.13.output",
        "google/gemma-3-1b-pt",
    )
    attention = SAE.load(
        save_second(
            tmp_path / "attn_out" / "layer_13",
            arrays,
            hf_hook_point_in="model.layers.13.self_attn.o_proj.input",
        )
    )
    assert attention.site == Site("input", module="model.layers.13.self_attn.o_proj")


def test_gemma_scope_2_without_settings_goes_by_its_names(tmp_path):
    folder = save_second(
        tmp_path / "gemma-scope-2-270m-pt" / "attn_out_all" / "layer_3_width_16k", weights(*GEMMA)
    )
    (
        tmp_path / "gemma-scope-2-270m-pt" / "attn_out_all" / "layer_3_width_16k" / "config.json"
    ).unlink()
    published = SAE.load(folder)
    assert (str(published.site), published.subject) == ("attn_z.3", "google/gemma-3-270m")


@pytest.mark.parametrize(
    ("place", "changes", "settings", "told"),
    [
        (
            "resid_post/layer_3",
            {"affine_skip_connection": np.eye(D, dtype=np.float32)},
            {},
            "bypasses the features",
        ),
        ("resid_post/layer_3", {}, {"affine_connection": True}, "bypasses the features"),
        ("transcoder/layer_3", {}, {"affine_connection": True}, "disagree about a skip"),
        ("clt/layer_3", {}, {}, "cross-layer transcoder"),
        ("resid_post/layer_3", {"w_dec": np.ones((F, 2, D), np.float32)}, {}, "cross-layer"),
        ("resid_post/layer_3", {}, {"architecture": "topk"}, "no JumpReLU"),
        ("resid_post/layer_3", {"gain": np.ones(F, np.float32)}, {}, "gain"),
        ("resid_post/layer_3", {"b_enc": np.ones(F - 1, np.float32)}, {}, "b_enc has shape"),
    ],
)
def test_gemma_scope_refuses(tmp_path, place, changes, settings, told):
    arrays = {name.replace("W_", "w_"): array for name, array in weights(*GEMMA).items()} | changes
    with pytest.raises(UsageError, match=told):
        SAE.load(save_second(tmp_path / place, arrays, **settings))


# ---------------------------------------------------------------- OpenAI

OPENAI = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")


def save_openai(path, arrays, **extra):
    path.parent.mkdir(parents=True, exist_ok=True)
    statistics = {
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
        "latents_activation_frequency": torch.ones(F),
        "latents_mean_square": torch.ones(F),
    }
    torch.save(tensors(arrays) | statistics | extra, path)
    return str(path)


@pytest.mark.parametrize(
    ("location", "layer", "site"),
    [
        ("resid_delta_attn_v5_32k", 3, "attn_out.3"),
        ("resid_delta_mlp_v5_128k", 11, "mlp_out.11"),
        ("resid_post_mlp_v5_32k", 8, "resid_post.8"),
        ("resid_post_attn_v5_32k", 8, "resid_mid.8"),
    ],
)
def test_openais_topk(tmp_path, location, layer, site):
    arrays = weights(*OPENAI)
    path = tmp_path / location / "autoencoders" / f"{layer}.pt"
    published = SAE.load(
        save_openai(
            path, arrays, activation="TopK", activation_state_dict={"k": K, "postact_fn": "ReLU"}
        )
    )
    same(published, by_hand.openai(doubles(arrays), X, K))
    assert str(published.site) == site and (published.subject, published.context) == ("gpt2", 64)


def test_openais_relu(tmp_path):
    arrays = weights(*OPENAI)
    published = SAE.load(
        save_openai(tmp_path / "mlp_post_act" / "autoencoders" / "0.pt", arrays, activation="ReLU")
    )
    same(published, by_hand.openai(doubles(arrays), X, 0))
    assert str(published.site) == "transformer.h.0.mlp.act.output"


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "Identity"}},
            "Identity",
        ),
        ({"activation": "TopK", "activation_state_dict": {"postact_fn": "ReLU"}}, "not known"),
        ({"activation": "GELU"}, "GELU"),
        ({"W_skip": torch.eye(D)}, "W_skip"),
    ],
)
def test_openai_refuses(tmp_path, extra, told):
    with pytest.raises(UsageError, match=told):
        SAE.load(save_openai(tmp_path / "8.pt", weights(*OPENAI), **extra))


# ---------------------------------------------------------------- Cunningham et al.


@pytest.fixture
def authors(monkeypatch):
    """A module by the name of the authors' with classes that tell when one of them is built:
    unpickling must never do that."""
    module = types.ModuleType("autoencoders.learned_dict")
    built = []
    for name in ("TiedSAE", "UntiedSAE", "ReverseSAE"):
        kind = type(
            name,
            (),
            {
                "__module__": module.__name__,
                "__setstate__": lambda self, state: built.append(type(self).__name__),
            },
        )
        setattr(module, name, kind)
    monkeypatch.setitem(sys.modules, "autoencoders", types.ModuleType("autoencoders"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.built = built
    return module


def learned(authors, name, fields):
    made = object.__new__(getattr(authors, name))
    made.__dict__.update(
        {
            key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for key, value in fields.items()
        }
    )
    return made


def tied_fields(normalised=True):
    generator = np.random.default_rng(4)
    rotation = np.linalg.qr(generator.normal(size=(D, D)))[0].astype(np.float32)
    scale = (1 + generator.random(D)).astype(np.float32)
    sizes = {"n_feats": F, "activation_size": D}
    return (
        weights("encoder", "encoder_bias", "center_trans")
        | {"center_rot": rotation, "center_scale": scale, "norm_encoder": normalised}
        | sizes
    )


@pytest.mark.parametrize("normalised", [True, False])
def test_a_tied_dictionary_with_centring(tmp_path, authors, normalised):
    fields = tied_fields(normalised)
    path = tmp_path / "tied_residual_l2_r4" / "learned_dicts.pt"
    path.parent.mkdir()
    torch.save([(learned(authors, "TiedSAE", fields), {"l1_alpha": 1e-3, "dict_size": F})], path)
    published = SAE.load(str(path))
    same(published, by_hand.learned_dict(doubles(fields), X, tied=True))
    assert str(published.site) == "resid_post.2" and not authors.built


def test_tied_and_untied_dictionaries_without_centring(tmp_path, authors):
    tied = weights("encoder", "encoder_bias", seed=1) | {"norm_encoder": True}
    untied = weights("encoder", "decoder", "encoder_bias", seed=2)
    path = tmp_path / "learned_dicts.pt"
    torch.save(
        [
            (learned(authors, "TiedSAE", tied), {"l1_alpha": 0.001}),
            (learned(authors, "UntiedSAE", untied), {"l1_alpha": 0.003}),
        ],
        path,
    )
    same(SAE.load(f"{path}#0"), by_hand.learned_dict(doubles(tied), X, tied=True))
    same(SAE.load(f"{path}#1"), by_hand.learned_dict(doubles(untied), X, tied=False))
    with pytest.raises(UsageError, match="#1 l1_alpha=0.003"):
        SAE.load(str(path))
    with pytest.raises(UsageError, match="2 dictionaries"):
        SAE.load(f"{path}#2")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda a: [(learned(a, "ReverseSAE", tied_fields()), {})], "ReverseSAE"),
        (
            lambda a: [
                (
                    learned(
                        a,
                        "TiedSAE",
                        {k: v for k, v in tied_fields().items() if k != "norm_encoder"},
                    ),
                    {},
                )
            ],
            "norm_encoder",
        ),
        (
            lambda a: [
                (
                    learned(
                        a,
                        "TiedSAE",
                        {k: v for k, v in tied_fields().items() if k != "center_scale"},
                    ),
                    {},
                )
            ],
            "centring",
        ),
        (lambda a: [(learned(a, "UntiedSAE", weights("encoder", "encoder_bias")), {})], "decoder"),
        (lambda a: {"W_enc": torch.ones(1)}, "no list of dictionaries"),
        (lambda a: [], "no list of dictionaries"),
    ],
    ids=[
        "another class",
        "no norm_encoder",
        "part of the centring",
        "no decoder",
        "a table",
        "empty",
    ],
)
def test_learned_dictionaries_refuse(tmp_path, authors, content, told):
    torch.save(content(authors), tmp_path / "learned_dicts.pt")
    with pytest.raises(UsageError, match=told):
        SAE.load(str(tmp_path))
    assert not authors.built


# ---------------------------------------------------------------- the smaller ones

LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def linear_as_standard(arrays):
    return {
        "W_enc": arrays["encoder.weight"].T,
        "b_enc": arrays["encoder.bias"],
        "W_dec": arrays["decoder.weight"].T,
        "b_dec": arrays["decoder.bias"],
    }


def test_goodfire_and_deepseek(tmp_path):
    arrays = weights(*LINEAR)
    expected = by_hand.standard(doubles(linear_as_standard(arrays)), X, subtract=False)
    goodfire, deepseek = (
        tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth",
        tmp_path / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
    )
    torch.save(
        {name.replace(".", "_linear."): tensor for name, tensor in tensors(arrays).items()},
        goodfire,
    )
    torch.save(tensors(arrays), deepseek)
    for path, subject in (
        (goodfire, "meta-llama/Llama-3.1-8B-Instruct"),
        (deepseek, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
    ):
        published = SAE.load(str(path))
        same(published, expected)
        assert (published.subject, str(published.site)) == (subject, "resid_post.19")


def save_llama_scope(folder, arrays, **changes):
    (folder / "checkpoints").mkdir(parents=True)
    save_file(tensors(arrays), folder / "checkpoints" / "final.safetensors")
    hook = "blocks.7.hook_resid_post"
    table = {
        "jump_relu_threshold": 0.6,
        "dataset_average_activation_norm": {"in": 4.0, "out": 4.0},
        "hook_point_in": hook,
        "hook_point_out": hook,
        "d_model": D,
    }
    (folder / "hyperparams.json").write_text(json.dumps(table | changes))
    return str(folder)


def test_llama_scope(tmp_path):
    arrays = weights(*LINEAR)
    published = SAE.load(save_llama_scope(tmp_path / "L7R", arrays))
    same(published, by_hand.llama_scope(doubles(arrays), X, 0.6, 4.0))
    assert (published.subject, str(published.site)) == ("meta-llama/Llama-3.1-8B", "resid_post.7")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hook_point_out": "blocks.7.hook_mlp_out"}, "transcoder"),
        ({"dataset_average_activation_norm": {}}, "norm of its activations"),
        ({"act_fn": "topk"}, "JumpReLU"),
        ({"apply_decoder_bias_to_pre_encoder": True}, "JumpReLU"),
    ],
)
def test_llama_scope_refuses(tmp_path, changes, told):
    with pytest.raises(UsageError, match=told):
        SAE.load(save_llama_scope(tmp_path / "L7R", weights(*LINEAR), **changes))


def test_llama_scopes_distilled_successors_need_their_scale(tmp_path):
    arrays = weights(*LINEAR, "log_jumprelu_threshold")
    save_file(tensors(arrays), tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"hook_point_in": "blocks.7.hook_resid_post"}))
    with pytest.raises(UsageError, match="do not say by how much"):
        SAE.load(str(tmp_path))
    (tmp_path / "config.json").write_text(
        json.dumps({"hook_point_in": "blocks.7.hook_resid_post", "norm_scaling_factor": 0.4})
    )
    norm = np.sqrt(D) / 0.4
    wide = doubles(arrays)
    same(
        SAE.load(str(tmp_path)),
        by_hand.llama_scope(wide, X, np.exp(wide["log_jumprelu_threshold"]) / 0.4, norm),
    )


def test_qwen_scope_and_hook_z(tmp_path):
    arrays = weights("W_enc", "b_enc", "W_dec", "b_dec")
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
    folder.mkdir()
    torch.save(
        tensors(arrays | {"W_enc": arrays["W_enc"].T.copy(), "W_dec": arrays["W_dec"].T.copy()}),
        folder / "layer4.sae.pt",
    )
    qwen = SAE.load(str(folder))
    wide = doubles(arrays)
    f = by_hand.keep_largest(X @ wide["W_enc"] + wide["b_enc"], 3)
    same(qwen, (f, f @ wide["W_dec"] + wide["b_dec"]))
    assert (qwen.subject, str(qwen.site)) == ("Qwen/Qwen3-1.7B-Base", "resid_post.4")

    torch.save(tensors(arrays), tmp_path / "gpt2-small_L5_Hcat_z.pt")
    with pytest.raises(UsageError, match="fit several kinds"):
        SAE.load(str(tmp_path / "gpt2-small_L5_Hcat_z.pt"))
    (tmp_path / "gpt2-small_L5_Hcat_z_cfg.json").write_text(
        json.dumps({"act_name": "blocks.5.attn.hook_z", "act_size": D, "dict_size": F})
    )
    kissane = SAE.load(str(tmp_path / "gpt2-small_L5_Hcat_z.pt"))
    same(kissane, by_hand.standard(wide, X))
    assert str(kissane.site) == "attn_z.5"
    (folder / "layer4.sae.pt").rename(tmp_path / "layer4.sae.pt")
    with pytest.raises(UsageError, match="k stands only in its repository's name"):
        SAE.load(str(tmp_path / "layer4.sae.pt"))


def test_sparsifys_old_signed_kind(tmp_path):
    arrays = weights("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    save_file(tensors(arrays), tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(
        json.dumps({"k": K, "num_latents": 0, "expansion_factor": 32, "signed": True, "d_in": D})
    )
    published = SAE.load(str(tmp_path))
    same(published, by_hand.signed_topk(doubles(arrays), X, K))
    assert (published.encode(torch.from_numpy(vectors())) < 0).any()


# ---------------------------------------------------------------- nothing in a file is run


class Bomb:
    """Unpickling it plainly makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def pickled(path, value):
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("name", ["ae.pt", "learned_dicts.pt", "model.pth", "8.pt"])
@pytest.mark.parametrize(
    "write", [lambda path, value: torch.save(value, path), pickled], ids=["zip", "bare pickle"]
)
@pytest.mark.parametrize(
    "wrap",
    [lambda bomb: bomb, lambda bomb: {"encoder.weight": bomb}, lambda bomb: [(bomb, {})]],
    ids=["alone", "table", "list"],
)
def test_a_malicious_file_is_refused_and_nothing_happens(tmp_path, name, write, wrap):
    trace = tmp_path / "trace"
    write(tmp_path / name, wrap(Bomb(trace)))
    with pytest.raises(UsageError, match="holds more than tensors|cannot be read"):
        SAE.load(str(tmp_path / name))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists(), "the bomb is real: a plain unpickler runs it"


def test_an_array_of_objects_is_refused(tmp_path):
    trace = tmp_path / "trace"
    np.savez(
        tmp_path / "params.npz", W_enc=np.array([Bomb(trace)], dtype=object), allow_pickle=True
    )
    with pytest.raises(UsageError, match="cannot be read"):
        SAE.load(str(tmp_path))
    assert not trace.exists()

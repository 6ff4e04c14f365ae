"""What a folder with a subject may hold besides whole weights of the right names."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import UsageError
from core.records import Site
from core.subject.sites import check_site, find_module
from core.subject.subject import Subject
from core.subject.weights import check_names, find_wrappers


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """Folders of a gpt2 (tied) and a llama, as save_pretrained leaves them."""
    folder = tmp_path_factory.mktemp("subjects")
    for family in ("gpt2", "llama"):
        tiny.tiny_model(family).save_pretrained(folder / family)
        tiny.byte_level_tokenizer().save_pretrained(folder / family)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A function that copies a subject, with the names or the values of its weights changed."""

    def make(family, rename=None, drop=(), config=None):
        folder = tmp_path / family
        folder.mkdir()
        for path in (saved / family).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        weights = load_file(folder / "model.safetensors")
        weights = {(rename or str)(k): v for k, v in weights.items() if k not in drop}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        table = json.loads((folder / "config.json").read_text()) | (config or {})
        (folder / "config.json").write_text(json.dumps(table))
        return folder

    return make


def load(folder):
    return Subject.load(str(folder), device="cpu", dtype="float32")


def refused(folder, *said):
    with pytest.raises(UsageError) as raised:
        load(folder)
    assert str(raised.value).count("\n") == 1, "two lines"
    for text in said:
        assert text in str(raised.value)


def within(part, depth):
    """Puts a wrapper's part in front of the first `depth` parts of a name, as FSDP does."""

    def rename(name):
        parts = name.split(".")
        return ".".join([*(f"{part}.{p}" for p in parts[:depth]), *parts[depth:]])

    return rename


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("said", "rename"),
    [
        ("_orig_mod.", lambda name: "_orig_mod." + name),
        ("module.", lambda name: "module." + name),
        ("base_model.model.", lambda name: "base_model.model." + name),
        ("_orig_mod. module.", lambda name: "module._orig_mod." + name),
        ("student.net.", lambda name: "student.net." + name),
        ("_fsdp_wrapped_module.", within("_fsdp_wrapped_module", 3)),
        ("_checkpoint_wrapped_module. model.", lambda name: "model."
            + within("_checkpoint_wrapped_module", 2)(name)),
    ],
)  # fmt: skip
def test_what_wrappers_leave_in_names_is_left_out_and_said(
    family, said, rename, saved, copy, capsys
):
    wrapped = load(copy(family, rename))
    plain = load(saved / family)
    for (name, ours), (other, theirs) in zip(
        wrapped.model.named_parameters(), plain.model.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(ours, theirs), name
    told = capsys.readouterr().err
    assert "names of the weights hold" in told and said in told


def test_whole_weights_load_in_silence(saved, capsys):
    load(saved / "gpt2")
    assert "weights" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rename", "drop"),
    [
        (lambda name: "other." + name, ()),
        (lambda name: name.replace("mlp", "ffn"), ()),
        (None, ("model.layers.1.mlp.up_proj.weight",)),
        (None, ("lm_head.weight",)),
    ],
)
def test_a_weight_that_is_not_in_the_file_is_refused_by_name(rename, drop, copy):
    refused(copy("llama", rename, drop), "not in its file", drop[0] if drop else "model.layers")


def test_a_wrong_model_type_is_refused(copy):
    refused(copy("llama", config={"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))


def test_other_shapes_are_refused(copy):
    refused(copy("llama", config={"intermediate_size": 52}))


def test_an_adapter_that_is_not_merged_is_refused():
    info = {"missing_keys": [], "unexpected_keys": ["model.layers.0.q_proj.lora_A.weight"]}
    with pytest.raises(UsageError, match="adapter"):
        check_names("x", info)


@pytest.mark.parametrize(
    ("missing", "unexpected", "wrappers"),
    [
        ("a b", "module._orig_mod.a module._orig_mod.b", (["_orig_mod"], "module.")),
        ("a b", "module.a b", ([], "")),
        ("a b", "module.a other.b", ([], "")),
        ("a b", "other.a other.b", ([], "")),
        ("a b tied", "model.net.a model.net.b", ([], "model.net.")),
        ("a", "xa", ([], "")),
        ("a", "", ([], "")),
        ("", "module.a", ([], "")),
        ("layers.0.w", "base_model.model.layers.0.w extra", ([], "base_model.model.")),
    ],
)
def test_wrappers_are_what_makes_every_name_fit(missing, unexpected, wrappers):
    assert find_wrappers(missing.split(), unexpected.split()) == wrappers


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_pointer_instead_of_any_file_is_said(name, copy):
    folder = copy("llama")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 9")
    refused(folder, name, "Git LFS", "git lfs pull")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
@pytest.mark.parametrize("text", ["", "{", "<!DOCTYPE html><html>Sign in</html>", "[1, 2]", "null"])
def test_a_damaged_file_beside_the_weights_is_two_lines(name, text, copy):
    folder = copy("llama")
    (folder / name).write_text(text)
    refused(folder, "cannot be loaded")


def test_a_pointer_instead_of_weights_is_said(copy):
    folder = copy("llama")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9")
    refused(folder, "Git LFS", "git lfs pull")


@pytest.mark.parametrize("left", [0, 5, 200, -1])
def test_weights_that_are_cut_off_are_said(left, copy):
    folder = copy("llama")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:left])
    refused(folder, "not whole", "Download")


def test_a_missing_shard_is_said(copy):
    folder = copy("llama")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "model-1.safetensors")


def test_a_header_that_is_no_json_is_said(copy):
    folder = copy("llama")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"not json" + b"0" * 80)
    refused(folder, "model.safetensors")


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("gptq", "gptqmodel"),
        ("awq", "gptqmodel"),
        ("bitsandbytes", "bitsandbytes"),
        ("aqlm", "aqlm"),
    ],
)
def test_a_quantised_subject_says_what_to_install(method, package, copy):
    table = {"quant_method": method, "bits": 4, "group_size": 8, "load_in_4bit": True}
    refused(copy("llama", config={"quantization_config": table}), "quantised", package)


def test_code_of_a_checkpoint_is_never_asked_about(copy, monkeypatch):
    folder = copy("llama", config={"model_type": "own", "auto_map": {
        "AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}})  # fmt: skip
    (folder / "code.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    refused(folder, "--trust-remote-code")


# --- sites, before anything is loaded ---


def test_a_site_that_is_there_is_accepted(saved):
    for text in ("resid_post.1", "model.layers.1.mlp.output"):
        check_site(str(saved / "llama"), "", Site.parse(text))
    check_site("somebody/never-downloaded", "", Site.parse("resid_post.99"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("resid_post.99", "layers 0 to"), ("model.layers.0.nothing.output", "no module")],
)
def test_a_site_that_is_not_there_is_refused(text, said, saved):
    with pytest.raises(UsageError, match=said):
        check_site(str(saved / "llama"), "", Site.parse(text))


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
OWN_CODE = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}


@pytest.mark.parametrize(
    ("config", "text", "said"),
    [
        ({"model_type": "gemma3", "text_config": SMALL}, "resid_post.3", "layers 0 to 2"),
        ({"model_type": "x", "llm_config": SMALL, **OWN_CODE}, "resid_post.3", "layers 0 to 2"),
        ({"model_type": "x", "language_config": SMALL, **OWN_CODE}, "mlp_in.9", "layers 0 to 2"),
        (
            {"model_type": "x", "thinker_config": {"text_config": SMALL}, **OWN_CODE},
            "resid_post.3",
            "layers 0 to 2",
        ),
        ({"model_type": "phi", **SMALL}, "resid_mid.1", "parallel"),
        ({"model_type": "mixtral", **SMALL}, "neurons.0", "neurons.0"),
        ({"model_type": "t5", "num_layers": 3}, "resid_post.1", "does not load as a causal"),
        ({"model_type": "martian", **SMALL}, "resid_post.1", "does not load as a causal"),
        ({"model_type": "martian", **SMALL}, "model.layers.1.output", "does not load as a causal"),
        (SMALL, "resid_post.1", "does not load as a causal"),
        ([1, 2], "resid_post.1", "damaged"),
        ("{bad", "resid_post.1", "damaged"),
        ("", "model.layers.1.output", "damaged"),
    ],
)
def test_a_site_of_no_config_is_refused_when_the_run_is_made(tmp_path, config, text, said):
    written = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(UsageError, match=said):
        check_site(str(tmp_path), "", Site.parse(text))


def test_a_site_of_a_known_config_is_taken(tmp_path):
    for config in (
        {"model_type": "gemma3", "text_config": SMALL},
        {"model_type": "x", **SMALL, **OWN_CODE},
        {"model_type": "falcon", **SMALL},
        {"model_type": "llama", **SMALL, "text_config": None},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        check_site(str(tmp_path), "", Site.parse("resid_post.2"))


def test_the_text_model_within_a_multimodal_one_is_found():
    inner = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    nested = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"language_model": inner})})
    plain = torch.nn.ModuleDict({"model": inner})
    for model in (nested, plain):
        for path in ("model.layers.0", "model.language_model.layers.0"):
            assert find_module(model, path) is inner["layers"][0]
    with pytest.raises(AttributeError):
        find_module(plain, "model.layers.1")

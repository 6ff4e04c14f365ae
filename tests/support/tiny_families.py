"""A tiny model of every causal LM of the installed transformers, made from its config alone."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

N_LAYERS, WIDTH, VOCABULARY = 4, 32, 320
LARGEST = 20_000_000  # parameters of a model that is called tiny
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "lru_width"), WIDTH),
    **dict.fromkeys(("word_embed_proj_dim", "dim_model", "emb_dim"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), N_LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_decoder_layers"), N_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "dim_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    **dict.fromkeys(("state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim"), 8),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_head_dim", "sliding_window"), 16),
    "num_key_value_heads": 2,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "rotary_dim": 4,
    "hidden_size_per_layer_input": 8,
    "is_decoder": True,  # a BERT reads to the left alone
    "causal": True,  # as XLM calls it
}
# What else a config needs to be small and whole; None leaves a size of SIZES at its default
ALSO: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cpmant": {"dim_head": 8, "prompt_types": 2, "prompt_length": 2, "segment_types": 2},
    "ctrl": {"dff": 48},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}, "rope_parameters": None},
    "dots3_note_text": {
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8,
        "swa_qk_rope_head_dim": 8, "swa_v_head_dim": 8, "head_dim": 16, "index_n_heads": 2,
        "index_head_dim": 16, "index_topk": 8, "shared_experts_intermediate_size": 24,
    },
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 1, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 6},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"ffn_hidden_size": 48, "expert_ffn_hidden_size": 24, "zero_expert_num": 2, "moe_topk": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "minimax": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
        "indexer_compress_ratio": 2, "hc_lowrank": 8, "num_key_value_heads": 2,
    },
    "reformer": {
        "axial_pos_embds": False, "attn_layers": ["local"] * N_LAYERS, "attention_head_size": 8,
        "local_attn_chunk_length": 16,
    },
    "roc_bert": {"shape_vocab_size": 32, "pronunciation_vocab_size": 32},
    "xlm": {"emb_dim": WIDTH},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 8, "mamba_headdim": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip


class NotTiny(Exception):
    """The config of the architecture has no tiny form; says why."""


def family_names() -> list[str]:
    """Every model type that transformers loads as a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """The config of a tiny model; raises whatever the library raises for it."""
    return AutoConfig.for_model(model_type, **_sizes(AutoConfig.for_model(model_type)))


def _sizes(config: Any) -> dict[str, Any]:
    """What makes `config` small: SIZES that it knows, those of the configs within it, and ALSO."""
    known = {*inspect.signature(type(config).__init__).parameters, *vars(config)}
    sizes = {key: value for key, value in SIZES.items() if key in known}
    if "kv_lora_rank" in sizes:  # latent attention has no fewer keys than queries
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    for key, inner in vars(config).items():
        if hasattr(inner, "model_type"):
            sizes[key] = {"model_type": inner.model_type} | _sizes(inner)
    return sizes | ALSO.get(config.model_type, {})


def make_tiny(model_type: str) -> nn.Module:
    """An untrained model whose weights are all far from their usual starts; float32, on the CPU.

    Raises NotTiny for one of over LARGEST parameters.
    """
    config = tiny_config(model_type)
    with torch.device("meta"):
        size = sum(p.numel() for p in _build(config).parameters())
    if size > LARGEST:
        raise NotTiny(f"its smallest config here has {size // 10**6} million parameters")
    torch.manual_seed(7)
    model = _build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.normal_(0.1 if parameter.dim() == 1 else 0.0, 0.2)
    # without what some libraries' defaults add, such as beams, a last token or a ban on repeats
    model.generation_config = GenerationConfig(eos_token_id=0, bos_token_id=0, pad_token_id=0)
    return model.float().eval()


def _build(config: Any) -> Any:
    try:
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except ValueError as error:
        if "attn_implementation" not in str(error) and "eager" not in str(error):
            raise
        return AutoModelForCausalLM.from_config(config)

"""Tiny models of every causal LM of the installed transformers, and what works with each.

python -m tests.support.every_family [NAME ...]
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from core.errors import UsageError
from core.records import NAMED_SITES, Site
from core.subject.subject import Subject
from tests.support.tiny import byte_level_tokenizer

COLUMNS = ("family", "reads", "sites", "final norm", "generates", "why")
N_LAYERS, WIDTH, VOCABULARY = 4, 32, 320
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "n_embd": WIDTH,
    "d_model": WIDTH,
    "embedding_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "n_layer": N_LAYERS,
    "n_layers": N_LAYERS,
    "num_layers": N_LAYERS,
    "decoder_layers": N_LAYERS,
    "encoder_layers": N_LAYERS,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "n_inner": 48,
    "ffn_dim": 48,
    "ffn_hidden_size": 48,
    "decoder_ffn_dim": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "qk_head_dim": 16,
    "rotary_dim": 4,
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "lru_width": WIDTH,
    "sliding_window": 16,
}


# encoders, decoders of translators, and models of other than text or without a tiny config
UNSUITED = {
    "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot",
    "blenderbot-small", "blt", "camembert", "data2vec-text", "electra", "ernie", "fuyu", "git",
    "got_ocr2", "marian", "mbart", "megatron-bert", "moshi", "musicgen", "musicgen_melody", "mvp",
    "pegasus", "plbart", "prophetnet", "reformer", "rembert", "roberta", "roberta-prelayernorm",
    "roc_bert", "roformer", "speech_to_text_2", "trocr", "whisper", "xlm", "xlm-prophetnet",
    "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "csm", "zamba", "zamba2", "cpmant",
}  # fmt: skip


def family_names() -> list[str]:
    """Every model type that transformers loads as a causal language model."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - UNSUITED)


def make_tiny(model_type: str) -> nn.Module:
    """An untrained model whose weights are all far from their usual starts; float32, on the CPU."""
    kind = type(AutoConfig.for_model(model_type))
    known = {*inspect.signature(kind.__init__).parameters, *vars(AutoConfig.for_model(model_type))}
    sizes = {k: v for k, v in SMALL.items() if k in known}
    if "kv_lora_rank" in sizes:  # latent attention has no fewer keys than queries
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    config = AutoConfig.for_model(model_type, **sizes)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.normal_(0.1 if parameter.dim() == 1 else 0.0, 0.2)
    return model.float().eval()


def try_family(model_type: str) -> dict[str, str]:
    """How a tiny model of this type does, one entry for each of COLUMNS."""
    row = dict.fromkeys(COLUMNS, "no")
    row["family"] = model_type
    try:
        model = make_tiny(model_type)
        subject = Subject(model, byte_level_tokenizer())
        subject.n_vocabulary = VOCABULARY
        row["reads"] = "yes" if reads_as_the_model(subject) else "no"
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the reason
        return row | {"why": reason(error)}
    sites, why = named_sites(subject)
    row |= {"sites": sites or "no", "final norm": subject.final_norm or "no"}
    try:
        row["generates"] = "yes" if generates_as_the_model(subject) else "no"
    except Exception as error:  # noqa: BLE001
        why = why or reason(error)
    return row | {"why": why}


def reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:90]}"


def reads_as_the_model(subject: Subject) -> bool:
    """Whether what enters and leaves layers is what the model calls its hidden states."""
    tokens = torch.tensor([[5, 9, 11, 3, 17, 8]])
    sites = [Site("resid_pre", layer=n) for n in range(N_LAYERS)]
    with torch.inference_mode():
        states = subject.model(
            input_ids=tokens, use_cache=False, output_hidden_states=True
        ).hidden_states
    read = subject.read_sites([*sites, Site("resid_post", layer=0)], tokens)
    return all(
        torch.allclose(r, s, atol=1e-4) for r, s in zip(read[:-1], states[:N_LAYERS], strict=True)
    ) and (torch.allclose(read[-1], states[1], atol=1e-4))


def named_sites(subject: Subject) -> tuple[str, str]:
    """(the sites that every layer has, why others are missing)."""
    tokens = torch.tensor([[5, 9, 11, 3, 17, 8]])
    had, why = [], ""
    for kind in NAMED_SITES:
        try:
            for layer in range(N_LAYERS):
                subject.read(Site(kind, layer=layer), tokens)
            had.append(kind)
        except UsageError as error:
            why = why or str(error).splitlines()[0]
        except Exception as error:  # noqa: BLE001
            why = why or reason(error)
    return ", ".join(had), why


def generates_as_the_model(subject: Subject) -> bool:
    """Whether greedy text is that of the library's own `generate`, with its end."""
    site = Site("resid_pre", layer=0)
    ours = subject.generate(["a b c"], 8, site, temperature=0.0)[0].tokens
    ids = torch.tensor([subject.prompt_tokens("a b c")])
    theirs = subject.model.generate(
        ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids)
    )[0].tolist()
    return ours == theirs


def main() -> None:
    for name in sys.argv[1:] or family_names():
        print(json.dumps(try_family(name)), flush=True)


if __name__ == "__main__":
    main()

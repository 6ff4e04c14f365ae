"""Say where the sites of each known architecture are. Those of others `discover` finds.

The definitions are the same for every family. resid_pre and resid_post are the input and the
output of a layer. attn_out and mlp_out are what its two halves write to the residual stream, so
after a post-norm where there is one. resid_mid is the stream between the halves. attn_z is the
input of attention's output projection, with the heads concatenated. A layer whose halves run in
parallel has no resid_mid. mlp_in is the MLP's input as the module sees it, so after the norm in
front of it; neurons is the input of its output projection, after the activation function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.errors import UsageError
from core.records import Site


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture.

    `layer` has {} in the place of the layer's number. The paths of attention, MLP and `middle` are
    relative to the layer; `final_norm` is not.
    """

    layer: str
    attn: str  # its output is attn_out
    attn_projection: str  # its input is attn_z
    mlp: str  # its output is mlp_out
    middle: str | None  # its input is resid_mid
    final_norm: str
    mlp_in: str = ""  # its input is mlp_in; "" where it is not known
    neurons: str = ""  # its input is neurons; "" where there are none, or they are not known

    def path(self, site: Site) -> tuple[str, str]:
        """(module path, "input" or "output") of a named site; raises UsageError without one."""
        if not self.layer:
            raise UsageError(
                "The layers of this architecture could not be found.",
                "Give a module path and a side, such as model.layers.3.output.",
            )
        layer = self.layer.format(site.layer)
        if site.kind == "resid_mid" and self.middle is None and self.attn:
            raise UsageError(
                "Attention and MLP run in parallel here, so there is no resid_mid.",
                "Use resid_pre, resid_post, attn_out or mlp_out.",
            )
        if site.kind in ("mlp_in", "neurons") and not getattr(self, site.kind):
            raise UsageError(
                f"Where the MLP's {'input' if site.kind == 'mlp_in' else 'own neurons'} of this "
                f"architecture are is not known, so there is no {site}.",
                "Give a module path and a side, such as model.layers.3.mlp.input.",
            )
        if site.kind in ("attn_out", "attn_z", "mlp_out", "resid_mid") and not self.attn:
            raise UsageError(
                f"The halves of layer {site.layer} could not be told apart, so there is no {site}.",
                "Use resid_pre or resid_post, or a module path and a side.",
            )
        return {
            "resid_pre": (layer, "input"),
            "resid_mid": (f"{layer}.{self.middle}", "input"),
            "resid_post": (layer, "output"),
            "attn_out": (f"{layer}.{self.attn}", "output"),
            "attn_z": (f"{layer}.{self.attn_projection}", "input"),
            "mlp_in": (f"{layer}.{self.mlp_in}", "input"),
            "mlp_out": (f"{layer}.{self.mlp}", "output"),
            "neurons": (f"{layer}.{self.neurons}", "input"),
        }[site.kind]


_GPT2 = Family(
    "transformer.h.{}",
    "attn",
    "attn.c_proj",
    "mlp",
    "ln_2",
    "transformer.ln_f",
    "mlp",
    "mlp.c_proj",
)
_LLAMA = Family(
    "model.layers.{}",
    "self_attn",
    "self_attn.o_proj",
    "mlp",
    "post_attention_layernorm",
    "model.norm",
    "mlp",
    "mlp.down_proj",
)
_GEMMA2 = replace(
    _LLAMA,
    attn="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    middle="pre_feedforward_layernorm",
)
FAMILIES = {
    "gpt2": _GPT2,
    "gpt_neo": replace(_GPT2, attn_projection="attn.attention.out_proj"),
    "gpt_neox": Family(
        "gpt_neox.layers.{}",
        "attention",
        "attention.dense",
        "mlp",
        None,
        "gpt_neox.final_layer_norm",
        "mlp",
        "mlp.dense_4h_to_h",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": replace(_LLAMA, neurons=""),  # every expert has its own
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": replace(
        _GEMMA2, layer="model.language_model.layers.{}", final_norm="model.language_model.norm"
    ),
    "phi": Family(
        "model.layers.{}",
        "self_attn",
        "self_attn.dense",
        "mlp",
        None,
        "model.final_layernorm",
        "mlp",
        "mlp.fc2",
    ),
    "phi3": _LLAMA,
    "opt": Family(
        "model.decoder.layers.{}",
        "self_attn",
        "self_attn.out_proj",
        "fc2",
        "final_layer_norm",
        "model.decoder.final_layer_norm",
        "fc1",
        "fc2",
    ),
    # Bloom's attention and MLP add the residual stream themselves, so what they write to it is the
    # output of their last matrix
    "bloom": Family(
        "transformer.h.{}",
        "self_attention.dense",
        "self_attention.dense",
        "mlp.dense_4h_to_h",
        "post_attention_layernorm",
        "transformer.ln_f",
        "mlp",
        "mlp.dense_4h_to_h",
    ),
}

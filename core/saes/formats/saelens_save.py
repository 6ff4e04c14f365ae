"""Saves an SAE in the layout of SAELens 6: cfg.json and sae_weights.safetensors, as its `SAE.load_from_disk` reads them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from core.errors import UsageError
from core.files import write_json, write_tensors
from core.records import Site
from core.saes.formats.names import HOOKS
from core.saes.sae import SAE

VERSION = "6.54.12"  # of the layout; below 6 the settings would be read as flat ones
ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "topk_signed": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm": "constant_norm_rescale"}
GATED = {"b_enc": "b_gate", "gate_bias": "b_mag"}


def save_saelens(
    sae: SAE, folder: Path, site: Site, subject: str, context: int, prepend_bos: bool = True
) -> None:
    """Write `sae`, which reads `site` of `subject` in rows of `context` tokens, into `folder`.

    Raises UsageError for what SAELens has no place for: groups of features of which one fires, and the input of a module.
    """
    form = sae.form
    if form.activation not in ARCHITECTURES:
        raise UsageError(
            f"SAELens has no SAE with activation {form.activation!r}.",
            "Keep it in this program's own sae.safetensors.",
        )
    config = {
        "architecture": ARCHITECTURES[form.activation], "d_in": sae.d_in, "d_sae": sae.n_features, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": form.subtract_b_dec, "normalize_activations": NORMS[form.norm],
        "reshape_activations": "hook_z" if site.kind == "attn_z" else "none",
        "metadata": _place(site, subject) | {"context_size": context, "prepend_bos": prepend_bos, "sae_lens_version": VERSION, "original_architecture": form.name},
    }  # fmt: skip
    if form.centred:
        config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    if form.activation in ("topk", "topk_signed"):
        config |= {"k": form.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "sae_weights.safetensors", _tensors(sae), {})
    write_json(folder / "cfg.json", config)


def _tensors(sae: SAE) -> dict[str, Tensor]:
    tensors = dict(sae.state_dict())
    if sae.form.activation == "gated":
        tensors["r_mag"] = tensors.pop("gate_scale").log()
        tensors = {GATED.get(name, name): tensor for name, tensor in tensors.items()}
    return tensors


def _place(site: Site, subject: str) -> dict:
    """A named site as the hook of TransformerLens, a module's output as the module of the Hugging Face model."""
    hooks = {kind: hook for hook, kind in HOOKS.items()}
    if site.kind in hooks:
        return {
            "model_name": subject,
            "model_class_name": "HookedTransformer",
            "hook_name": f"blocks.{site.layer}.{hooks[site.kind]}",
        }
    if site.kind == "output":
        return {
            "model_name": subject,
            "model_class_name": "AutoModelForCausalLM",
            "hook_name": site.module,
            "hf_hook_name": str(site),
        }
    raise UsageError(
        f"SAELens has no name for {site}.", "It reads named sites and the outputs of modules."
    )

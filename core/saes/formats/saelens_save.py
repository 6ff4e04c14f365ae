"""Save an SAE in the layout of SAELens 6, as its `SAE.load_from_disk` reads it.

The files are cfg.json and sae_weights.safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import UsageError
from core.files import write_json, write_tensors
from core.records import Site
from core.saes.formats.names import HOOKS
from core.saes.sae import SAE

VERSION = "6.54.12"  # of the layout; SAELens reads settings below 6 as flat ones
ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "topk_signed": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm": "constant_norm_rescale"}
GATED = {"b_enc": "b_gate", "gate_bias": "b_mag"}


def save_saelens(sae: SAE, folder: Path) -> None:
    """Write `sae` into `folder`.

    Raises UsageError for an SAE that does not say its site, for transcoders and skip connections,
    and for what SAELens cannot describe: groups of features of which one fires, and the input of a
    module.
    """
    config = sae.config
    if config.activation not in ARCHITECTURES:
        raise UsageError(
            f"SAELens has no SAE with activation {config.activation!r}.",
            "Keep it in this program's own sae.safetensors.",
        )
    if config.transcoder or sae.has_skip:
        raise UsageError(
            "A transcoder or a skip connection is not written in SAELens' layout.",
            "Keep it in this program's own sae.safetensors.",
        )
    if sae.site is None:
        raise UsageError(
            "The SAE does not say which site it reads.",
            "Name it: sae.with_origin(Site.parse('resid_post.6'), 'gpt2', 128).save(...)",
        )
    table = {
        "architecture": ARCHITECTURES[config.activation],
        "d_in": sae.d_in,
        "d_sae": sae.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.subtract_b_dec,
        "normalize_activations": NORMS[config.norm],
        "reshape_activations": "hook_z" if sae.site.kind == "attn_z" else "none",
        "metadata": _metadata(sae, sae.site),
    }
    if config.activation in ("topk", "topk_signed"):
        table |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "sae_weights.safetensors", _rename(sae), {})
    write_json(folder / "cfg.json", table)


def _rename(sae: SAE) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(sae.state_dict())
    if sae.config.activation == "gated":
        tensors["r_mag"] = tensors.pop("gate_scale").log()
        tensors = {GATED.get(name, name): tensor for name, tensor in tensors.items()}
    return tensors


def _metadata(sae: SAE, site: Site) -> dict[str, Any]:
    metadata = _hook(site, sae.subject) | {
        "context_size": sae.context,
        "prepend_bos": sae.bos,
        "sae_lens_version": VERSION,
        "original_architecture": sae.config.name,
    }
    if sae.config.centred:
        metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    return metadata


def _hook(site: Site, subject: str) -> dict[str, Any]:
    """Name a site: a TransformerLens hook, or the Hugging Face module whose output it is."""
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

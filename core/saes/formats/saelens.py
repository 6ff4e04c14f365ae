"""SAELens: cfg.json and sae_weights.safetensors, the old flat settings and those of version 6, finished SAEs and training checkpoints.

    standard   W_enc (D, F), b_enc, W_dec (F, D), b_dec          topk, abstopk: the same, and k
    jumprelu   and threshold (F,), or its logarithm              batchtopk, matryoshka_batchtopk: and topk_threshold (), while training
    gated      b_gate, b_mag, r_mag (F,) in the place of b_enc

`saelens_settings` reads cfg.json. What SAELens keeps outside these files (its list of releases) stands in `saelens_releases`.
"""

from __future__ import annotations

import re

import torch
from safetensors.torch import load_file
from torch import Tensor

from core.records import Site
from core.saes.formats import folding, saelens_releases
from core.saes.formats.names import hub_name, site_of_hook
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.saelens_settings import ARCHITECTURES, NORMS, Settings, read_settings
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig, check_shapes

HOOK_Z_CHANGES = (
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)  # options of TransformerLens that change hook_z itself
ADD = (
    'add "model_from_pretrained_kwargs": {"center_writing_weights": true} or false to its cfg.json'
)


def matches(place: Source) -> bool:
    return (
        place.weights.name == "sae_weights.safetensors"
        and "log_jumprelu_threshold" not in place.keys
    )


def load(place: Source) -> Published:
    """Raises UsageError for what would not mean here what it means in SAELens."""
    settings = read_settings(place)
    subject = hub_name(settings.meta.get("model_name") or "")
    site = _site(place, settings.meta, subject)
    tensors = _folded(place, settings, _named(place, settings))
    centred = _centred(place, settings, site, subject)
    form = SAEConfig(
        settings.architecture,
        ARCHITECTURES[settings.architecture],
        settings.k,
        NORMS.get(settings.norm, "none"),
        settings.subtract_b_dec,
        centred,
    )
    version = "flat" if settings.old else "v6"
    context, bos = (
        int(settings.meta.get("context_size") or 0),
        bool(settings.meta.get("prepend_bos", True)),
    )
    return Published(
        SAE(form, tensors), site, subject, context, bos, f"SAELens ({version}), {place.name}"
    )


# ---------------------------------------------------------------- tensors


def _named(place: Source, settings: Settings) -> dict[str, Tensor]:
    """Tensors under our names; `topk_threshold` stays until the decoder is scaled."""
    tensors = as_floats(place.content)
    tensors.pop("sparsity", None)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    if settings.architecture == "gated" and {"b_gate", "b_mag", "r_mag"} <= tensors.keys():
        tensors |= {
            "b_enc": tensors.pop("b_gate"),
            "gate_bias": tensors.pop("b_mag"),
            "gate_scale": tensors.pop("r_mag").exp(),
        }
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        if not settings.finetuned:
            raise refused(
                place.name,
                "its weights hold a scaling_factor that its settings do not mention",
                "Ask its authors whether it is to be applied.",
            )
        tensors["W_dec"] = tensors["W_dec"] * scaling[:, None]
    return tensors


def _folded(place: Source, settings: Settings, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Input scaling and whitening, then decoder lengths, taken into the weights, in the order in which SAELens does."""
    cut = tensors.pop("topk_threshold", None)
    check_shapes(tensors)
    scale = 1.0
    if settings.norm == "expected_average_only_in":
        scale = _factor(place, settings)
        tensors = folding.scaled_input(tensors, scale)
    elif settings.norm == "covariance_whitening":
        tensors = folding.whitened_input(tensors, *_whitening(place), settings.subtract_b_dec)
    if settings.rescaled:
        tensors = folding.unit_decoder(tensors)
    if (
        cut is not None
    ):  # of a training checkpoint; in the units of the scaled activations, whose decoder rows the scale has shortened
        tensors["threshold"] = (
            torch.ones_like(tensors["b_enc"]) * cut / (scale if settings.rescaled else 1.0)
        )
    return tensors


def _factor(place: Source, settings: Settings) -> float:
    layer = re.search(r"blocks\.(\d+)\.", settings.meta.get("hook_name") or "")
    known = saelens_releases.factor(place.repo, int(layer[1])) if layer else None
    factor = (
        settings.factor or place.config("activation_scaler.json").get("scaling_factor") or known
    )
    if not factor:
        raise refused(
            place.name,
            "it was trained on scaled activations (expected_average_only_in) and its files do not say by how much",
            'Add "norm_scaling_factor" (sqrt(d_in) / mean norm of the activations) to its cfg.json, or activation_scaler.json beside it.',
        )
    return float(factor)


def _whitening(place: Source) -> tuple[Tensor, Tensor, Tensor]:
    path = place.weights.parent / "activation_whitening.safetensors"
    if not path.is_file():
        raise refused(
            place.name,
            f"it was trained on whitened activations and {path.name} is missing",
            "Put that file beside the weights.",
        )
    tensors = as_floats(load_file(path))
    return tensors["mean"], tensors["matrix"], tensors["inverse_matrix"]


# ---------------------------------------------------------------- where it belongs


def _site(place: Source, meta: dict, subject: str) -> Site | None:
    options = meta.get("model_from_pretrained_kwargs") or {}
    hook = meta.get("hook_name") or ""
    if hook.endswith("hook_z") and any(options.get(name) for name in HOOK_Z_CHANGES):
        raise refused(
            place.name,
            f"its subject was changed by {', '.join(n for n in HOOK_Z_CHANGES if options.get(n))}",
            "Use one trained on the subject as it is.",
        )
    return site_of_hook(hook, subject) or site_of_hook(meta.get("hf_hook_name") or "", subject)


def _centred(place: Source, settings: Settings, site: Site | None, subject: str) -> bool:
    """Whether the SAE reads activations less their mean: its subject's writing weights were centred. Only LayerNorm subjects can be,
    and layer_norm takes the mean off in any case."""
    writes = site is not None and site.kind in (
        "resid_pre",
        "resid_mid",
        "resid_post",
        "mlp_out",
        "attn_out",
    )
    if (
        not writes
        or settings.norm == "layer_norm"
        or re.search(r"gemma|llama|mistral|qwen", subject, re.IGNORECASE)
    ):
        return False
    options = settings.meta.get("model_from_pretrained_kwargs")
    if options is None and settings.old and "gpt2" in subject:
        reason = "it does not say whether its GPT-2 had centred writing weights, and three releases in this layout need them"
        raise refused(
            place.name, reason, f"Give a known release as hf:owner/repo/folder, or {ADD}."
        )
    return bool((options or {}).get("center_writing_weights"))

"""SAELens: cfg.json and sae_weights.safetensors, of any version, finished or in training.

    standard   W_enc (D, F), b_enc, W_dec (F, D), b_dec
    topk, abstopk                      the same, and k
    jumprelu                           the same and threshold (F,), or its logarithm
    batchtopk, matryoshka_batchtopk    as jumprelu; topk_threshold () while training
    gated                              b_gate, b_mag, r_mag (F,) instead of b_enc
    transcoder, jumprelu_transcoder    as standard, jumprelu; W_dec is (F, d_out), b_dec (d_out,)
    skip_transcoder                    a transcoder with W_skip (d_out, D)
    jumprelu_skip_transcoder           a jumprelu_transcoder with W_skip (d_out, D)

`saelens_settings` reads cfg.json. What SAELens keeps outside these files (its list of releases)
stands in `saelens_releases`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from core.records import Site
from core.saes.formats import folding, saelens_releases
from core.saes.formats.names import hub_name, site_of_hook
from core.saes.formats.refusal import refusal
from core.saes.formats.saelens_settings import (
    ARCHITECTURES,
    NORMS,
    TRANSCODERS,
    Settings,
    read_settings,
)
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig
from core.saes.shapes import check_shapes

HOOK_Z_CHANGES = (  # options of TransformerLens that change hook_z itself
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)
RESIDUAL_WRITERS = ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out")
NEVER_CENTRED = r"gemma|llama|mistral|qwen"  # their norm is an RMS norm
ADD_CENTRING = (
    'add "model_from_pretrained_kwargs": {"center_writing_weights": true} or false to its cfg.json'
)


def matches(source: Source) -> bool:
    """Return whether the weights have SAELens' file name and are not R1-distill's."""
    name = source.weights.name
    return name == "sae_weights.safetensors" and "log_jumprelu_threshold" not in source.keys


def load(source: Source) -> SAE:
    """Load the SAE; raises UsageError for what would not mean here what it means in SAELens."""
    settings = read_settings(source)
    subject = hub_name(settings.meta.get("model_name") or "")
    site = _site(source, settings.meta, subject)
    tensors = _fold(source, settings, _rename(source, settings))
    config = SAEConfig(
        settings.architecture,
        ARCHITECTURES[settings.architecture],
        settings.k,
        NORMS.get(settings.norm, "none"),
        settings.subtract_b_dec,
        _is_centred(source, settings, site, subject),
        transcoder=settings.architecture in TRANSCODERS,
    )
    context = int(settings.meta.get("context_size") or 0)
    version = "flat" if settings.old else "v6"
    about = f"SAELens ({version}), {source.name}"
    place = _site_out(settings.meta, subject) if config.transcoder else None
    sae = SAE(config, tensors, site, subject, context, about, place)
    sae.bos = settings.meta.get("prepend_bos") is not False
    return sae


# ---------------------------------------------------------------- tensors


def _rename(source: Source, settings: Settings) -> dict[str, Tensor]:
    """Return tensors under our names; `topk_threshold` stays until the decoder is scaled."""
    tensors = as_floats(source.table)
    tensors.pop("sparsity", None)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    if settings.architecture == "gated" and {"b_gate", "b_mag", "r_mag"} <= tensors.keys():
        tensors |= {
            "b_enc": tensors.pop("b_gate"),
            "gate_bias": tensors.pop("b_mag"),
            "gate_scale": tensors.pop("r_mag").exp(),
        }
    if settings.architecture in TRANSCODERS and "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    if ("W_skip" in tensors) != ("skip" in settings.architecture):
        raise refusal(
            source.name,
            "its settings and its tensors disagree about a skip connection",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        if not settings.finetuned:
            raise refusal(
                source.name,
                "its weights hold a scaling_factor that its settings do not mention",
                "Ask its authors whether it is to be applied.",
            )
        tensors["W_dec"] = tensors["W_dec"] * scaling[:, None]
    return tensors


def _fold(source: Source, settings: Settings, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold input scaling and whitening, then decoder lengths, in the order of SAELens."""
    cut = tensors.pop("topk_threshold", None)
    check_shapes(tensors, settings.architecture in TRANSCODERS)
    scale = 1.0
    if settings.norm == "expected_average_only_in":
        scale = _read_factor(source, settings)
        tensors = folding.scaled_input(tensors, scale)
    elif settings.norm == "covariance_whitening":
        whitening = _read_whitening(source)
        tensors = folding.whitened_input(tensors, *whitening, settings.subtract_b_dec)
    if settings.rescaled:
        tensors = folding.unit_decoder(tensors)
    if cut is not None:
        # A training checkpoint's threshold is in units of the scaled activations, and that scale
        # has shortened the decoder's rows.
        lengthened = scale if settings.rescaled else 1.0
        tensors["threshold"] = torch.ones_like(tensors["b_enc"]) * cut / lengthened
    return tensors


def _read_factor(source: Source, settings: Settings) -> float:
    layer = re.search(r"blocks\.(\d+)\.", settings.meta.get("hook_name") or "")
    released = saelens_releases.factor(source.repo, int(layer[1])) if layer else None
    beside = source.config("activation_scaler.json").get("scaling_factor")
    factor = settings.factor or beside or released
    if not factor:
        raise refusal(
            source.name,
            "it was trained on scaled activations (expected_average_only_in) "
            "and its files do not say by how much",
            'Add "norm_scaling_factor" (sqrt(d_in) / mean norm of the activations) '
            "to its cfg.json, or activation_scaler.json beside it.",
        )
    return float(factor)


def _read_whitening(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    path = source.weights.parent / "activation_whitening.safetensors"
    if not path.is_file():
        raise refusal(
            source.name,
            f"it was trained on whitened activations and {path.name} is missing",
            "Put that file beside the weights.",
        )
    tensors = as_floats(load_file(path))
    return tensors["mean"], tensors["matrix"], tensors["inverse_matrix"]


# ---------------------------------------------------------------- where it belongs


def _site(source: Source, meta: dict[str, Any], subject: str) -> Site | None:
    options = meta.get("model_from_pretrained_kwargs") or {}
    hook = meta.get("hook_name") or ""
    changes = [name for name in HOOK_Z_CHANGES if options.get(name)]
    if hook.endswith("hook_z") and changes:
        raise refusal(
            source.name,
            f"its subject was changed by {', '.join(changes)}",
            "Use one trained on the subject as it is.",
        )
    return site_of_hook(hook, subject) or site_of_hook(meta.get("hf_hook_name") or "", subject)


def _site_out(meta: dict[str, Any], subject: str) -> Site | None:
    """Return where a transcoder writes."""
    hook, theirs = meta.get("hook_name_out") or "", meta.get("hf_hook_name_out") or ""
    return site_of_hook(hook, subject) or site_of_hook(theirs, subject)


def _is_centred(source: Source, settings: Settings, site: Site | None, subject: str) -> bool:
    """Return whether the SAE reads activations less their mean.

    It does where its subject's writing weights were centred, which only LayerNorm subjects allow.
    The layer_norm normalisation removes the mean in any case.
    """
    if (
        site is None
        or site.kind not in RESIDUAL_WRITERS
        or settings.norm == "layer_norm"
        or settings.architecture in TRANSCODERS
        or re.search(NEVER_CENTRED, subject, re.IGNORECASE)
    ):
        return False
    options = settings.meta.get("model_from_pretrained_kwargs")
    if options is None and settings.old and "gpt2" in subject:
        raise refusal(
            source.name,
            "it does not say whether its GPT-2 had centred writing weights, "
            "and three releases in this layout need them",
            f"Give a known release as hf:owner/repo/folder, or {ADD_CENTRING}.",
        )
    return bool((options or {}).get("center_writing_weights"))

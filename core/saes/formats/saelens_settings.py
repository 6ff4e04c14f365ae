"""SAELens' cfg.json, of version 6 and of the old flat kind, read into one record.

Flat settings (below version 6, or without a version) name the hook `hook_point`, give TopK as an
activation function, and subtract b_dec from the input unless they say otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from core.saes.formats.refusal import refusal
from core.saes.formats.saelens_releases import overrides
from core.saes.formats.sources import Source

ARCHITECTURES = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "topk_signed",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
TRANSCODERS = tuple(name for name in ARCHITECTURES if name.endswith("transcoder"))
NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
FOLDED = ("expected_average_only_in", "covariance_whitening")
SETTINGS = {  # of version 6: what defines the SAE, then what only its training needed
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input",
    "normalize_activations", "reshape_activations", "metadata", "k",
    "rescale_acts_by_decoder_norm", "norm_scaling_factor", "finetuning_scaling_factor", "d_out",

    "aux_loss_coefficient", "decoder_init_norm", "jumprelu_bandwidth", "jumprelu_init_threshold",
    "jumprelu_sparsity_loss_mode", "jumprelu_ste_to_input", "jumprelu_tanh_scale",
    "l0_coefficient", "l0_warm_up_steps", "l1_coefficient", "l1_warm_up_steps", "lp_norm",
    "matryoshka_widths", "pre_act_loss_coefficient", "target_l0", "topk_threshold_lr",
    "use_matryoshka_aux_loss", "use_sparse_activations",
}  # fmt: skip
OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
ADD_CONFIG = "Put the cfg.json that belongs to it beside the weights."
KNOWN = f"Known are: {', '.join(ARCHITECTURES)}; docs/formats.md lists what loads."

Table = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """cfg.json of any version."""

    architecture: str
    norm: str  # as SAELens calls it
    subtract_b_dec: bool
    k: int
    rescaled: bool  # activations are computed, and the largest chosen, for decoder rows of length 1
    factor: float | None  # for expected_average_only_in
    finetuned: bool  # `scaling_factor` belongs to the decoder
    meta: Table
    old: bool


def read_settings(source: Source) -> Settings:
    """Read the settings beside the weights, with what SAELens' list of releases overrides."""
    table = source.config("cfg.json")
    if not table:
        raise refusal(source.name, "its cfg.json is missing", ADD_CONFIG)
    meta = table.get("metadata") or {}
    version = str(table.get("sae_lens_version") or meta.get("sae_lens_version") or "0")
    major = re.match(r"\d+", version)
    old = major is None or int(major[0]) < 6
    if old:
        table = {OLD_NAMES.get(name, name): value for name, value in table.items()}
        table["metadata"] = {}
        meta = table
    elif unknown := table.keys() - SETTINGS:
        raise refusal(
            source.name,
            f"its settings hold {sorted(unknown)}, which may change what it computes",
            "Load it with a version that knows them.",
        )
    released = overrides(source.repo)
    return _parse(source, table | released, meta | released, old)


def _parse(source: Source, table: Table, meta: Table, old: bool) -> Settings:
    """Raise UsageError for an architecture, activation or normalisation that is not known."""
    activation = table.get("activation_fn", "relu") if old else "relu"
    arguments = (table.get("activation_fn_kwargs") or {}) if old else {}
    architecture = "topk" if activation == "topk" else table.get("architecture", "standard")
    k = arguments.get("k", table.get("k"))
    norm = table.get("normalize_activations") or "none"
    norm = "expected_average_only_in" if norm is True else norm
    if architecture not in ARCHITECTURES or activation not in ("relu", "topk", None):
        raise refusal(
            source.name,
            f"architecture {architecture!r} with activation {activation!r} is not known",
            KNOWN,
        )
    if norm not in (*NORMS, *FOLDED):
        raise refusal(source.name, f"its normalisation {norm!r} is not known", KNOWN)
    if meta.get("hook_head_index") is not None:
        raise refusal(
            source.name,
            f"it reads one attention head alone ({meta['hook_head_index']}), "
            "and there is no such site",
            KNOWN,
        )
    transcoder = architecture in TRANSCODERS
    subtract = bool(table.get("apply_b_dec_to_input", not transcoder))
    if transcoder and (norm != "none" or subtract):
        raise refusal(
            source.name,
            f"a transcoder with normalisation {norm!r} or with b_dec off its input is not known",
            "Use one that reads its site as it is.",
        )
    has_k = architecture in ("topk", "abstopk")  # elsewhere k is an average, the aim of training
    if has_k and not k:
        raise refusal(source.name, "its settings do not say k", ADD_CONFIG)
    return Settings(
        architecture,
        norm,
        subtract_b_dec=subtract,
        k=int(k or 0) if has_k else 0,
        rescaled=bool(table.get("rescale_acts_by_decoder_norm")),
        factor=table.get("norm_scaling_factor", meta.get("norm_scaling_factor")),
        finetuned=bool(table.get("finetuning_scaling_factor")),
        meta=meta,
        old=old,
    )

"""SAELens' cfg.json, of version 6 and the old flat kind, read into one record.

Flat settings (below version 6, or without a version) name the hook `hook_point`, give TopK as an activation function, and take b_dec off the
input unless they say otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.saes.formats.places import Source
from core.saes.formats.published import refused
from core.saes.formats.saelens_releases import overrides

ARCHITECTURES = {
    "standard": "relu", "topk": "topk", "abstopk": "topk_signed", "jumprelu": "jumprelu", "gated": "gated",
    "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu",
}  # fmt: skip
NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
FOLDED = ("expected_average_only_in", "covariance_whitening")
SETTINGS = {  # of version 6: what forms the SAE, then what only its training needed
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations", "reshape_activations", "metadata",
    "k", "rescale_acts_by_decoder_norm", "norm_scaling_factor", "finetuning_scaling_factor",
    "aux_loss_coefficient", "decoder_init_norm", "jumprelu_bandwidth", "jumprelu_init_threshold", "jumprelu_sparsity_loss_mode", "jumprelu_ste_to_input",
    "jumprelu_tanh_scale", "l0_coefficient", "l0_warm_up_steps", "l1_coefficient", "l1_warm_up_steps", "lp_norm", "matryoshka_widths",
    "pre_act_loss_coefficient", "target_l0", "topk_threshold_lr", "use_matryoshka_aux_loss", "use_sparse_activations",
}  # fmt: skip
OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


@dataclass(frozen=True)
class Settings:
    """cfg.json of any version."""

    architecture: str
    norm: str  # as SAELens calls it
    subtract_b_dec: bool
    k: int
    rescaled: (
        bool  # activations are measured, and the largest chosen, as if decoder rows had length 1
    )
    factor: float | None  # for expected_average_only_in
    finetuned: bool  # `scaling_factor` belongs to the decoder
    meta: dict
    old: bool


def read_settings(place: Source) -> Settings:
    """The settings beside the weights, with what SAELens' list of releases overrides."""
    table = place.config("cfg.json")
    if not table:
        raise refused(
            place.name,
            "its cfg.json is missing",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    meta = table.get("metadata") or {}
    version = str(table.get("sae_lens_version") or meta.get("sae_lens_version") or "0")
    old = int(re.match(r"\d*", version)[0] or 0) < 6
    if old:
        table = {OLD_NAMES.get(name, name): value for name, value in table.items()} | {
            "metadata": {}
        }
        meta = table
    elif unknown := table.keys() - SETTINGS:
        raise refused(
            place.name,
            f"its settings hold {sorted(unknown)}, which may change what it computes",
            "Load it with a version that knows them.",
        )
    released = overrides(place.repo)
    return _checked(place, table | released, meta | released, old)


def _checked(place: Source, table: dict, meta: dict, old: bool) -> Settings:
    activation = table.get("activation_fn", "relu") if old else "relu"
    arguments = (table.get("activation_fn_kwargs") or {}) if old else {}
    architecture = "topk" if activation == "topk" else table.get("architecture", "standard")
    k = arguments.get("k", table.get("k"))
    norm = table.get("normalize_activations") or "none"
    norm = "expected_average_only_in" if norm is True else norm
    if architecture not in ARCHITECTURES or activation not in ("relu", "topk", None):
        raise refused(
            place.name,
            f"architecture {architecture!r} with activation {activation!r} is not an SAE that is known here",
            _known(),
        )
    if norm not in (*NORMS, *FOLDED):
        raise refused(place.name, f"its normalisation {norm!r} is not known", _known())
    if meta.get("hook_head_index") is not None:
        raise refused(
            place.name,
            f"it reads one attention head alone ({meta['hook_head_index']}), and there is no such site",
            _known(),
        )
    if architecture in ("topk", "abstopk") and not k:
        raise refused(
            place.name,
            "its settings do not say k",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    rescaled, factor = (
        bool(table.get("rescale_acts_by_decoder_norm")),
        table.get("norm_scaling_factor", meta.get("norm_scaling_factor")),
    )
    subtract, finetuned = (
        bool(table.get("apply_b_dec_to_input", True)),
        bool(table.get("finetuning_scaling_factor")),
    )
    chosen = (
        int(k) if architecture in ("topk", "abstopk") else 0
    )  # elsewhere k is an average that training aimed at
    return Settings(architecture, norm, subtract, chosen, rescaled, factor, finetuned, meta, old)


def _known() -> str:
    return f"Known are: {', '.join(ARCHITECTURES)}; docs/formats.md lists what loads."

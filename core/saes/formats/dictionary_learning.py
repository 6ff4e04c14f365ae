"""dictionary_learning (Marks et al.): ae.pt, a table of tensors, and config.json with its class.

    AutoEncoder             bias (D,), encoder.weight (F, D), encoder.bias (F,),
                            decoder.weight (D, F), whose columns are scaled to length 1
    AutoEncoderNew          encoder.*, decoder.weight, decoder.bias, not subtracted from the input
    GatedAutoEncoder        decoder_bias, r_mag, gate_bias, mag_bias, encoder.weight, decoder.weight
    AutoEncoderTopK         encoder.*, decoder.weight, b_dec, k, threshold: the k largest per token
    BatchTopKSAE            the same tensors: what exceeds the threshold
    MatryoshkaBatchTopKSAE  W_enc (D, F), b_enc, W_dec (F, D), b_dec, k, threshold, group_sizes
    JumpReluAutoEncoder     W_enc, b_enc, W_dec, b_dec, threshold (F,); b_dec is not subtracted

A finished file reads raw activations. A backup made during training ({"step", "ae", "config",
"norm_factor", ...}) holds weights for activations divided by norm_factor, which is folded into its
biases here, as dictionary_learning does when training ends.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from core.records import NAMED_SITES, Site
from core.saes.formats import folding
from core.saes.formats.names import hub_name, site_of_hook
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig
from core.saes.shapes import check_shapes

CLASSES = {  # class -> (activation, whether b_dec is subtracted from the input)
    "AutoEncoder": ("relu", True),
    "AutoEncoderNew": ("relu", False),
    "GatedAutoEncoder": ("gated", True),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
}
NAMES = {
    "bias": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
    "encoder.bias": "b_enc",
    "gate_bias": "b_enc",
    "mag_bias": "gate_bias",
    "r_mag": "gate_scale",
}
TRANSPOSED = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
SITES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out", "attention": "attn_out"}
ADD_CONFIG = "Put the config.json that belongs to it beside the weights."

Table = dict[str, Any]


def matches(source: Source) -> bool:
    """Return whether a `.pt` file, by its tensors, name or config.json, is of this library."""
    return source.weights.suffix == ".pt" and (
        "ae" in source.keys
        or source.weights.name.startswith("ae")
        or "trainer" in _read_config(source)
    )


def _read_config(source: Source) -> Table:
    """Read config.json of the folder, or of the one above for files in `checkpoints/`."""
    return source.config("config.json", "../config.json")


def load(source: Source) -> SAE:
    """Load the SAE; raises UsageError for an unknown class and where the class is not certain."""
    table, content = _read_config(source), source.content
    trainer, buffer, norm = table.get("trainer") or {}, table.get("buffer") or {}, None
    if not isinstance(content, dict):
        raise refusal(
            source.name, "it holds no table of tensors", "Use the ae.pt that training wrote."
        )
    if "ae" in content:
        trainer, norm = content.get("config") or trainer, _norm_factor(source, content)
        content = content["ae"]
    kind = trainer.get("dict_class") or _class_of(source, set(content))
    if kind not in CLASSES:
        raise refusal(
            source.name, f"its class {kind!r} is not known", f"Known are: {', '.join(CLASSES)}."
        )
    activation, subtract = CLASSES[kind]
    k = _read_k(source, trainer, content) if activation == "topk" else 0
    return SAE(
        SAEConfig(kind, activation, k, subtract_b_dec=subtract),
        _fold(kind, _rename(kind, content), norm),
        _site(trainer, buffer),
        hub_name(trainer.get("lm_name") or ""),
        int(buffer.get("ctx_len") or 0),
        f"dictionary_learning, {source.name}",
    )


def _norm_factor(source: Source, backup: Table) -> float:
    """Return what activations were divided by while a backup was trained.

    The backup says None where they were not.
    """
    if "norm_factor" not in backup:
        raise refusal(
            source.name,
            "it is a backup without norm_factor, so the scale of its activations is not known",
            "Use the finished ae.pt.",
        )
    return float(backup["norm_factor"] or 1.0)


def _class_of(source: Source, keys: set[str]) -> str:
    """Return the class whose tensors these are, where only one has them."""
    if "group_sizes" in keys:
        return "MatryoshkaBatchTopKSAE"
    if "r_mag" in keys:
        return "GatedAutoEncoder"
    if {"W_enc", "threshold"} <= keys and "k" not in keys:
        return "JumpReluAutoEncoder"
    if {"encoder.weight", "bias"} <= keys:
        return "AutoEncoder"
    if {"encoder.weight", "decoder.bias"} <= keys:
        return "AutoEncoderNew"
    reason = f"its tensors {sorted(keys)} are unknown"
    if "k" in keys:
        reason = "AutoEncoderTopK and BatchTopKSAE have the same tensors and config.json is missing"
    raise refusal(source.name, reason, ADD_CONFIG)


def _read_k(source: Source, trainer: Table, content: Table) -> int:
    """Return k of the weights or of the settings; raises UsageError where the two disagree."""
    known = {int(k) for k in (content.get("k"), trainer.get("k")) if k is not None}
    if len(known) != 1:
        raise refusal(
            source.name,
            f"its k is {content.get('k')} in the weights and {trainer.get('k')} in the settings",
            ADD_CONFIG,
        )
    return known.pop()


def _rename(kind: str, content: Table) -> dict[str, Tensor]:
    """Return tensors (D, F) and (F, D) under our names, with one threshold per feature."""
    kept = {n: t for n, t in content.items() if isinstance(t, Tensor)}
    tensors = {}
    for name, tensor in as_floats(kept).items():
        if name in TRANSPOSED:
            tensors[TRANSPOSED[name]] = tensor.T
        elif name not in ("k", "group_sizes"):
            tensors[NAMES.get(name, name)] = tensor
    if "gate_scale" in tensors:
        tensors["gate_scale"] = tensors["gate_scale"].exp()
    if kind == "AutoEncoderTopK":
        tensors.pop("threshold", None)
    elif "threshold" in tensors and tensors["threshold"].ndim == 0:
        tensors["threshold"] = torch.ones_like(tensors["b_enc"]) * tensors["threshold"]
    return tensors


def _fold(kind: str, tensors: dict[str, Tensor], norm: float | None) -> dict[str, Tensor]:
    """Fold the scale of a backup and the decoder's lengths into the weights."""
    check_shapes(tensors)
    if norm is not None:
        tensors = folding.raw_units(tensors, norm)
    return folding.unit_decoder(tensors) if kind == "AutoEncoder" else tensors


def _site(trainer: Table, buffer: Table) -> Site | None:
    """Read the site from `submodule_name`, or else the residual stream of `layer`, its default.

    `submodule_name` is one of the library's own such as resid_post_layer_8, or a module path.
    """
    name = trainer.get("submodule_name") or ""
    if match := re.fullmatch(r"([a-z]+)_(?:\w+_)?layer_(\d+)", name):
        written = name.split("_layer_")[0]
        kind = written if written in NAMED_SITES else SITES.get(match[1])
        return Site(kind, layer=int(match[2])) if kind else None
    if name:
        site = site_of_hook(name)
        reads_input = buffer.get("io") == "in"
        return Site("input", module=site.module) if site and site.module and reads_input else site
    layer = trainer.get("layer")
    if isinstance(layer, int) and buffer.get("io", "out") == "out":
        return Site("resid_post", layer=layer)
    return None

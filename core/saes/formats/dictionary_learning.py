"""dictionary_learning (Marks et al.): ae.pt, a table of tensors, and config.json, which names the class.

    AutoEncoder             bias (D,), encoder.weight (F, D), encoder.bias (F,), decoder.weight (D, F); decoder columns are made length 1
    AutoEncoderNew          encoder.*, decoder.weight, decoder.bias, which is not taken off the input
    GatedAutoEncoder        decoder_bias, r_mag, gate_bias, mag_bias, encoder.weight, decoder.weight
    AutoEncoderTopK         encoder.*, decoder.weight, b_dec, k, threshold: the k largest of each token
    BatchTopKSAE            the same tensors: what exceeds the threshold
    MatryoshkaBatchTopKSAE  W_enc (D, F), b_enc, W_dec (F, D), b_dec, k, threshold, group_sizes
    JumpReluAutoEncoder     W_enc, b_enc, W_dec, b_dec, threshold (F,); b_dec is not taken off the input

A finished file reads raw activations. A backup made during training ({"step", "ae", "config", "norm_factor", ...}) holds weights for
activations divided by norm_factor, which is taken into its biases here as it is when training ends.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from core.records import NAMED_SITES, Site
from core.saes.formats import folding
from core.saes.formats.names import hub_name, site_of_hook
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig, check_shapes

FORMS = {  # class -> (activation, whether b_dec is taken off the input)
    "AutoEncoder": ("relu", True),
    "AutoEncoderNew": ("relu", False),
    "GatedAutoEncoder": ("gated", True),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
}
NAMES = {
    "bias": "b_dec", "decoder.bias": "b_dec", "decoder_bias": "b_dec", "encoder.bias": "b_enc",
    "gate_bias": "b_enc", "mag_bias": "gate_bias", "r_mag": "gate_scale",
}  # fmt: skip
TRANSPOSED = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
SITES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out", "attention": "attn_out"}


def matches(place: Source) -> bool:
    return place.weights.suffix == ".pt" and (
        "ae" in place.keys or place.weights.name.startswith("ae") or "trainer" in _config(place)
    )


def _config(place: Source) -> dict:
    """config.json of the folder, or of the one above for files in `checkpoints/`."""
    return place.config("config.json", "../config.json")


def load(place: Source) -> Published:
    """Raises UsageError for an unknown class and for a file that does not say which of its classes it is."""
    table = _config(place)
    trainer, buffer, content, norm = (
        table.get("trainer") or {},
        table.get("buffer") or {},
        place.content,
        None,
    )
    if not isinstance(content, dict):
        raise refused(
            place.name, "it holds no table of tensors", "Use the ae.pt that training wrote."
        )
    if "ae" in content:
        trainer, norm, content = (
            content.get("config") or trainer,
            _norm_factor(place, content),
            content["ae"],
        )
    kind = trainer.get("dict_class") or _class_of(place, set(content))
    if kind not in FORMS:
        raise refused(
            place.name, f"its class {kind!r} is not known", f"Known are: {', '.join(FORMS)}."
        )
    activation, subtract = FORMS[kind]
    k = _k(place, trainer, content) if activation == "topk" else 0
    tensors = _named(kind, content)
    check_shapes(tensors)
    if norm is not None:
        tensors = folding.raw_units(tensors, norm)
    if kind == "AutoEncoder":
        tensors = folding.unit_decoder(tensors)
    subject = hub_name(trainer.get("lm_name") or "")
    sae = SAE(SAEConfig(kind, activation, k, subtract_b_dec=subtract), tensors)
    return Published(
        sae,
        _site(trainer, buffer),
        subject,
        int(buffer.get("ctx_len") or 0),
        True,
        f"dictionary_learning, {place.name}",
    )


def _norm_factor(place: Source, backup: dict) -> float:
    """What activations were divided by while a backup was trained; it says None where they were not."""
    if "norm_factor" not in backup:
        raise refused(
            place.name,
            "it is a backup without norm_factor, so the scale of its activations is not known",
            "Use the finished ae.pt.",
        )
    return float(backup["norm_factor"] or 1.0)


def _class_of(place: Source, keys: set[str]) -> str:
    """The class whose tensors these are, where only one has them."""
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
    reason = (
        "AutoEncoderTopK and BatchTopKSAE have the same tensors and config.json is missing"
        if "k" in keys
        else f"its tensors {sorted(keys)} are unknown"
    )
    raise refused(place.name, reason, "Put the config.json that belongs to it beside the weights.")


def _k(place: Source, trainer: dict, content: dict) -> int:
    k, said = content.get("k"), trainer.get("k")
    if k is None and said is None or None not in (k, said) and int(k) != int(said):
        raise refused(
            place.name,
            f"its k is {k} in the weights and {said} in the settings",
            "Put the config.json that belongs to it beside the weights.",
        )
    return int(said if k is None else k)


def _named(kind: str, content: dict) -> dict[str, Tensor]:
    """Tensors (D, F) and (F, D) under our names; a threshold of one number for each feature."""
    tensors = as_floats(
        {
            name: value
            for name, value in content.items()
            if isinstance(value, Tensor) and name not in ("k", "group_sizes")
        }
    )
    tensors = {
        TRANSPOSED.get(name) or NAMES.get(name, name): t.T if name in TRANSPOSED else t
        for name, t in tensors.items()
    }
    if "gate_scale" in tensors:
        tensors["gate_scale"] = tensors["gate_scale"].exp()
    if kind == "AutoEncoderTopK":
        tensors.pop("threshold", None)
    elif "threshold" in tensors and tensors["threshold"].ndim == 0:
        tensors["threshold"] = torch.ones_like(tensors["b_enc"]) * tensors["threshold"]
    return tensors


def _site(trainer: dict, buffer: dict) -> Site | None:
    """From `submodule_name`: one of its own such as resid_post_layer_8, or a module path; else the residual stream of `layer`, its default."""
    name = trainer.get("submodule_name") or ""
    if found := re.fullmatch(r"([a-z]+)_(?:\w+_)?layer_(\d+)", name):
        kind = name.split("_layer_")[0]
        kind = kind if kind in NAMED_SITES else SITES.get(found[1])
        return Site(kind, layer=int(found[2])) if kind else None
    if name:
        site = site_of_hook(name)
        inward = buffer.get("io") == "in"
        return Site("input", module=site.module) if site and site.module and inward else site
    layer = trainer.get("layer")
    return (
        Site("resid_post", layer=int(layer))
        if isinstance(layer, int) and buffer.get("io", "out") == "out"
        else None
    )

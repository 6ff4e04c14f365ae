"""sparsify (EleutherAI): a folder per hook point with cfg.json and sae.safetensors.

    encoder.weight (F, D), encoder.bias (F,), W_dec (F, D), b_dec (D,)
    W_skip (D, D) where there is a skip connection: x W_skip^T is added to what is decoded

The run's config.json lies in the folder above. b_dec is always subtracted from the input, whatever
`normalize_decoder` says, but for transcoders (`transcode`), which read the input of the hook
point's module and predict its output. The tensors say the size: `num_latents` may be 0.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from core.records import Site
from core.saes.formats.names import site_of_module
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

ACTIVATIONS = ("topk", "groupmax")


def matches(source: Source) -> bool:
    """Return whether the file is a sae.safetensors with sparsify's names."""
    return source.weights.name == "sae.safetensors" and "encoder.weight" in source.keys


def load(source: Source) -> SAE:
    """Load the SAE.

    A transcoder of an MLP reads mlp_in and predicts mlp_out of its layer. What one of another
    module reads is None, because the files do not say the module's whole path. Raises UsageError
    for files without a decoder or without the skip connection that they should have, and for
    unknown activations.
    """
    table, run = source.config("cfg.json"), source.config("../config.json")
    tensors = as_floats(source.table)
    _check(source, table, tensors)
    activation = table.get("activation", "topk")
    kind = "topk_signed" if table.get("signed") else activation
    weights = {
        "W_enc": tensors.pop("encoder.weight").T,
        "b_enc": tensors.pop("encoder.bias"),
        **tensors,
    }
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T
    subject, transcoder = run.get("model") or "", bool(table.get("transcode"))
    place = site_of_module(_hookpoint(source.path), subject)
    return SAE(
        SAEConfig(
            kind, kind, int(table["k"]), subtract_b_dec=not transcoder, transcoder=transcoder
        ),
        weights,
        input_of(source.path) if transcoder else place,
        subject,
        int(run.get("ctx_len") or 0),
        f"sparsify, {source.name}",
        place,
    )


def input_of(path: str) -> Site | None:
    """Return the input of the MLP that the folder of `path` names, or None."""
    match = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)\.mlp", _hookpoint(path))
    return Site("mlp_in", layer=int(match[1])) if match else None


def _check(source: Source, table: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise UsageError for what is no whole SAE of a known activation."""
    activation = table.get("activation", "topk")
    if not table.get("k"):
        raise refusal(
            source.name,
            "its cfg.json with k is missing",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    if bool(table.get("skip_connection")) != ("W_skip" in tensors):
        raise refusal(
            source.name,
            "its cfg.json and its tensors disagree about a skip connection",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    if "W_dec" not in tensors:
        raise refusal(source.name, "it was saved without its decoder", "Use the whole file.")
    if activation not in ACTIVATIONS or (table.get("signed") and activation != "topk"):
        raise refusal(
            source.name,
            f"its activation {activation!r} is not known",
            f"Known are: {', '.join(ACTIVATIONS)}.",
        )


def _hookpoint(path: str) -> str:
    """Return the last folder of `path`, which names a module of the base model."""
    return re.sub(r"/sae\.safetensors$", "", path).rstrip("/").rsplit("/", 1)[-1]

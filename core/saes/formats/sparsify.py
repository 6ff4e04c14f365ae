"""sparsify (EleutherAI): a folder per hook point with cfg.json and sae.safetensors.

    encoder.weight (F, D), encoder.bias (F,), W_dec (F, D), b_dec (D,)
    W_skip (D, D) where there is a skip connection

The run's config.json lies in the folder above. b_dec is always subtracted from the input, whatever
`normalize_decoder` says, and the tensors say the size: `num_latents` may be 0.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

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

    Raises UsageError for transcoders, skip connections, files without a decoder and unknown
    activations.
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
    subject = run.get("model") or ""
    return SAE(
        SAEConfig(kind, kind, int(table["k"])),
        weights,
        site_of_module(_hookpoint(source.path), subject),
        subject,
        int(run.get("ctx_len") or 0),
        f"sparsify, {source.name}",
    )


def _check(source: Source, table: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise UsageError for what is no plain SAE of a known activation."""
    activation = table.get("activation", "topk")
    if not table.get("k"):
        raise refusal(
            source.name,
            "its cfg.json with k is missing",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    if table.get("transcode"):
        raise refusal(
            source.name,
            "it is a transcoder: it does not reconstruct what it reads",
            "Use one that was trained without `transcode`.",
        )
    if table.get("skip_connection") or "W_skip" in tensors:
        raise refusal(
            source.name,
            "part of its reconstruction bypasses the features",
            "Use one without `skip_connection`.",
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

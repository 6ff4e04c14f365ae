"""sparsify (EleutherAI): a folder for each hook point with cfg.json and sae.safetensors; the run's config.json lies above.

    encoder.weight (F, D), encoder.bias (F,), W_dec (F, D), b_dec (D,), W_skip (D, D) where there is a skip connection

b_dec is always taken off the input, whatever `normalize_decoder` says, and the size is that of the tensors: `num_latents` may be 0.
"""

from __future__ import annotations

import re

from core.saes.formats.names import site_of_module
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

ACTIVATIONS = {"topk": "topk", "groupmax": "groupmax"}


def matches(place: Source) -> bool:
    return place.weights.name == "sae.safetensors" and "encoder.weight" in place.keys


def load(place: Source) -> Published:
    """Raises UsageError for transcoders, skip connections, files without a decoder and unknown activations."""
    table, run = place.config("cfg.json"), place.config("../config.json")
    tensors = as_floats(place.content)
    activation = table.get("activation", "topk")
    if not table.get("k"):
        raise refused(
            place.name,
            "its cfg.json with k is missing",
            "Put the cfg.json that belongs to it beside the weights.",
        )
    if table.get("transcode"):
        raise refused(
            place.name,
            "it is a transcoder: it does not reconstruct what it reads",
            "Use one that was trained without `transcode`.",
        )
    if table.get("skip_connection") or "W_skip" in tensors:
        raise refused(
            place.name,
            "part of its reconstruction skips the features, so features alone do not say what it gives",
            "Use one without `skip_connection`.",
        )
    if "W_dec" not in tensors:
        raise refused(place.name, "it was saved without its decoder", "Use the whole file.")
    if activation not in ACTIVATIONS or table.get("signed") and activation != "topk":
        raise refused(
            place.name,
            f"its activation {activation!r} is not known",
            f"Known are: {', '.join(ACTIVATIONS)}.",
        )
    kind = "topk_signed" if table.get("signed") else ACTIVATIONS[activation]
    weights = {
        "W_enc": tensors.pop("encoder.weight").T,
        "b_enc": tensors.pop("encoder.bias"),
        **tensors,
    }
    subject = run.get("model") or ""
    site = site_of_module(_hookpoint(place.path), subject)
    return Published(
        SAE(SAEConfig(kind, kind, int(table["k"])), weights),
        site,
        subject,
        int(run.get("ctx_len") or 0),
        False,
        f"sparsify, {place.name}",
    )


def _hookpoint(path: str) -> str:
    """The last folder of `path`, which names a module of the base model."""
    return re.sub(r"/sae\.safetensors$", "", path).rstrip("/").rsplit("/", 1)[-1]

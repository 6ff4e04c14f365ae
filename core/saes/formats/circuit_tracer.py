"""Transcoders in the layouts that circuit-tracer (Hanna et al. 2025) reads, one file a layer.

    layer_3.safetensors      W_enc (F, D), b_enc (F,), W_dec (F, D), b_dec (D,), where there are any
                             W_skip (D, D), which is transposed, and activation_function.threshold
    W_enc_3.safetensors      one layer of a cross-layer transcoder: W_enc_3, b_enc_3, b_dec_3 and,
                             where there is one, threshold_3
    W_dec_3.safetensors      beside it, W_dec_3 (F, layers, D): what each feature writes in layer 3
                             and in those behind

config.yaml beside them names subject and hooks. Without a threshold the activation is a ReLU.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from torch import Tensor

from core.errors import UsageError
from core.records import Site
from core.saes.formats.names import hub_name, site_of_hook
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats, read_weights
from core.saes.sae import SAE, SAEConfig

FOUR = {"W_enc", "b_enc", "W_dec", "b_dec"}
THRESHOLD = "activation_function.threshold"
ACTIVATIONS = (None, "relu", "jump_relu", "jumprelu")


def matches(source: Source) -> bool:
    """Return whether the file is one layer of either layout."""
    if source.weights.suffix != ".safetensors":
        return False
    single = re.fullmatch(r"layer_\d+", source.weights.stem) and source.keys >= FOUR
    across = re.fullmatch(r"W_enc_\d+", source.weights.stem)
    return bool(single or (across and source.weights.stem in source.keys))


def load(source: Source) -> SAE:
    """Load the transcoder, or the layer of a cross-layer one.

    Raises UsageError for other tensors or activations, thresholds below 0, and hooks that are no
    sites here.
    """
    table, number = read_config(source), int(source.weights.stem.rpartition("_")[2])
    across = source.weights.stem.startswith("W_enc")
    tensors = _across(source, number) if across else as_floats(source.table)
    _check(source, table, tensors)
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    kind = "relu"
    if THRESHOLD in tensors:
        kind, tensors["threshold"] = "jumprelu", tensors.pop(THRESHOLD).flatten()
    subject = hub_name(str(table.get("model_name") or ""))
    sites = [_site(source, table, side, number, subject) for side in ("input", "output")]
    config = SAEConfig(kind, kind, subtract_b_dec=False, transcoder=True, cross_layer=across)
    about = f"circuit-tracer, {source.name}"
    return SAE(config, tensors, sites[0], subject, 0, about, sites[1])


def read_config(source: Source) -> dict[str, Any]:
    """Return what config.yaml beside the weights says, {} without one."""
    path = source.weights.parent / "config.yaml"
    if not path.is_file():
        return {}
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} is not YAML: {reason}.", "Download it again.") from None
    if not isinstance(table, dict):
        raise UsageError(f"{path} holds no table of settings.", "Download it again.")
    return table


def _across(source: Source, number: int) -> dict[str, Tensor]:
    """Return the tensors of one layer of a cross-layer transcoder under plain names."""
    beside = source.weights.with_name(f"W_dec_{number}.safetensors")
    if not beside.is_file():
        raise refusal(
            source.name,
            f"its decoder {beside.name} is missing",
            "Put that file beside the weights.",
        )
    decoder = read_weights(beside)
    assert isinstance(decoder, dict), "a safetensors file is a table"
    every = as_floats({**source.table, **decoder})
    tensors = {name.removesuffix(f"_{number}"): tensor for name, tensor in every.items()}
    if "threshold" in tensors:
        tensors[THRESHOLD] = tensors.pop("threshold")
    if tensors["W_dec"].ndim != 3:
        raise refusal(
            source.name,
            f"its decoder has shape {tuple(tensors['W_dec'].shape)}, not (features, layers, width)",
            "Use the whole file.",
        )
    tensors["W_dec"] = tensors["W_dec"].sum(1)
    return tensors


def _check(source: Source, table: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise UsageError for what would not mean here what it means there."""
    if "k" in tensors or table.get("activation") not in ACTIVATIONS:
        raise refusal(
            source.name,
            f"its activation {table.get('activation') or 'topk'!r} keeps negative pre-activations, "
            "which are no firings here",
            "Use one with a ReLU or thresholds.",
        )
    if unknown := tensors.keys() - FOUR - {"W_skip", THRESHOLD}:
        raise refusal(
            source.name,
            f"its tensors {sorted(unknown)} are not known",
            "Load it with a version that knows them.",
        )
    if THRESHOLD in tensors and bool((tensors[THRESHOLD] < 0).any()):
        raise refusal(
            source.name,
            "some thresholds are below 0, so that negative pre-activations count",
            "Use one whose thresholds are 0 or more.",
        )
    if tensors["W_enc"].ndim != 2 or tensors["W_enc"].shape != tensors["W_dec"].shape:
        raise refusal(
            source.name,
            f"W_enc has shape {tuple(tensors['W_enc'].shape)} and W_dec "
            f"{tuple(tensors['W_dec'].shape)}; both must be (features, width)",
            "Use the file as circuit-tracer saves it.",
        )


def _site(
    source: Source, table: dict[str, Any], side: str, number: int, subject: str
) -> Site | None:
    """Return the site of `side`; None where no config says it."""
    hook = table.get(f"feature_{side}_hook")
    if not hook:
        return None
    site = site_of_hook(f"blocks.{number}.{hook}", subject)
    if site is None:
        raise refusal(
            source.name,
            f"its {side} {hook!r} is no site here",
            "ln2.hook_normalized, for one, is before the norm's own weights.",
        )
    return site

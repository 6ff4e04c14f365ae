"""Gemma Scope 1 (params.npz) and 2 (params.safetensors, config.json) of Google DeepMind.

    W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,), threshold (F,)

Release 2 writes w_enc and w_dec. They are JumpReLU SAEs whose b_dec is not subtracted from the
input. The name of repository and folder says where an SAE belongs (`layer_20/width_16k/...`), in
release 2 its settings do so too. The embedding's SAE was trained on rows of the embedding, which
the subject multiplies by sqrt(D); that scale is folded into the weights.

Transcoders predict what the norm behind the MLP gives back. Those of release 2 read what the norm
in front of it gives back, and may have affine_skip_connection (D, D), which multiplies x. Those of
release 1 read what that norm computes before its own weights: resid_mid over its root mean square.
Cross-layer transcoders have w_dec (F, layers, D), what each feature writes in its own layer and in
those behind.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from core.records import Site
from core.saes.formats import folding
from core.saes.formats.names import site_of_hook
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig
from core.saes.shapes import check_shapes

CONTEXT = 1024
SUBLAYERS = {
    "res": "resid_post",
    "resid_post": "resid_post",
    "att": "attn_z",
    "attn_out": "attn_z",
    "mlp": "mlp_out",
    "mlp_out": "mlp_out",
}
NAMES = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
SKIP = "affine_skip_connection"


def matches(source: Source) -> bool:
    """Return whether the weights are of either release."""
    second = source.weights.suffix == ".safetensors"
    return source.weights.suffix == ".npz" or (
        second and {"w_enc", "w_dec", "threshold"} <= source.keys
    )


def load(source: Source) -> SAE:
    """Load the SAE or transcoder; raises UsageError for what is no JumpReLU of these releases."""
    table = source.config("config.json")
    tensors = as_floats({n.replace("w_", "W_"): tensor for n, tensor in source.table.items()})
    _check(source, table, tensors)
    release = 2 if table or source.weights.suffix == ".safetensors" else 1
    if _is_transcoder(source, table):
        return _load_transcoder(source, table, tensors, release)
    hook = table.get("hf_hook_point_in")
    site = site_of_hook(hook) if hook else _site(source.path)
    if re.search(r"(^|/)embedding", source.path):
        site = Site("resid_pre", layer=0)
        tensors = folding.scaled_input(tensors, tensors["b_dec"].numel() ** -0.5)
    return SAE(
        SAEConfig("jumprelu", "jumprelu", subtract_b_dec=False),
        tensors,
        site,
        _full_subject(source, table),
        CONTEXT,
        f"Gemma Scope {release}, {source.name}",
    )


def _full_subject(source: Source, table: dict[str, Any]) -> str:
    subject = str(table.get("model_name") or _subject(source.path))
    return f"google/{subject}" if subject and "/" not in subject else subject


def _is_transcoder(source: Source, table: dict[str, Any]) -> bool:
    hook_in, hook_out = table.get("hf_hook_point_in"), table.get("hf_hook_point_out")
    named = re.search(r"transcoder|(^|/)clt", source.path)
    return bool(hook_out not in (None, hook_in) or named)


def _load_transcoder(
    source: Source, table: dict[str, Any], tensors: dict[str, Tensor], release: int
) -> SAE:
    """Load a transcoder, or one layer of a cross-layer one."""
    across = tensors["W_dec"].ndim == 3
    if across:
        tensors["W_dec"] = tensors["W_dec"].sum(1)
    if SKIP in tensors:
        tensors["W_skip"] = tensors.pop(SKIP)
    check_shapes(tensors, transcoder=True)
    layer = re.search(r"layer_(\d+)", source.path)
    hook_in, hook_out = table.get("hf_hook_point_in"), table.get("hf_hook_point_out")
    if layer:
        inside = f"model.layers.{layer[1]}"
        hook_in = hook_in or f"{inside}.pre_feedforward_layernorm.output"
        hook_out = hook_out or f"{inside}.post_feedforward_layernorm.output"
    site = site_of_hook(hook_in) if hook_in else None
    if release == 1:
        site = Site("resid_mid", layer=int(layer[1])) if layer else None
    return SAE(
        SAEConfig(
            "jumprelu",
            "jumprelu",
            norm="constant_norm" if release == 1 else "none",
            subtract_b_dec=False,
            transcoder=True,
            cross_layer=across,
        ),
        tensors,
        site,
        _full_subject(source, table),
        CONTEXT,
        f"Gemma Scope {release}, {source.name}",
        site_of_hook(hook_out) if hook_out else None,
    )


def _check(source: Source, table: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise UsageError for what is no JumpReLU SAE of these releases."""
    transcoder = _is_transcoder(source, table)
    if not transcoder and (SKIP in tensors or table.get("affine_connection")):
        raise refusal(
            source.name,
            "part of its reconstruction bypasses the features",
            "Use one without a skip connection.",
        )
    across = "W_dec" in tensors and tensors["W_dec"].ndim != 2
    if across != bool(re.search(r"(^|/)clt", source.path)):
        raise refusal(
            source.name,
            "its name and its decoder disagree on whether it is a cross-layer transcoder",
            "Give its folder or file as the release names it.",
        )
    if (SKIP in tensors) != bool(table.get("affine_connection", SKIP in tensors)):
        raise refusal(
            source.name,
            "its config.json and its tensors disagree about a skip connection",
            "Put the config.json that belongs to it beside the weights.",
        )
    allowed = NAMES | {SKIP} if transcoder else NAMES
    if table.get("architecture", "jump_relu") != "jump_relu" or tensors.keys() not in (
        NAMES,
        allowed,
    ):
        raise refusal(
            source.name,
            f"it is no JumpReLU SAE of this release: its tensors are {sorted(tensors)}",
            "Use an SAE of Gemma Scope.",
        )
    if not transcoder:
        check_shapes(tensors)


def _site(path: str) -> Site | None:
    """Read `gemma-scope-2b-pt-res/layer_20/...` or `resid_post/layer_12_width_16k_l0_small`."""
    layer = re.search(r"layer_(\d+)", path)
    sublayer = re.search(
        r"(?:^|/)(resid_post|attn_out|mlp_out)(?:_all)?/"
        r"|gemma-scope-[\w.]+-(?:pt|it)-(res|att|mlp)",
        path,
    )
    if not layer or not sublayer:
        return None
    kind = SUBLAYERS[sublayer[1] or sublayer[2]]
    if kind == "mlp_out":  # read after the norm that follows the module
        return Site("output", module=f"model.layers.{layer[1]}.post_feedforward_layernorm")
    return Site(kind, layer=int(layer[1]))


def _subject(path: str) -> str:
    """Return the subject that the repository's name tells, or "".

    google/gemma-2-2b for gemma-scope-2b-pt-res, google/gemma-3-4b-it for gemma-scope-2-4b-it.
    """
    if second := re.search(r"gemma-scope-2-(\d+[bm])-(pt|it)", path):
        plain = second.groups() == ("270m", "pt")
        return f"google/gemma-3-{second[1]}" + ("" if plain else f"-{second[2]}")
    first = re.search(r"gemma-scope-(\d+b)-(pt|it)", path)
    if not first:
        return ""
    return f"google/gemma-2-{first[1]}" + ("-it" if first[2] == "it" else "")

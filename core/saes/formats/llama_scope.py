"""Llama Scope (He et al. 2024, arXiv 2410.20526): hyperparams.json and checkpoints/final.safetensors, JumpReLU.

    encoder.weight (F, D), encoder.bias (F,), decoder.weight (D, F), decoder.bias (D,)

Trained on s x with s = sqrt(D) / mean norm of the activations. s is taken into the weights; the one threshold of all features is stored in
raw units and becomes s times as large, so that an activation is in the units that the SAE was trained in.
"""

from __future__ import annotations

import torch

from core.saes.formats import folding
from core.saes.formats.names import site_of_hook
from core.saes.formats.places import Place
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, Form, check_shapes

SUBJECT, CONTEXT = "meta-llama/Llama-3.1-8B", 1024


def matches(place: Place) -> bool:
    return place.weights.parent.name == "checkpoints" and bool(place.config("../hyperparams.json"))


def load(place: Place) -> Published:
    """Raises UsageError for transcoders, for other activations, and where the norm of the activations is not said."""
    table = place.config("../hyperparams.json")
    hook_in, hook_out = table.get("hook_point_in", ""), table.get("hook_point_out")
    if hook_out not in (None, hook_in):
        raise refused(place.name, f"it is a transcoder from {hook_in} to {hook_out}", "Use an SAE of the same release.")
    if "jump_relu_threshold" not in table or table.get("act_fn", "jumprelu") != "jumprelu" or table.get("apply_decoder_bias_to_pre_encoder"):
        raise refused(place.name, "its hyperparams.json does not describe a JumpReLU SAE as released", "Use one of the published folders.")
    norm = (table.get("dataset_average_activation_norm") or {}).get("in")
    if not norm:
        raise refused(place.name, "its hyperparams.json does not say the norm of its activations", "Use one of the published folders.")
    weights = as_floats(place.content)
    tensors = {"W_enc": weights["encoder.weight"].T, "b_enc": weights["encoder.bias"], "W_dec": weights["decoder.weight"].T, "b_dec": weights["decoder.bias"]}
    check_shapes(tensors)
    scale = tensors["b_dec"].numel() ** 0.5 / norm
    tensors = folding.scaled_input(tensors, scale) | {"threshold": torch.full_like(tensors["b_enc"], table["jump_relu_threshold"] * scale)}
    sae = SAE(Form("jumprelu", "jumprelu", subtract_b_dec=False), tensors)
    return Published(sae, site_of_hook(hook_in, SUBJECT), SUBJECT, CONTEXT, True, f"Llama Scope, {place.name}")

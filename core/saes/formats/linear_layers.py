"""ReLU SAEs saved as two linear layers, one file each: Goodfire's for Llama 3 and qresearch's for DeepSeek R1.

    encoder_linear.weight (F, D), encoder_linear.bias (F,), decoder_linear.weight (D, F), decoder_linear.bias (D,)     Goodfire
    encoder.weight, encoder.bias, decoder.weight, decoder.bias                                                     DeepSeek R1

The decoder's bias is not taken off the input. Subject and layer stand in the name: `Llama-3.1-8B-Instruct-SAE-l19.pth`.
"""

from __future__ import annotations

import re

from core.records import Site
from core.saes.formats.places import Source
from core.saes.formats.published import Published
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

OWNERS = {"Llama": "meta-llama", "DeepSeek": "deepseek-ai"}


def matches(place: Source) -> bool:
    return any(
        place.keys == _names(prefix)
        for prefix in ("encoder_linear decoder_linear", "encoder decoder")
    )


def _names(layers: str) -> set[str]:
    return {f"{layer}.{part}" for layer in layers.split() for part in ("weight", "bias")}


def load(place: Source) -> Published:
    weights = {
        name.replace("_linear", ""): tensor for name, tensor in as_floats(place.content).items()
    }
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["decoder.weight"].T,
        "b_dec": weights["decoder.bias"],
    }
    found = re.search(r"((Llama|DeepSeek)-[\w.-]+)-SAE-l(\d+)", place.path)
    site, subject = (
        (Site("resid_post", layer=int(found[3])), f"{OWNERS[found[2]]}/{found[1]}")
        if found
        else (None, "")
    )
    return Published(
        SAE(SAEConfig("standard", "relu", subtract_b_dec=False), tensors),
        site,
        subject,
        0,
        True,
        f"two linear layers, {place.name}",
    )

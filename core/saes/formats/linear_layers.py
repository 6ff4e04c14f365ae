"""ReLU SAEs saved as two linear layers: Goodfire's for Llama 3, qresearch's for DeepSeek R1.

    Goodfire      encoder_linear.weight (F, D), encoder_linear.bias (F,),
                  decoder_linear.weight (D, F), decoder_linear.bias (D,)
    DeepSeek R1   encoder.weight, encoder.bias, decoder.weight, decoder.bias

The decoder's bias is not subtracted from the input. The file's name says subject and layer:
`Llama-3.1-8B-Instruct-SAE-l19.pth`.
"""

from __future__ import annotations

import re

from core.records import Site
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats
from core.saes.sae import SAE, SAEConfig

OWNERS = {"Llama": "meta-llama", "DeepSeek": "deepseek-ai"}


def matches(source: Source) -> bool:
    """Return whether the file holds just these four tensors, under either set of names."""
    return source.keys in (
        _names("encoder_linear", "decoder_linear"),
        _names("encoder", "decoder"),
    )


def _names(*layers: str) -> set[str]:
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def load(source: Source) -> SAE:
    """Load the SAE; site and subject stay unknown where the file's name does not say them."""
    floats = as_floats(source.table)
    weights = {name.replace("_linear", ""): tensor for name, tensor in floats.items()}
    tensors = {
        "W_enc": weights["encoder.weight"].T,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["decoder.weight"].T,
        "b_dec": weights["decoder.bias"],
    }
    site, subject = None, ""
    if named := re.search(r"((Llama|DeepSeek)-[\w.-]+)-SAE-l(\d+)", source.path):
        site, subject = Site("resid_post", layer=int(named[3])), f"{OWNERS[named[2]]}/{named[1]}"
    config = SAEConfig("standard", "relu", subtract_b_dec=False)
    return SAE(config, tensors, site, subject, source=f"two linear layers, {source.name}")

"""This program's own layout: one sae.safetensors whose header holds the form."""

from __future__ import annotations

from safetensors import SafetensorError, safe_open

from core.records import Site
from core.saes.checkpoint import NAME, load_sae, read_about
from core.saes.formats.places import Source
from core.saes.formats.published import Published


def matches(place: Source) -> bool:
    if place.weights.name != NAME:
        return False
    try:
        with safe_open(place.weights, framework="pt") as file:
            return "sae" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load(place: Source) -> Published:
    about = read_about(place.weights.parent)
    site = Site.parse(about["site"]) if about.get("site") else None
    sae = load_sae(place.weights.parent)
    return Published(
        sae, site, about.get("subject", ""), about.get("context", 0), True, f"our own, {place.name}"
    )

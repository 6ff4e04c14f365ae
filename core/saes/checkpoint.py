"""Save and load an SAE in our own layout: sae.safetensors, its config as JSON in the header.

Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from core.errors import UsageError
from core.files import write_tensors
from core.records import Site
from core.saes.sae import SAE, SAEConfig

NAME = "sae.safetensors"
TRAIN_AGAIN = "Train it again."


def save_own(sae: SAE, folder: Path) -> None:
    """Write `folder`/sae.safetensors whole, with what the SAE knows of where it belongs."""
    header: dict[str, Any] = asdict(sae.config)
    if sae.site or sae.subject or sae.context:
        site = str(sae.site) if sae.site else ""
        header["about"] = {"site": site, "subject": sae.subject, "context": sae.context}
        if not sae.bos:
            header["about"]["bos"] = False
    if sae.config.transcoder:
        header["site_out"] = str(sae.site_out or "")
    else:
        del header["transcoder"]
    if not sae.config.cross_layer:
        del header["cross_layer"]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in sae.state_dict().items()}
    # a single header entry: safetensors writes several in a random order
    write_tensors(folder / NAME, tensors, {"sae": json.dumps(header)})


def load_own(folder: Path, source: str = "") -> SAE:
    """Load the SAE in `folder` in float32; raises UsageError when the file is not one of ours."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sae", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", f"Give a folder that holds {NAME}."
        ) from None
    if not isinstance(header, dict):
        raise UsageError(f"{path} has a header that is not ours.", TRAIN_AGAIN)
    about = header.pop("about", {})
    place = header.pop("site_out", "")
    try:
        config = SAEConfig(**header)
    except TypeError as error:
        raise UsageError(f"{path} has a header that is not ours: {error}.", TRAIN_AGAIN) from None
    site = Site.parse(about["site"]) if about.get("site") else None
    try:
        sae = SAE(
            config,
            tensors,
            site,
            about.get("subject", ""),
            about.get("context", 0),
            source,
            Site.parse(place) if place else None,
        )
        sae.bos = about.get("bos", True)
        return sae
    except UsageError as error:
        raise UsageError(f"{path} does not fit its header: {error.message}", TRAIN_AGAIN) from None

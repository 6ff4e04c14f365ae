"""An SAE on disk: sae.safetensors, with its form as JSON in the header. Nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from core.errors import UsageError
from core.files import write_tensors
from core.saes.sae import SAE, SAEConfig

NAME = "sae.safetensors"


def save_sae(sae: SAE, folder: Path, about: dict | None = None) -> None:
    """Write `folder`/sae.safetensors whole. `about` says where the SAE belongs: site, subject, context."""
    header = {
        "sae": json.dumps(sae.settings() | ({"about": about} if about else {}))
    }  # one entry: safetensors writes several in a random order
    write_tensors(
        folder / NAME,
        {name: tensor.contiguous() for name, tensor in sae.state_dict().items()},
        header,
    )


def load_sae(folder: Path) -> SAE:
    """The SAE in `folder`, in float32; raises UsageError when the file is not one of ours."""
    path = folder / NAME
    header = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open has no iterator
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", "Give a folder that holds sae.safetensors."
        ) from None
    try:
        form = SAEConfig(**{name: value for name, value in header.items() if name != "about"})
    except TypeError as error:
        raise UsageError(f"{path}: its header is not ours: {error}.", "Train it anew.") from None
    try:
        return SAE(form, tensors)
    except UsageError as error:
        raise UsageError(
            f"{path} does not fit its header: {error.message}", "Train it anew."
        ) from None


def read_about(folder: Path) -> dict:
    """What the file in `folder` says about where its SAE belongs; {} where it says nothing."""
    return _header(folder / NAME).get("about", {})


def _header(path: Path) -> dict:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sae", "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", "Give a folder that holds sae.safetensors."
        ) from None
    if not isinstance(header, dict):
        raise UsageError(f"{path}: its header is not ours.", "Train it anew.")
    return header

"""An SAE on disk: sae.safetensors, with its form as JSON in the header. Nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from core.errors import UsageError
from core.files import write_tensors
from core.saes.sae import SAE, Form

NAME = "sae.safetensors"


def save_sae(sae: SAE, folder: Path) -> None:
    """Write `folder`/sae.safetensors whole."""
    header = {"sae": json.dumps(sae.settings())}  # one entry: safetensors writes several in a random order
    write_tensors(folder / NAME, {name: tensor.contiguous() for name, tensor in sae.state_dict().items()}, header)


def load_sae(folder: Path) -> SAE:
    """The SAE in `folder`, in float32; raises UsageError when the file is not one of ours."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sae", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open has no iterator
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a folder that holds sae.safetensors.") from None
    try:
        form = Form(**header)
    except TypeError as error:
        raise UsageError(f"{path}: its header is not ours: {error}.", "Train it anew.") from None
    try:
        return SAE(form, tensors)
    except UsageError as error:
        raise UsageError(f"{path} does not fit its header: {error.message}", "Train it anew.") from None

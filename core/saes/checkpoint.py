"""An SAE on disk: sae.safetensors, with its architecture and settings as JSON in the header. Nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from core.errors import UsageError
from core.files import write_tensors
from core.saes.protocol import SAE
from core.saes.tied import TiedL1
from core.saes.topk import TopK

ARCHITECTURES = {"topk": TopK, "tied_l1": TiedL1}
NAME = "sae.safetensors"


def save_sae(sae: SAE, folder: Path) -> None:
    """Write `folder`/sae.safetensors whole."""
    header = {"sae": json.dumps({"architecture": sae.architecture, "settings": sae.settings()})}  # one entry: several get a random order
    write_tensors(folder / NAME, sae.state_dict(), header)


def load_sae(folder: Path) -> SAE:
    """The SAE in `folder`, in float32 and without gradients; raises UsageError when the file is not one of ours."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sae", "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - safe_open has no iterator
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a folder that holds sae.safetensors.") from None
    kind = ARCHITECTURES.get(header.get("architecture"))
    if kind is None:
        raise UsageError(f"{path} names the architecture {header.get('architecture')!r}.", f"Known: {', '.join(ARCHITECTURES)}.")
    try:
        sae = kind(**header["settings"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: its header is not ours: {error}.", "Train it anew.") from None
    try:
        sae.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit its header: {str(error).splitlines()[-1].strip()}", "Train it anew.") from None
    return sae.requires_grad_(False)

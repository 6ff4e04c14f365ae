"""Choose the device on which a model is loaded and the type of its weights."""

from __future__ import annotations

import torch

from core.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto is CUDA, MPS or the CPU, whichever is there first.

    Raises UsageError for a device that this machine does not have.
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UsageError(
            f"There is no device {name!r} here.", "Use --device cpu, or leave it out."
        ) from None
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch type called `name`; auto is bfloat16 on hardware that multiplies it fast.

    That is CUDA from Ampere on and CPUs with AMX. Elsewhere auto is float32.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32

"""Which device a model is loaded on, and in which arithmetic."""

from __future__ import annotations

import torch

from core.errors import UsageError


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UsageError(
            f"There is no device {name!r} here.", "Use --device cpu, or leave it out."
        ) from None
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it fast (CUDA from Ampere, AMX), else float32, when `name` is auto."""
    if name != "auto":
        return getattr(torch, name)
    fast = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if fast else torch.float32

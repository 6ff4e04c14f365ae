"""Which device and type a model is loaded in, and what the hub's exceptions mean to a person."""

from __future__ import annotations

import contextlib

import torch

from core.errors import NotReady, UsageError


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UsageError(f"There is no device {name!r} here.", "Use --device cpu, or leave it out.") from None
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it fast (CUDA from Ampere, AMX), else float32, when `name` is auto."""
    if name != "auto":
        return getattr(torch, name)
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


@contextlib.contextmanager
def explained(name: str):
    """Turn the hub's exceptions into errors for a person."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except OSError as error:  # transformers raises OSError and keeps the hub's own error as its cause
        causes = [error, error.__cause__, error.__context__]
        if any(isinstance(c, GatedRepoError) for c in causes) or "gated repo" in str(error):
            raise NotReady(
                f"{name} is a gated repository and this machine has no access to it.",
                "Accept its terms on the hub, then set HF_TOKEN and type the command again.",
            ) from None
        if any(isinstance(c, LocalEntryNotFoundError) for c in causes) or "couldn't connect" in str(error):
            raise NotReady(
                f"{name} is not a folder here, and the hub cannot be reached.", "Check the name and the connection, or give a local folder."
            ) from None
        if any(isinstance(c, (RepositoryNotFoundError, HFValidationError)) for c in causes) or "not a local folder" in str(error):
            raise UsageError(
                f"There is no subject {name!r}, neither as a folder here nor on the hub.",
                "Give a folder with config.json and weights, or a hub name such as gpt2.",
            ) from None
        raise UsageError(
            f"The subject {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            "Give a folder with config.json, weights and tokenizer.json, or a hub name such as gpt2.",
        ) from None
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"The subject {name!r} cannot be loaded: {str(error).splitlines()[0]}", "Give a causal language model in Hugging Face layout."
        ) from None

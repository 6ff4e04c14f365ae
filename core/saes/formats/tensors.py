"""Read tensors of the file types that SAEs are published in; no file can run code.

`.pt` and `.pth` files are pickles. PyTorch's restricted unpickler opens them: it builds tensors,
numbers, strings and containers, and refuses every other name in the file before anything is called.
No other module opens one.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.errors import UsageError

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")


def read_weights(path: Path) -> object:
    """Return what the file holds: a table of tensors, or for `.pt` any plain containers.

    Raises UsageError when it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, EOFError, SafetensorError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} cannot be read: {_first_line(error)}.",
            "Download it again, or give another file.",
        ) from None
    return read_pickle(path)


def read_pickle(path: Path, records: dict[str, type] | None = None) -> object:
    """Return what a `.pt` file holds.

    `records` maps full names of the classes that the file was written with to plain classes that
    replace them. Raises UsageError when the file asks for anything else; nothing in it is run.
    """
    allowed: list[Any] = [(kind, name) for name, kind in (records or {}).items()]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path} holds more than tensors and is not opened: {_asked_for(error)}.",
            "Ask its authors for a .safetensors file, or convert it where you trust it.",
        ) from None
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
    ) as error:
        raise UsageError(
            f"{path} cannot be read: {_first_line(error)}.",
            "Download it again, or give another file.",
        ) from None


def _asked_for(error: Exception) -> str:
    """Return the sentence of PyTorch's long message that names what the file asked for."""
    sentences = [s.strip() for line in str(error).splitlines() for s in line.split(". ")]
    named = [s for s in sentences if "GLOBAL" in s or "Unsupported" in s]
    return (named or sentences)[0].rstrip(".")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def as_floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in float32, contiguous."""
    return {
        name: tensor.detach().to(torch.float32).contiguous() for name, tensor in tensors.items()
    }

"""Load the weights of a subject, and refuse those that are not whole.

A model whose weights do not all come from its file would run with random ones: transformers only
warns of it. What wrappers leave in names (`torch.compile`, FSDP, checkpointing, data parallelism,
PEFT, trainers) is left out and said: a part within the names, or a prefix of all of them. Weights
that share their values with others (tied) need not be in the file.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from core.errors import UsageError
from core.progress import say

# Parts that wrappers leave within names, as often as WITHIN; what stands in front of all is found
INNER = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
)
WITHIN = 3
PREFIXES = {  # of data parallelism and PEFT, and the names under which trainers hold a model
    "module", "base_model", "model", "net", "network", "lm", "llm", "language_model", "actor",
    "policy", "student", "generator", "pretrained_model",
}  # fmt: skip
POINTER = b"version https://git-lfs"
PACKAGES = {  # of quantisation methods, where the name differs
    "awq": "gptqmodel",
    "gptq": "gptqmodel",
    "mxfp4": "kernels",
    "fp8": "kernels",
    "fbgemm_fp8": "fbgemm-gpu",
    "quanto": "optimum-quanto",
    "auto-round": "auto-round",
}
# What transformers, safetensors and torch raise for files that are damaged or of another model
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    ImportError,
    RuntimeError,
    AttributeError,
    TypeError,
    AssertionError,
)
SPLIT = "auto:all"  # the device of a subject whose layers lie on several
SHOWN = 3  # names in a message


def load_weights(name: str, kind: torch.dtype, place: torch.device | str, **source: Any) -> Any:
    """The causal language model `name` with its trained weights on the device `place`.

    Where that is "auto", accelerate places the layers on all GPUs and then on the CPU. `source`
    holds `revision` and `trust_remote_code`. Raises UsageError where a weight is not in
    the file, where an adapter is not merged, or where the files are not whole.
    """
    check_files(Path(name))
    # A quantised model is placed as it is loaded; any other is moved faster than it is dispatched.
    at_once = place == "auto" or bool(quantisation(name))
    more = {"device_map": "auto" if place == "auto" else {"": place}} if at_once else {}
    model, info = _load(name, kind, source, more)
    inner, prefix = find_wrappers(info["missing_keys"], info["unexpected_keys"])
    if inner or prefix:
        said = " ".join([f"{part}." for part in inner] + ([prefix] if prefix else []))
        say(f"subject: the names of the weights hold {said}, which is left out")
        # one pattern takes one occurrence out of a name; {1,n} makes them differ
        mapping = {rf"{part}[.]{{1,{n}}}": "" for part in inner for n in range(1, WITHIN + 1)}
        mapping |= {f"^{re.escape(prefix)}": ""} if prefix else {}
        model, info = _load(name, kind, source, more | {"key_mapping": mapping})
    check_names(name, info)
    return check_placed(model) if at_once else model.to(place)


def split_model(model: Any) -> Any:
    """The model with its layers on all GPUs and then on the CPU, as accelerate divides them."""
    from accelerate import dispatch_model, infer_auto_device_map

    blocks = sorted(getattr(model, "_no_split_modules", None) or [])
    places = infer_auto_device_map(model, no_split_module_classes=blocks)
    return check_placed(dispatch_model(model, places))


def check_placed(model: Any) -> Any:
    """The model; raises UsageError where some of its weights are not in the memory of a device."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UsageError(
            "The subject does not fit the memory of all devices here; some layers would be read "
            "from the disk or from the CPU in each pass.",
            "Use a machine with more GPU memory, or a quantised copy of the subject.",
        )
    return model


def _load(name: str, kind: torch.dtype, source: dict[str, Any], renamed: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    with readable_weights(name):
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=kind, output_loading_info=True, **source, **renamed
        )


def find_wrappers(missing: Iterable[str], unexpected: Iterable[str]) -> tuple[list[str], str]:
    """(parts within the names, prefix of all names) without which the names would fit.

    `missing` are the names that the model has and the file has not, `unexpected` the other way
    round. A weight that is tied may be in neither, so most names must fit, not all. Both are empty
    where no known wrapper makes them fit.
    """
    wanted, there = set(missing), sorted(unexpected)
    inner = [part for part in INNER if any(f"{part}." in name for name in there)]
    plain = {_without(name, inner) for name in there}
    prefixes = {""}
    for name in plain:
        parts = name.split(".")
        known = next((i for i, part in enumerate(parts) if part not in PREFIXES), 0)
        prefixes |= {".".join(parts[:i]) + "." for i in range(1, known + 1)}
    fits = {p: sum(p + name in plain for name in wanted) for p in sorted(prefixes, key=len)}
    best = max(fits, key=lambda p: fits[p])
    return (inner, best) if 2 * fits[best] > len(wanted) else ([], "")


def _without(name: str, parts: list[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def check_names(name: str, info: dict[str, Any]) -> None:
    """Raise UsageError where a weight did not come from the file, or an adapter was left out."""
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        given = f"; it holds {_list(unexpected)} instead" if unexpected else ""
        raise UsageError(
            f"{len(missing)} weights of the subject {name!r} are not in its file, such as "
            f"{_list(missing)}{given}.",
            "Give the checkpoint that its config.json describes: they would be random.",
        )
    if mismatched := info.get("mismatched_keys"):
        raise UsageError(
            f"Weights of the subject {name!r} have another shape than its config.json says: "
            f"{_list(sorted(str(key) for key in mismatched))}.",
            "Give the checkpoint that its config.json describes.",
        )
    if adapters := [key for key in unexpected if "lora_" in key]:
        raise UsageError(
            f"The subject {name!r} holds an adapter that is not merged: {_list(adapters)}.",
            "Merge it first (PEFT: model.merge_and_unload()), then save the model.",
        )


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# ------------------------------------------------------------ files


def check_files(folder: Path) -> None:
    """Raise UsageError where a file of weights in a local folder is absent or cut off."""
    if not folder.is_dir():
        return
    for index in sorted(folder.glob("*.index.json")):
        check_index(folder, index)
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as handle:
            check_size(path, handle.read(64))


def check_pointers(folder: Path) -> None:
    """Raise UsageError where a file in a local folder is a pointer of Git LFS."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_file():
            continue
        with open(path, "rb") as handle:
            if handle.read(len(POINTER)) == POINTER:
                raise UsageError(
                    f"{path} is a pointer of Git LFS, not the file itself.",
                    "Fetch it in its repository: git lfs pull",
                )


def check_index(folder: Path, index: Path) -> None:
    """Raise UsageError where a file that the index of the weights names is not there."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        raise UsageError(
            f"{index} is no index of weights.", "Download the subject again."
        ) from None
    if absent := sorted(name for name in names if not (folder / name).is_file()):
        raise UsageError(
            f"{folder} lacks {_list(absent)}, of {len(names)} files of weights.",
            "Download the subject again; what is there is kept.",
        )


def check_size(path: Path, start: bytes) -> None:
    """Raise UsageError where a safetensors file is shorter than its header says."""
    size = path.stat().st_size
    length = int.from_bytes(start[:8], "little")
    whole = 0
    if len(start) >= 8 and 8 + length <= size:
        with open(path, "rb") as handle, contextlib.suppress(ValueError, KeyError, TypeError):
            header = json.loads(handle.read(8 + length)[8:])
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            whole = 8 + length + max(ends, default=0)
    if not whole or size < whole:
        raise UsageError(
            f"{path} is not whole: {size:,} bytes are there"
            + (f" of {whole:,}." if whole else ", and its header cannot be read."),
            "Download the subject again.",
        )


@contextlib.contextmanager
def readable_weights(name: str) -> Iterator[None]:
    """Context manager: turns what libraries raise for unreadable weights into UsageError."""
    try:
        yield
    except UNREADABLE as error:
        method = quantisation(name)
        said = " ".join(str(error).split())[:300] or type(error).__name__
        if method:
            package = PACKAGES.get(method, method)
            raise UsageError(
                f"The subject {name!r} is quantised ({method}) and cannot be loaded here: {said}",
                f"Install what reads it: pip install {package}; or give the subject that is not "
                "quantised.",
            ) from None
        raise UsageError(
            f"The weights of the subject {name!r} cannot be loaded: {said}",
            "Give a causal language model in Hugging Face layout, downloaded whole.",
        ) from None


def quantisation(name: str) -> str:
    """The method with which a subject is quantised, as its config says; empty without one."""
    from transformers import PretrainedConfig

    try:
        table, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError):
        return ""
    said = table.get("quantization_config") or {}
    method = str(said.get("quant_method") or "")
    if not method and (said.get("load_in_4bit") or said.get("load_in_8bit")):
        return "bitsandbytes"
    return method


def weight_shape(config: Any) -> tuple[int, int]:
    """(inputs, outputs) of the MLP's first matrix in the model of a Hugging Face `config`."""
    text = config.get_text_config()
    sizes = (getattr(text, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return text.hidden_size, next(filter(None, sizes), 4 * text.hidden_size)

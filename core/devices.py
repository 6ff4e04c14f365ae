"""Choose the device on which a model is loaded and the type of its arithmetic.

`auto` takes bfloat16 only where this machine multiplies it clearly faster than float32. A product
of the model's own shapes is timed once for each machine, shape, number of threads and version of
torch; machine.json in the home folder keeps the times, so that one machine always chooses alike.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import torch

from core.errors import UsageError
from core.files import read_json, write_json
from core.run import home_folder

KEPT = "machine.json"
TOKENS = 512  # rows of the product that is timed
WEIGHTS = 2**22  # largest number of weights in it
SECONDS = 0.3  # for which the two products take turns
CLEARLY = 1.3  # bfloat16 is taken where it is so many times as fast

_times: dict[str, dict[str, float]] = {}  # of this process, for a home that cannot be written


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


def pick_dtype(name: str, device: torch.device, shape: tuple[int, int]) -> torch.dtype:
    """The torch type called `name`; auto is bfloat16 where it is clearly faster on `device`.

    `shape` (inputs, outputs) is that of the model's largest matrices. On MPS and on CUDA devices
    that only emulate bfloat16, auto is float32.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if bfloat16_gain(device, shape) >= CLEARLY else torch.float32


def bfloat16_gain(device: torch.device, shape: tuple[int, int]) -> float:
    """How many times as fast as float32 a product with weights (inputs, outputs) is in bfloat16.

    0 where bfloat16 is not to be used.
    """
    if device.type == "cuda":
        usable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        usable = device.type == "cpu"
    if not usable:
        return 0.0
    n_in, n_out = shape[0], min(shape[1], max(1, WEIGHTS // shape[0]))
    name = f"{_name(device)}, torch {torch.__version__}, {TOKENS} x {n_in} x {n_out}"
    if name not in _times:
        kept = _read_kept()
        _times[name] = kept.get(name) or measure_products(device, (n_in, n_out))
        if name not in kept:
            _keep(name)
    times = _times[name]
    return times["float32"] / times["bfloat16"]


def measure_products(device: torch.device, shape: tuple[int, int]) -> dict[str, float]:
    """Seconds of a product of TOKENS vectors with weights (inputs, outputs), by type.

    The two types take turns, and each has its shortest time: a busy machine slows both.
    """
    vectors = torch.ones(TOKENS, shape[0], device=device)
    weights = torch.ones(shape[1], shape[0], device=device)
    factors = {
        name: (vectors.to(kind), weights.to(kind))
        for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    for x, w in factors.values():  # the first call of a shape sets up the library
        torch.nn.functional.linear(x, w)
    best = dict.fromkeys(factors, float("inf"))
    end = time.perf_counter() + SECONDS
    while torch.inf in best.values() or time.perf_counter() < end:
        for name, (x, w) in factors.items():
            best[name] = min(best[name], _time_product(x, w))
    return best


def _time_product(x: torch.Tensor, w: torch.Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    torch.nn.functional.linear(x, w)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return max(time.perf_counter() - start, 1e-9)


def _name(device: torch.device) -> str:
    """The processor and what of it is used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def _read_kept() -> dict[str, dict[str, float]]:
    try:
        kept: dict[str, dict[str, float]] = read_json(home_folder() / KEPT)
    except (OSError, json.JSONDecodeError):
        return {}
    return kept


def _keep(name: str) -> None:
    """Write the times of `name` to the home folder; a process that wrote them sooner is heeded."""
    kept = _read_kept()
    _times[name] = kept.get(name) or _times[name]
    if home_folder().is_dir():
        try:
            write_json(home_folder() / KEPT, kept | {name: _times[name]})
        except OSError:
            return  # read-only: the times hold for this process

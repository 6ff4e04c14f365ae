"""What a request of the explorer's page may ask, and who may ask: limits, checks, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from core.records import Clamp

HOSTS = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    bytes: int = 65_536  # of a body
    characters: int = 8_000  # of a text or prompt
    note: int = 500  # characters
    tokens: int = 128  # of a continuation
    samples: int = 4
    clamps: int = 8
    ablations: int = 20  # of single firings, and as many random ones
    attributed: int = 400  # tokens of a text behind which "why" is answered
    logprobs: int = 20  # next tokens that are compared at each place
    context: int = 200  # tokens on either side of a peak
    seconds: float = 60.0  # of computing, and of waiting for a turn


class Refused(Exception):
    """A request that is not answered: status code and a sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


def read_whole(asked: dict, name: str, least: int, most: int) -> int:
    """A whole number of the request; refuses anything else."""
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(400, f"{name} is a whole number from {least:,} to {most:,}.")
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_sampling(asked: dict) -> tuple[float, str]:
    """Temperature and positions of the request; refuses anything that is not allowed."""
    temperature, positions = asked.get("temperature", 0.7), asked.get("positions", "all")
    if not is_number(temperature) or not 0 <= temperature <= 5:
        raise Refused(400, "The temperature is a number from 0 to 5.")
    if positions not in ("all", "prompt", "generated"):
        raise Refused(400, "Positions are all, prompt or generated.")
    return float(temperature), positions


def read_clamp(one: Any) -> Clamp:
    """One clamp of the request; refuses anything else."""
    if not isinstance(one, dict) or one.get("mode") not in Clamp.MODES:
        raise Refused(400, "A clamp is {feature, mode, value, relative}.")
    value = one.get("value", 0)
    if not is_number(value):
        raise Refused(400, "A clamp is {feature, mode, value, relative}.")
    if not abs(float(value)) < 1e6:
        raise Refused(400, "The value of a clamp is a number below a million.")
    feature, relative = read_whole(one, "feature", 0, 10**9), bool(one.get("relative"))
    return Clamp(feature, one["mode"], float(value), relative)


# ---------------------------------------------------------------- safety


def check_host(request: Request) -> None:
    """Refuse all but loopback names: any other name that points here is an attack from a page."""
    host = request.headers.get("host", "").lower()
    name = host.partition(":")[0]
    if host.startswith("[") and "]" in host:
        name = host[: host.index("]") + 1]
    if name not in HOSTS:
        raise Refused(403, "Only 127.0.0.1 and localhost are answered.")


def check_origin(request: Request) -> None:
    """Refuse a POST that a browser sends from another page, and a body that is not JSON.

    A program that sends no origin may ask.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{request.headers['host'].lower()}":
        raise Refused(403, "Requests from other origins are refused.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "The body must be application/json.")

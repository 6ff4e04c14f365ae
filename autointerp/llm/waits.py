"""How long a server asks to wait: headers and messages of its errors, in the forms in use."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PART = re.compile(
    r"(\d+(?:\.\d+)?)\s*(milliseconds?|ms|seconds?|secs?|minutes?|mins?|hours?|days?|[smhd])"
)
WHOLE = re.compile(rf"(?:{PART.pattern}[\s,]*(?:and\s+)?)+", re.IGNORECASE)
# "Please try again in 1m30s", "retry after 26 seconds", `"retryDelay": "43s"`
SPOKEN = re.compile(
    rf"(?:(?:try|retry)(?:ing)?(?: again)?(?: in| after)|retry_?delay\W+|available in|wait)\s*"
    rf"(?:about |approximately |at least )?({WHOLE.pattern})",
    re.IGNORECASE,
)
EPOCH = 1e9  # a larger number counts seconds since 1970, or milliseconds from 1e11 on
FIELD = re.compile(r"\b(r|t|remaining|reset)\s*=\s*(\d+)")  # of the header `RateLimit`


def retry_after(headers: Mapping[str, str], now: float, said: str = "") -> float | None:
    """Seconds that a response asks to wait; None when it does not ask.

    Read from retry-after-ms, else from Retry-After, else from the limits that are used up
    (`x-ratelimit-reset-tokens` and its like), else from the text `said`. `now` is in seconds since
    1970.
    """
    table = {name.lower(): value for name, value in headers.items()}
    with contextlib.suppress(ValueError):
        if milliseconds := _finite(float(table.get("retry-after-ms", ""))):
            return max(0.0, milliseconds / 1000)
    asked = parse_wait(table.get("retry-after", ""), now)
    if asked is not None:
        return asked
    limits = _read_limits(table, now)
    if limits:
        return max(limits)
    spoken = SPOKEN.search(said)
    return parse_duration(spoken[1]) if spoken else None


def parse_wait(text: str, now: float) -> float | None:
    """Seconds from `now` that a header means; None where it means none.

    It may hold seconds, a duration (`1m30s`), a date of HTTP or ISO, or seconds or milliseconds
    since 1970.
    """
    text = text.strip()
    with contextlib.suppress(ValueError):
        value = _finite(float(text))
        if value is not None and value > EPOCH:
            value = (value / 1000 if value > 100 * EPOCH else value) - now
        return None if value is None else max(0.0, value)
    duration = parse_duration(text)
    if duration is not None:
        return duration
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            date = read(text)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            return max(0.0, date.timestamp() - now)
    return None


def parse_duration(text: str) -> float | None:
    """Seconds of a duration with units: `7.66s`, `120ms`, `1m30s`, `2 minutes and 5 seconds`."""
    if not WHOLE.fullmatch(text.strip()):
        return None
    return sum(float(number) * UNITS[_unit(name)] for number, name in PART.findall(text.lower()))


def _unit(name: str) -> str:
    return "ms" if name.startswith(("ms", "milli")) else name[0]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read_limits(table: Mapping[str, str], now: float) -> list[float]:
    """Seconds until each limit that is used up allows requests again."""
    waits = []
    for name, value in table.items():
        if "ratelimit" not in name.replace("-", ""):
            continue
        if "reset" in name:
            left = table.get(name.replace("reset", "remaining"), "0")
            with contextlib.suppress(ValueError):
                if float(left) <= 0:
                    waits.append(parse_wait(value, now))
            continue
        for part in value.split(","):  # of the draft standard: `"minute";r=0;t=30`
            fields = dict(FIELD.findall(part if ";" in part else value))
            if fields.get("r", fields.get("remaining")) == "0":
                waits.append(parse_wait(fields.get("t") or fields.get("reset") or "", now))
    return [wait for wait in waits if wait is not None]

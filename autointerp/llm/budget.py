"""What requests cost, before and after they are sent: tokens, money, a budget, and a pace.

Prices are money for a million tokens, as providers list them; without prices only tokens are
counted. A budget reserves, for each request in flight, the most that it can cost: its text at a
cautious number of tokens a character, and all of its `max_tokens`. Spent and reserved money
together never exceed the limit, so work stops before the limit and not after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from autointerp.llm.replies import Reply, Request
from core.errors import UsageError

# A generous estimate, for code with indices, until replies report usage; prose is near 0.25.
TOKENS_PER_CHARACTER = 0.4
CAUTION = 1.3  # ratio of the reserved tokens of a text to the expected ones
MESSAGE_TOKENS = 12  # about, of the chat template around a message


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens in and out."""

    per_million_in: float = 0.0
    per_million_out: float = 0.0

    def __bool__(self) -> bool:
        return self.per_million_in > 0 or self.per_million_out > 0

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


@dataclass
class Meter:
    """Counts received replies, and learns from them how many tokens a character takes."""

    prices: Prices = field(default_factory=Prices)
    n_received: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # replies without usage from the endpoint; their tokens are estimates
    _characters: int = 0
    _counted_in: int = 0

    @property
    def cost(self) -> float:
        """Money for all counted replies."""
        return self.prices.cost(self.tokens_in, self.tokens_out)

    def expected_in(self, request: Request) -> float:
        """About how many tokens the request's messages hold."""
        rate = TOKENS_PER_CHARACTER
        if self._characters > 2000:
            rate = self._counted_in / self._characters
        return characters(request) * rate + MESSAGE_TOKENS * len(request.messages)

    def most(self, request: Request) -> float:
        """The most that the request can cost."""
        return self.prices.cost(CAUTION * self.expected_in(request), room(request))

    def count(self, request: Request, reply: Reply) -> None:
        """Add a reply; one that was never received costs nothing."""
        if not reply.raw:
            return
        self.n_received += 1
        if reply.tokens_in:
            self._characters += characters(request)
            self._counted_in += max(0, reply.tokens_in - MESSAGE_TOKENS * len(request.messages))
        else:
            self.uncounted += 1
        self.tokens_in += reply.tokens_in or round(self.expected_in(request))
        self.tokens_out += reply.tokens_out or (
            round(len(reply.text or "") * TOKENS_PER_CHARACTER) if not reply.tokens_in else 0
        )

    def line(self) -> str:
        """Tokens and money, for the progress line."""
        money = f", {self.cost:.4f} spent" if self.prices else ""
        return f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out{money}"


def characters(request: Request) -> int:
    """Characters of the request's messages."""
    return sum(len(str(message["content"])) for message in request.messages)


def room(request: Request) -> int:
    """Tokens that the reply may have at most."""
    return int(request.parameters.get("max_tokens") or 4096)


@dataclass(frozen=True)
class Estimate:
    """Requests that are left, their tokens and money."""

    n_requests: int
    n_stored: int
    tokens_in: int
    tokens_out: int
    cost: float

    def line(self, prices: Prices) -> str:
        """The estimate in words."""
        money = (
            f", about {self.cost:.4f} in money"
            if prices
            else "; give --price-in and --price-out (a million tokens) to see the money"
        )
        stored = f" ({self.n_stored:,} more are answered already)" if self.n_stored else ""
        return (
            f"{self.n_requests:,} requests{stored}, about {self.tokens_in:,} tokens in and "
            f"{self.tokens_out:,} out{money}"
        )


def estimate(
    missing: Iterable[Request], n_stored: int, tokens_out: float, meter: Meter
) -> Estimate:
    """Cost of the `missing` requests if each reply has about `tokens_out` tokens."""
    sizes = [meter.expected_in(request) for request in missing]
    tokens_in, out = sum(sizes), tokens_out * len(sizes)
    return Estimate(
        len(sizes), n_stored, round(tokens_in), round(out), meter.prices.cost(tokens_in, out)
    )


class Budget:
    """Admits requests while the most that they can cost fits into what is left of the limit.

    A command may use it in several event loops, one after the other.
    """

    def __init__(self, limit: float, meter: Meter):
        if limit and not meter.prices:
            raise UsageError(
                "A budget needs prices.",
                "Add --price-in and --price-out: money for a million tokens.",
            )
        self.limit, self.meter = limit, meter
        self.exhausted = False  # a request was not admitted
        self._reserved: dict[str, float] = {}
        self._waiting: list[asyncio.Future] = []  # of the loop that runs now

    async def admit(self, request: Request) -> bool:
        """Whether the request may be sent; waits while replies in flight could make room."""
        if not self.limit:
            return True
        needed = self.meter.most(request)
        while self.meter.cost + sum(self._reserved.values()) + needed > self.limit:
            if not self._reserved or self.meter.cost + needed > self.limit:
                self.exhausted = True
                return False
            settled = asyncio.get_running_loop().create_future()
            self._waiting.append(settled)
            await settled
        self._reserved[request.key] = needed
        return True

    def settle(self, request: Request, reply: Reply) -> None:
        """The request has ended: replace its reservation by its cost."""
        self.meter.count(request, reply)
        self._reserved.pop(request.key, None)
        waiting, self._waiting = self._waiting, []
        for settled in waiting:
            if not settled.done():
                settled.set_result(None)


class Pace:
    """Spaces requests to keep limits of requests and tokens a minute; 0 is no limit."""

    def __init__(self, requests_per_minute: float = 0.0, tokens_per_minute: float = 0.0):
        self.requests, self.tokens = requests_per_minute, tokens_per_minute
        self._free_at = 0.0

    def delay(self, tokens: float, now: float) -> float:
        """Seconds to wait before a request of `tokens` may start; it counts as started then.

        `now` is in seconds of any clock.
        """
        takes = max(
            60 / self.requests if self.requests else 0.0,
            60 * tokens / self.tokens if self.tokens else 0.0,
        )
        starts = max(self._free_at, now)
        self._free_at = starts + takes
        return starts - now

"""Several endpoints that serve one model: requests go where the queue is shortest.

An endpoint that fails is left out for a while and its requests go elsewhere; then one request asks
it again, and the next ones follow where that was answered. Limits a minute, pauses that a server
asks for, and costs are each endpoint's own. Replies are kept under the first endpoint's URL,
whichever of them answered: endpoints may come and go between two commands, the first one stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autointerp.llm.budget import Meter, Pace, Prices
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.replies import Reply, Request, one_line
from autointerp.settings import LLMSettings
from core.errors import ProviderError
from core.progress import say

FIRST_REST, LONGEST_REST = 5.0, 60.0  # seconds for which an endpoint that failed is left out
STUMBLES = 3  # failed attempts in a row after which an endpoint counts as failed
LOOK = 0.05  # seconds between looks for an endpoint with room


@dataclass
class Server:
    """One endpoint of a fleet: its limits, and what is known of it in this command."""

    endpoint: Endpoint
    pace: Pace = field(default_factory=Pace)
    meter: Meter = field(default_factory=Meter)  # of the replies that it gave
    client: Any = None  # of the event loop that runs now
    in_flight: int = 0
    n_paid: int = 0
    n_failed: int = 0  # attempts
    stumbles: int = 0  # failed attempts since its last reply
    failed_in_row: int = 0  # pauses since its last reply
    resume_at: float = 0.0  # before it nothing is sent: the server asked for a pause, or it rests
    error: ProviderError | None = None  # what every request to it would hit, as of its last attempt

    def answered(self, request: Request, reply: Reply) -> None:
        """It gave a reply."""
        self.meter.count(request, reply)
        self.n_paid += 1
        self.stumbles, self.failed_in_row, self.error = 0, 0, None

    def summary(self) -> dict[str, Any]:
        """Its URL, replies, tokens, failed attempts, and cost where prices are known."""
        counts: dict[str, Any] = {
            "url": self.endpoint.url,
            "replies": self.meter.n_received,
            "failed_attempts": self.n_failed,
            "tokens_in": self.meter.tokens_in,
            "tokens_out": self.meter.tokens_out,
        }
        return counts | ({"cost": round(self.meter.cost, 6)} if self.meter.prices else {})


class Fleet:
    """The endpoints of a command, one or more."""

    def __init__(
        self,
        servers: Sequence[Server],
        most: int = 16,
        rest: float = FIRST_REST,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`most` requests are in flight at one endpoint; `rest` is its first pause, seconds."""
        self.servers, self.most, self.rest, self.clock = list(servers), most, rest, clock

    @property
    def first(self) -> Endpoint:
        """The endpoint under whose URL replies are kept."""
        return self.servers[0].endpoint

    @property
    def is_one(self) -> bool:
        return len(self.servers) == 1

    @property
    def urls(self) -> str:
        """The URLs of all endpoints, for messages."""
        return ", ".join(server.endpoint.url for server in self.servers)

    @property
    def room(self) -> int:
        """Requests that may be in flight at all endpoints together."""
        return self.most * len(self.servers)

    async def take(self) -> Server:
        """The endpoint with the shortest queue; waits while none of them has room.

        `release` gives it back. One endpoint alone never waits here: its pauses are the client's.
        """
        while True:
            now = self.clock()
            ready = [
                server
                for server in self.servers
                if self.is_one
                or (server.resume_at <= now and server.in_flight < self._room_at(server))
            ]
            if ready:
                best = min(ready, key=lambda server: (server.in_flight, server.meter.n_received))
                best.in_flight += 1
                return best
            await asyncio.sleep(LOOK)

    def _room_at(self, server: Server) -> int:
        return 1 if server.failed_in_row else self.most  # one request asks whether it is back

    def release(self, server: Server) -> None:
        """A request to the server has ended."""
        server.in_flight -= 1

    def leave_out(self, server: Server, why: BaseException, outage: bool = True) -> bool:
        """Note a failed attempt; whether the server rests now and another one may answer instead.

        Without `outage`, the attempt may have failed by itself; STUMBLES such attempts in a row
        are an outage. False where the server is the only one, and where each of them failed with
        an error that all requests hit.
        """
        server.n_failed += 1
        server.stumbles += 1
        server.error = why if isinstance(why, ProviderError) else None
        if self.is_one or all(other.error is not None for other in self.servers):
            return False
        if not outage and server.stumbles < STUMBLES:
            return False
        now = self.clock()
        if server.resume_at <= now or not server.failed_in_row:  # later failures of one outage
            if not server.failed_in_row:
                message = why.message if isinstance(why, ProviderError) else str(why)
                url, why_not = server.endpoint.url, one_line(message, 160)
                say(f"llm: {url} is left out for a while: {why_not}")
            pause = min(LONGEST_REST, self.rest * 2**server.failed_in_row)
            server.failed_in_row += 1
            server.resume_at = max(server.resume_at, now + pause)
        return True

    def choose_model(self, name: str) -> str:
        """`name`, or the only model that the first endpoint offers which answers.

        Raises ProviderError where none answers, UsageError where there is not exactly one model.
        """
        for server in self.servers:
            try:
                return server.endpoint.choose_model(name)
            except ProviderError as error:
                if not self.leave_out(server, error):
                    raise
        raise AssertionError("the last one raises")

    def summary(self) -> list[dict[str, Any]]:
        """What each endpoint did."""
        return [server.summary() for server in self.servers]


def open_fleet(settings: LLMSettings) -> Fleet:
    """The endpoints that --llm-url names, each with its own limits."""
    prices = Prices(settings.price_in, settings.price_out)
    servers = [
        Server(Endpoint(url), Pace(settings.rpm, settings.tpm), Meter(prices))
        for url in urls_of(settings.llm_url)
    ]
    return Fleet(servers, settings.concurrency)


def urls_of(text: str) -> list[str]:
    """The URLs of --llm-url, which may be given several times; one empty URL where none is."""
    return list(dict.fromkeys(text.split())) or [""]

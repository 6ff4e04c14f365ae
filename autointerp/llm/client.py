"""Client of the LLM endpoint: requests -> replies. No request is paid for twice.

    answer(requests, store, endpoint) -> {key of the request: Reply}

A raw reply is stored under the key of its request before it is read, so that an interrupt, a crash
or a better parser costs nothing. There are four kinds of failure, each a `Reply` whose `error` is
not empty:

    the provider failed     nothing was received; not stored, asked again by the next call
    a filter refused it     an error instead of a reply; not stored, asked again by the next call
    the budget is spent     nothing was sent; not stored, asked by the next call with a budget
    a reply without text    refused, truncated or empty; paid for, so stored; another `repetition`
                            asks again

Errors that every request would hit (connection refused, wrong key, unknown model, no credit, too
many failures in a row) raise ProviderError. The endpoint is any OpenAI-compatible server.
Parameters are sent as they are; if a model rejects one, it is dropped or renamed for that model,
based on the error message. `budget` holds prices, budgets and pace, `probe` finds out what an
endpoint can do. Prompts and the meaning of replies are not handled here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from autointerp.llm.budget import Budget, Meter, Pace, room
from autointerp.llm.endpoint import (
    Endpoint,
    no_credit,
    server_text,
    unreachable,
    wrong_key,
)
from autointerp.llm.fleet import Fleet, Server
from autointerp.llm.refusals import is_filtered, is_out_of_credit, is_wrong_key, plain_text
from autointerp.llm.replies import (
    Reply,
    ReplyStore,
    Request,
    is_completion,
    join_chunks,
    one_line,
    read_reply,
    stated_error,
)
from autointerp.llm.waits import retry_after
from core.errors import ProviderError

LONGEST_WAIT = 600.0  # seconds; a server that asks for a longer pause has failed
LONGEST_BACKOFF = 60.0  # seconds


class _Fault(Exception):
    """One attempt failed.

    `wait` is the seconds that the server asked to wait, if it did; `final` means that another
    attempt would fail too, `outage` that the endpoint itself does not answer. `kind` is that of the
    Reply: provider or refused.
    """

    def __init__(
        self,
        message: str,
        wait: float | None = None,
        final: bool = False,
        kind: str = "provider",
        outage: bool = False,
    ):
        super().__init__(message)
        self.wait, self.kind, self.outage = wait, kind, outage
        self.final = final or (wait or 0.0) > LONGEST_WAIT


@dataclass
class _Exchange:
    """One call of `answer`: its limits, and the state that its workers share."""

    fleet: Fleet
    store: ReplyStore
    timeout: float  # seconds for one attempt
    retries: int
    max_failures: int
    backoff: float  # seconds before the first retry
    received: Callable[[Reply], None]
    budget: Budget
    deadline: float  # seconds for one request, all attempts and waits together
    failures_in_row: int = 0

    async def run(self, requests: list[Request]) -> None:
        """Answer the requests, as many at once as the endpoints have room for."""
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                self._count(await self._answer(request))

        async with contextlib.AsyncExitStack() as clients:
            for server in self.fleet.servers:
                server.in_flight = 0
                client = server.endpoint.client(self.timeout)
                server.client = await clients.enter_async_context(client)
            n_workers = min(self.fleet.room, len(requests))
            workers = [asyncio.create_task(work()) for _ in range(n_workers)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _count(self, reply: Reply) -> None:
        # a filter's verdict on one text says nothing about the next
        if reply.error not in ("budget", "refused"):
            self.failures_in_row = self.failures_in_row + 1 if reply.error else 0
        self.received(reply)
        if self.failures_in_row >= self.max_failures:
            raise ProviderError(
                f"{self.failures_in_row} requests in a row to {self.fleet.urls} failed; the "
                f"last: {reply.message}",
                "Check the endpoint, then run the same command again: what was received is kept.",
            )

    async def _answer(self, request: Request) -> Reply:
        """The reply to one request, if the budget has room for it."""
        if not await self.budget.admit(request):
            message = f"not asked: it could cost more than is left of {self.budget.limit:g}"
            return Reply(request.key, None, error="budget", message=message)
        reply = Reply(request.key, None)  # what an interrupt leaves
        try:
            reply = await self._ask(request)
        finally:
            self.budget.settle(request, reply)
        return reply

    async def _ask(self, request: Request) -> Reply:
        """The reply to one request, stored; after the last attempt, the provider's failure."""
        clock = self.fleet.clock
        ends_at = clock() + self.deadline
        attempt = 0
        while True:
            server = await self.fleet.take()
            try:
                await self._wait_for_turn(server, request)
                raw = await self._attempt(server, request)
            except ProviderError as error:
                if not self.fleet.leave_out(server, error):
                    raise
                continue  # another endpoint has not been asked yet
            except _Fault as fault:
                attempt += 1
                message = f"{fault} (attempt {attempt})"
                failure = Reply(request.key, None, error=fault.kind, message=message)
                elsewhere = fault.kind == "provider" and self.fleet.leave_out(
                    server, fault, fault.outage
                )
                if fault.final or attempt > self.retries or clock() > ends_at:
                    return failure
                if fault.wait is not None:
                    server.resume_at = max(server.resume_at, clock() + fault.wait)
                elif not elsewhere:
                    pause = min(LONGEST_BACKOFF, self.backoff * 2 ** (attempt - 1))
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                continue
            finally:
                self.fleet.release(server)
            self.store.put(request, raw)
            reply = read_reply(request.key, raw)
            server.answered(request, reply)
            return reply

    async def _wait_for_turn(self, server: Server, request: Request) -> None:
        """Wait until the limits a minute and a pause of the server allow an attempt."""
        clock = self.fleet.clock
        tokens = self.budget.meter.expected_in(request) + room(request) / 4
        if (pause := server.pace.delay(tokens, clock())) > 0:
            await asyncio.sleep(pause)
        while (pause := server.resume_at - clock()) > 0:
            await asyncio.sleep(pause)

    async def _attempt(self, server: Server, request: Request) -> str:
        """The raw JSON of a completion.

        Raises _Fault when this attempt failed, ProviderError when every request would.
        """
        import aiohttp
        import openai

        endpoint = server.endpoint
        while True:  # each round but the last learns of one thing that the model refuses
            sent = endpoint.adapt(request)
            answered = {**sent, "messages": endpoint.adapt_messages(request)}
            try:
                # The client's own timeout counts from the last byte.
                async with asyncio.timeout(self.timeout):
                    response = await server.client.chat.completions.with_raw_response.create(
                        model=request.model,
                        messages=answered["messages"],
                        extra_body=sent,
                    )
            except openai.APIStatusError as error:
                text, named = server_text(endpoint, error), str(error.param or "")
                status = error.status_code
                if not endpoint.learn_refusal(request, answered, status, named, text):
                    raise self._status_fault(server, request, error) from None
                continue
            except (openai.APIConnectionError, aiohttp.ClientError) as error:
                raise self._connection_fault(server, error) from None
            except TimeoutError:
                raise _Fault(f"no reply within {self.timeout:g} s", outage=True) from None
            raw = join_chunks(endpoint.hide(response.text))
            if is_completion(raw):
                return raw
            stated = stated_error(raw)
            status, text = _read_stated(stated)
            if not endpoint.learn_refusal(request, answered, status, "", text):
                raise self._stated_fault(server, raw, stated)

    def _stated_fault(self, server: Server, raw: str, stated: Any) -> Exception:
        """The error to raise for a reply with status 200 that is no completion."""
        if stated is None:
            return _Fault(f"not a whole chat completion: {one_line(plain_text(raw), 120)!r}")
        status, text = _read_stated(stated)
        said = one_line(f"the provider answered with an error: {text}")
        if is_filtered(status, stated):
            return _Fault(said, final=True, kind="refused")
        if fatal := self._fatal(server, status, stated, said):
            return fatal
        return _Fault(said, retry_after({}, time.time(), str(stated)))

    def _fatal(self, server: Server, status: int, stated: Any, said: str) -> Exception | None:
        """The error that every request would hit: credit or the key; None for another one."""
        code = stated.get("code") if isinstance(stated, dict) else None
        if is_out_of_credit(status, code, said):
            return no_credit(server.endpoint, status, said)
        # After a first reply, a 403 is a gateway's verdict on one text.
        if is_wrong_key(status, said) or (status == 403 and not server.n_paid):
            return wrong_key(server.endpoint, status, said)
        return None

    def _status_fault(self, server: Server, request: Request, error: Any) -> Exception:
        """The error to raise for an HTTP status."""
        endpoint = server.endpoint
        status, said = error.status_code, server_text(endpoint, error)
        if is_filtered(status, error.body or error.response.text):
            return _Fault(f"HTTP {status}: {said}", final=True, kind="refused")
        if fatal := self._fatal(server, status, {"code": error.code}, said):
            return fatal
        if status in (404, 405) and not server.n_paid:
            return ProviderError(
                f"{endpoint.url} cannot serve model {request.model!r} (HTTP {status}): {said}",
                "Check --llm-model, and that --llm-url is the address that ends in /v1 on most "
                "servers.",
            )
        transient = status in (408, 409, 425, 429) or status >= 500
        headers = error.response.headers if transient else {}
        return _Fault(
            f"HTTP {status}: {said}",
            retry_after(headers, time.time(), error.response.text if transient else ""),
            final=not transient,
            outage=status in (502, 503, 504),
        )

    def _connection_fault(self, server: Server, error: BaseException) -> Exception:
        """The error to raise for a broken connection.

        It is final when no connection was ever made; a server that answered before may come back.
        """
        import aiohttp

        causes = [error]
        while cause := causes[-1].__cause__:
            causes.append(cause)
        refused = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        if not server.n_paid and any(isinstance(cause, refused) for cause in causes):
            return unreachable(server.endpoint, error)
        said = server.endpoint.hide(f"{error} {error.__cause__ or ''}")
        return _Fault(one_line(said), outage=True)


def _read_stated(stated: Any) -> tuple[int, str]:
    """(HTTP status, text) of an error that came with status 200; 400 where it says no status."""
    code = stated.get("code") if isinstance(stated, dict) else None
    message = stated.get("message") if isinstance(stated, dict) else stated
    status = int(str(code)) if str(code).isdecimal() else 400
    return status, str(message or stated or "")


def answer(
    requests: Iterable[Request],
    store: ReplyStore,
    endpoint: Endpoint,
    *,
    concurrency: int = 16,
    timeout: float = 300.0,
    retries: int = 5,
    max_failures: int = 20,
    on_progress: Callable[[Reply], None] | None = None,
    backoff: float = 0.5,
    deadline: float = 1800.0,
    budget: Budget | None = None,
    pace: Pace | None = None,
    fleet: Fleet | None = None,
) -> dict[str, Reply]:
    """{key: Reply} for every distinct request, in order.

    Stored replies are read from the store; the others are asked and stored on arrival. `timeout`
    is seconds for one attempt, of which there are at most 1 + `retries`. Waits double from
    `backoff` seconds, a server's Retry-After holds back all workers, and no attempt begins later
    than `deadline` seconds after the first. A request that `budget` does not admit ends as a Reply
    with error "budget". `fleet` holds the endpoints that answer, where there are several, each with
    a pace of its own; `endpoint` is the first of them, and `concurrency` and `pace` are not used.
    `on_progress` gets each Reply once, stored ones first. Raises
    ProviderError after `max_failures` failures in a row. Whatever it raises, Ctrl-C included,
    every reply received before is in the store. It cannot run inside a running event loop.
    """
    wanted = {request.key: request for request in requests}
    replies: dict[str, Reply] = {}

    def received(reply: Reply) -> None:
        replies[reply.key] = reply
        if on_progress:
            on_progress(reply)

    missing = []
    for key, request in wanted.items():
        raw = store.get(key)
        if raw is not None:
            received(read_reply(key, raw))
        elif request.endpoint != endpoint.url:
            raise ValueError(f"a request for {request.endpoint} was passed to {endpoint.url}")
        else:
            missing.append(request)
    if missing:
        if fleet is None:
            fleet = Fleet([Server(endpoint, pace or Pace())], concurrency)
        budget = budget or Budget(0.0, Meter())
        exchange = _Exchange(
            fleet, store, timeout, retries, max_failures, backoff, received, budget, deadline
        )
        asyncio.run(exchange.run(missing))
    return {key: replies[key] for key in wanted}

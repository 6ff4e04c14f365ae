"""The one door to an LLM: requests -> replies, and no request is paid for twice.

    answer(requests, store, endpoint) -> {key of the request: Reply}

A raw reply is written under the key of its request before anyone reads it: an interrupt, a crash or a better parser costs nothing.
Three kinds of failure, each a `Reply` whose `error` is not empty:

    the provider failed     nothing was received; not stored, asked again by the next call
    the budget is spent     nothing was sent; not stored, asked by the next call that has one
    a reply without text    refused, truncated or empty; paid for, so stored; to ask again, raise `repetition`

What no other request would survive either (nobody listens, a wrong key, an unknown model, no credit, too many failures in a row) raises
ProviderError. The endpoint is any OpenAI-compatible server. Parameters are sent as they are; what a model says it refuses is adapted
once, from what it says and not from a list of models. Prices, budgets and pace are `spending`'s, what an endpoint can do is
`probing`'s; not here: prompts, the meaning of a text.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, unquote, urlsplit

from autointerp.replies import Reply, ReplyStore, Request, is_completion, one_line, public_url, read_reply
from autointerp.spending import Budget, Meter, Pace, room
from core.errors import ProviderError, UsageError

OPENAI = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0  # a host that does not answer the door within this is not there
LONGEST_WAIT = 600.0  # seconds; a server that asks for a longer pause has failed
LONGEST_BACKOFF = 60.0  # seconds
SHORTEST_SECRET = 8  # characters; hiding shorter ones ("none", "x") would only damage replies
SECRET_NAMES = re.compile(r"key|token|secret|sig|auth|pass", re.IGNORECASE)


class Endpoint:
    """Where requests go, the credentials for it, and the parameters that each of its models was found to refuse.

    `url` defaults to OPENAI_BASE_URL, then to OpenAI; `api_key` to OPENAI_API_KEY. Credentials in the URL are used and never shown.
    What models refuse is remembered while this object lives: make one a process.
    """

    def __init__(self, url: str = "", api_key: str = ""):
        given = (url or os.environ.get("OPENAI_BASE_URL") or OPENAI).strip()
        shown = given.rpartition("@")[2].partition("?")[0]
        try:
            parts = urlsplit(given)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise UsageError(f"The endpoint {shown!r} is not a web address.", "Give one such as http://localhost:11434/v1 or https://api.openai.com/v1.")
        self.url = public_url(given)
        self.host = parts.hostname
        self.refused: dict[str, set[str]] = {}  # model -> names of parameters
        self._query = dict(parse_qsl(parts.query))
        self._key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError("The API key holds characters that no key has.", "Set OPENAI_API_KEY again, to the key alone.")
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._basic = base64.b64encode(login.encode()).decode() if "@" in parts.netloc else ""
        secrets = [self._key, self._basic, parts.password or "", unquote(parts.password or "")]
        secrets += [value for name, value in self._query.items() if SECRET_NAMES.search(name)]
        self._secrets = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)

    def request(self, model: str, messages: list[dict], repetition: int = 0, **parameters) -> Request:
        """A request to this endpoint."""
        return Request(self.url, model, messages, parameters, repetition)

    def choose_model(self, name: str = "", timeout: float = 30.0) -> str:
        """`name`, or else the only model that the endpoint offers; raises UsageError with their names when it is not the only one."""
        return name or asyncio.run(self._only_model(timeout))

    async def _only_model(self, timeout: float) -> str:
        import aiohttp
        import openai

        async with self.client(timeout) as client:
            try:
                offered = [model.id async for model in client.models.list()]
            except openai.APIStatusError as error:
                if error.status_code in (401, 403):
                    raise _wrong_key(self, error) from None
                raise UsageError(f"{self.url} does not list its models (HTTP {error.status_code}).", "Name one with --llm-model.") from None
            except (openai.APIConnectionError, aiohttp.ClientError) as error:
                raise _not_there(self, error) from None
            except (AttributeError, TypeError, ValueError):
                raise UsageError(f"{self.url} does not list its models in a form that can be read.", "Name one with --llm-model.") from None
        if len(offered) != 1:
            names = ", ".join(offered[:40]) or "(none)"
            raise UsageError(f"{self.url} offers {len(offered)} models and none was named.", f"Add --llm-model with one of: {names}.")
        return offered[0]

    def client(self, timeout: float):
        """An AsyncOpenAI that never retries by itself; raises UsageError when OpenAI is asked without a key."""
        import openai

        if self.host == "api.openai.com" and not self._key:
            raise UsageError("api.openai.com needs a key, and OPENAI_API_KEY is not set.", "Set OPENAI_API_KEY, or name another server with --llm-url.")
        return openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or "none",  # local servers take any
            default_query=self._query,
            default_headers={"Authorization": f"Basic {self._basic}"} if self._basic else None,
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            http_client=openai.DefaultAioHttpClient(),
        )

    def adapted(self, request: Request) -> dict:
        """The request's parameters without those that its model refuses."""
        refused = self.refused.get(request.model, set())
        sent = {name: value for name, value in request.parameters.items() if name not in refused}
        if "max_tokens" in refused and "max_tokens" in request.parameters:
            sent["max_completion_tokens"] = request.parameters["max_tokens"]
        return sent

    def hide(self, text: str) -> str:
        """`text` without the credentials, should a server repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def refused_parameter(sent: dict, named: str, text: str) -> str:
    """Which of the parameters `sent` an error complains of, or "". `named` is the error's own `param`, where it gives one.

    Renaming max_tokens asks for more than its mention: vLLM names both spellings when the context is too long.
    """
    if "max_tokens" in sent and "max_completion_tokens" in text and re.search(r"instead|unsupported|not supported", text, re.IGNORECASE):
        return "max_tokens"
    complained = named or text
    return next((name for name in ("temperature", "response_format") if name in sent and name in complained), "")


def retry_after(headers, now: float) -> float | None:
    """Seconds that a response asks to wait: retry-after-ms, or Retry-After in seconds or as a date (`now` in seconds since 1970)."""
    with contextlib.suppress(ValueError):
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None


def _server_text(endpoint: Endpoint, error) -> str:
    """What an error response says, in one line, without credentials."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return one_line(endpoint.hide(str(said or error.response.text or "no explanation")))


def _wrong_key(endpoint: Endpoint, error) -> ProviderError:
    return ProviderError(f"{endpoint.url} refused the key (HTTP {error.status_code}): {_server_text(endpoint, error)}", "Set OPENAI_API_KEY to a key of it.")


def _not_there(endpoint: Endpoint, error) -> ProviderError:
    why = one_line(endpoint.hide(str(error.__cause__ or error)))
    return ProviderError(f"Nothing answers at {endpoint.url}: {why}", "Start the server, or give another address with --llm-url.")


class _Fault(Exception):
    """One attempt failed. `wait`: seconds that the server asked for, if it did; `final`: another attempt would end alike."""

    def __init__(self, message: str, wait: float | None = None, final: bool = False):
        super().__init__(message)
        self.wait = wait
        self.final = final or (wait or 0.0) > LONGEST_WAIT


@dataclass
class _Exchange:
    """One call of `answer`: its limits, and what its workers share while they send."""

    endpoint: Endpoint
    store: ReplyStore
    timeout: float  # seconds for one attempt
    retries: int
    max_failures: int
    backoff: float  # seconds before the first retry
    received: Callable[[Reply], None]
    budget: Budget
    pace: Pace
    deadline: float  # seconds for one request, all attempts and waits together
    n_paid: int = 0
    failures_in_row: int = 0
    resume_at: float = 0.0  # loop time; a rate limit asks all workers to send nothing before it

    async def run(self, requests: list[Request], concurrency: int) -> None:
        waiting = iter(requests)

        async def work(client) -> None:
            for request in waiting:
                self._count(await self._admitted(client, request))

        async with self.endpoint.client(self.timeout) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(concurrency, len(requests)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _count(self, reply: Reply) -> None:
        if reply.error != "budget":
            self.failures_in_row = self.failures_in_row + 1 if reply.error else 0
        self.received(reply)
        if self.failures_in_row >= self.max_failures:
            raise ProviderError(
                f"{self.failures_in_row} requests in a row to {self.endpoint.url} gave nothing; the last: {reply.message}",
                "See to the endpoint, then run the same command again: what was received is kept.",
            )

    async def _admitted(self, client, request: Request) -> Reply:
        """The reply to one request, if the budget has room for it."""
        if not await self.budget.admit(request):
            return Reply(request.key, None, error="budget", message=f"not asked: it could cost more than is left of {self.budget.limit:g}")
        reply = Reply(request.key, None)  # what an interrupt leaves
        try:
            reply = await self._ask(client, request)
        finally:
            self.budget.settle(request, reply)
        return reply

    async def _ask(self, client, request: Request) -> Reply:
        """The reply to one request, stored; after the last attempt a Reply that carries the provider's failure."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + self.deadline
        for attempt in range(self.retries + 1):
            await self._turn(request, clock)
            try:
                raw = await self._attempt(client, request)
            except _Fault as fault:
                failure = Reply(request.key, None, error="provider", message=f"{fault} (attempt {attempt + 1})")
                if fault.final or attempt == self.retries or clock() > ends_at:
                    break
                if fault.wait is None:
                    await asyncio.sleep(min(LONGEST_BACKOFF, self.backoff * 2**attempt) * random.uniform(0.5, 1.0))
                else:
                    self.resume_at = max(self.resume_at, clock() + fault.wait)
                continue
            self.store.put(request, raw)
            self.n_paid += 1
            return read_reply(request.key, raw)
        return failure

    async def _turn(self, request: Request, clock: Callable[[], float]) -> None:
        """Wait until the limits a minute, and a server that asked for a pause, let one more attempt go."""
        if (pause := self.pace.delay(self.budget.meter.expected_in(request) + room(request) / 4, clock())) > 0:
            await asyncio.sleep(pause)
        while (pause := self.resume_at - clock()) > 0:
            await asyncio.sleep(pause)

    async def _attempt(self, client, request: Request) -> str:
        """The raw JSON of a completion. Raises _Fault when this attempt failed, ProviderError when all would."""
        import aiohttp
        import openai

        while True:  # each turn but the last learns of one parameter that the model refuses
            sent = self.endpoint.adapted(request)
            try:
                async with asyncio.timeout(self.timeout):  # the client's own counts from the last byte
                    response = await client.chat.completions.with_raw_response.create(model=request.model, messages=request.messages, extra_body=sent)
                break
            except openai.APIStatusError as error:
                refused = refused_parameter(sent, str(error.param or ""), _server_text(self.endpoint, error)) if error.status_code in (400, 422) else ""
                if not refused:
                    raise self._status_fault(request, error) from None
                self.endpoint.refused.setdefault(request.model, set()).add(refused)
            except (openai.APIConnectionError, aiohttp.ClientError) as error:
                raise self._connection_fault(error) from None
            except TimeoutError:
                raise _Fault(f"no reply within {self.timeout:g} s") from None
        raw = self.endpoint.hide(response.text)
        if not is_completion(raw):
            raise _Fault(f"not a whole chat completion: {one_line(raw, 120)!r}")
        return raw

    def _status_fault(self, request: Request, error) -> Exception:
        status, said = error.status_code, _server_text(self.endpoint, error)
        if status == 401 or (status == 403 and not self.n_paid):  # later, a 403 is a gateway's verdict on one text
            return _wrong_key(self.endpoint, error)
        if status == 402 or error.code == "insufficient_quota":
            return ProviderError(f"{self.endpoint.url} has no credit left (HTTP {status}): {said}", "Add credit, then run the same command again.")
        if status in (404, 405):
            step = "Check --llm-model, and that --llm-url is the address that ends in /v1 on most servers."
            return ProviderError(f"{self.endpoint.url} cannot serve model {request.model!r} (HTTP {status}): {said}", step)
        transient = status in (408, 409, 425, 429) or status >= 500
        return _Fault(f"HTTP {status}: {said}", retry_after(error.response.headers, time.time()), final=not transient)

    def _connection_fault(self, error) -> Exception:
        """Fatal when nobody listens and nobody ever did; a server that goes away for a moment is worth another attempt."""
        import aiohttp

        causes = [error]
        while causes[-1].__cause__:
            causes.append(causes[-1].__cause__)
        if not self.n_paid and any(isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)) for cause in causes):
            return _not_there(self.endpoint, error)
        return _Fault(one_line(self.endpoint.hide(f"{error} {error.__cause__ or ''}")))


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
) -> dict[str, Reply]:
    """{key: Reply} for every distinct request, in their order: from the store where it has them, else asked and stored on arrival.

    `timeout` is seconds for one attempt, of which there are at most 1 + `retries`; waits double from `backoff` seconds and a server's
    Retry-After holds back all workers; no attempt begins later than `deadline` seconds after the first. A request that `budget` does not
    admit ends as a Reply with error "budget". `on_progress` gets each Reply once, stored ones first. Raises ProviderError after `max_failures`
    failures in a row. Whatever it raises, Ctrl-C included, every reply received until then is in the store. Not for use inside a
    running event loop.
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
            raise ValueError(f"a request for {request.endpoint} was handed to {endpoint.url}")
        else:
            missing.append(request)
    if missing:
        limits = (budget or Budget(0.0, Meter()), pace or Pace(), deadline)
        exchange = _Exchange(endpoint, store, timeout, retries, max_failures, backoff, received, *limits)
        asyncio.run(exchange.run(missing, concurrency))
    return {key: replies[key] for key in wanted}

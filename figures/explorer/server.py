"""The explorer with the subject behind it, on this machine only: your text, clamps, notes.

A page on the web must not reach it: only loopback host names are answered (against DNS rebinding), a request with a body must be
JSON from this very origin (another site can send neither without a preflight, which is refused), and answers carry a content policy.
The subject is used by one request at a time; a request is limited in bytes, in tokens and in seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from autointerp.features import Features
from autointerp.labels.notes import add_note
from core.errors import ToolError, UsageError
from core.records import Clamp
from figures.explorer.shards import PAGE, Shards

HOSTS = ("127.0.0.1", "localhost", "[::1]")
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    bytes: int = 65_536  # of a body
    characters: int = 8_000  # of a text or prompt
    note: int = 500  # characters
    tokens: int = 128  # of a continuation
    samples: int = 4
    clamps: int = 8
    seconds: float = 60.0  # of computing, and of waiting for a turn


@dataclass(frozen=True)
class LiveCalls:
    """What the server may do with the live subject, given by the verb.

    read (text) -> {tokens, firings}, one pass, cut at the subject's context; clamp (clamps, maxima, prompt, tokens, samples, temperature,
    positions, seconds) -> record, a UsageError after `seconds`.
    """

    read: Callable[..., dict]
    clamp: Callable[..., dict]


class Refused(Exception):
    """A request that is not answered: status code and a sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Server:
    """One run behind a Starlette application."""

    def __init__(self, features: Features, doors: LiveCalls, limits: Limits = Limits()):  # noqa: B008 - frozen
        self.features, self.doors, self.limits = features, doors, limits
        live = {
            "characters": limits.characters,
            "tokens": limits.tokens,
            "samples": limits.samples,
            "prompt": "def main():\n    ",
        }
        self.shards = Shards(features, live)
        self.turn = asyncio.Lock()  # the subject and the index are used by one request at a time

    def application(self) -> Starlette:
        post = lambda path, answer: Route(path, partial(self.answer, answer), methods=["POST"])
        routes = [
            Route("/", self.page), Route("/{name}", self.page), Route("/data/{name}.js", self.shard),
            post("/api/text", self.text), post("/api/clamp", self.clamp), post("/api/note", self.note),
        ]  # fmt: skip
        return Starlette(
            routes=routes, middleware=[], exception_handlers={Refused: refused, ToolError: unusable}
        )

    # ------------------------------------------------------------ reading

    async def page(self, request: Request) -> Response:
        check_host(request)
        name = request.path_params.get("name", "index.html")
        known = {path.name: path for path in PAGE.iterdir()}
        if name not in known:
            raise Refused(404, f"There is no {name}.")
        return Response(
            known[name].read_bytes(), media_type=KINDS[name.rpartition(".")[2]], headers=HEADERS
        )

    async def shard(self, request: Request) -> Response:
        check_host(request)
        body = await self.in_turn(self.shards.script, request.path_params["name"])
        return Response(body, media_type="text/javascript", headers=HEADERS)

    async def in_turn(self, function: Callable, *arguments):
        """Call `function` in a thread when the others are done; after `seconds` of waiting the request is refused."""
        try:
            await asyncio.wait_for(self.turn.acquire(), self.limits.seconds)
        except TimeoutError:
            raise Refused(503, "The subject is busy with another request. Try again.") from None
        try:
            return await run_in_threadpool(function, *arguments)
        finally:
            self.turn.release()

    # ------------------------------------------------------------ asking

    async def answer(self, function: Callable[[dict], dict], request: Request) -> Response:
        check_host(request)
        check_origin(request)
        asked = await self.body(request)
        value = await self.in_turn(function, asked)
        return JSONResponse(value, headers=HEADERS)

    async def body(self, request: Request) -> dict:
        """The JSON object of the body, read no further than the limit."""
        data = b""
        try:
            async for part in request.stream():
                data += part
                if len(data) > self.limits.bytes:
                    raise Refused(413, f"The request is longer than {self.limits.bytes:,} bytes.")
        except ClientDisconnect:
            raise Refused(400, "The request broke off.") from None
        try:
            asked = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(400, "The body is not JSON.") from None
        if not isinstance(asked, dict):
            raise Refused(400, "The body is not a JSON object.")
        return asked

    def text(self, asked: dict) -> dict:
        """Features that fire on a text, and not on another, the strongest of their own maximum first."""
        text, against = self.words(asked, "text"), self.words(asked, "against", needed=False)
        reading = self.doors.read(text)
        left_out = (
            {f for _, f, _ in self.doors.read(against)["firings"]} if against.strip() else set()
        )
        found: dict[int, dict[int, float]] = {}
        for position, feature, activation in reading["firings"]:
            if feature not in left_out:
                found.setdefault(feature, {})[position] = activation
        rows = []
        for feature, activations in found.items():
            maximum = self.features.stats(feature).max
            share = max(activations.values()) / maximum if maximum else 0.0
            rows.append(
                {
                    "feature": feature,
                    "label": self.features.label(feature),
                    "max": maximum,
                    "share": share,
                    "activations": activations,
                }
            )
        return {
            "tokens": reading["tokens"],
            "features": sorted(rows, key=lambda row: -row["share"]),
        }

    def clamp(self, asked: dict) -> dict:
        limits = self.limits
        given = asked.get("clamps")
        if not isinstance(given, list) or not 1 <= len(given) <= limits.clamps:
            raise Refused(400, f"Give 1 to {limits.clamps} clamps.")
        clamps = [read_clamp(one) for one in given]
        maxima = {c.feature: self.features.stats(c.feature).max for c in clamps}
        tokens, samples = (
            whole(asked, "tokens", 1, limits.tokens),
            whole(asked, "samples", 1, limits.samples),
        )
        temperature, positions = asked.get("temperature", 0.7), asked.get("positions", "all")
        if (
            not isinstance(temperature, (int, float))
            or not 0 <= temperature <= 5
            or positions not in ("all", "prompt", "generated")
        ):
            raise Refused(
                400,
                "The temperature is a number from 0 to 5, and positions are all, prompt or generated.",
            )
        record = self.doors.clamp(
            clamps,
            maxima,
            self.words(asked, "prompt"),
            tokens,
            samples,
            float(temperature),
            positions,
            limits.seconds,
        )
        return record | {"labels": {str(c.feature): self.features.label(c.feature) for c in clamps}}

    def note(self, asked: dict) -> dict:
        """The one request that writes."""
        feature, text = (
            self.features.check(whole(asked, "feature", 0, self.shards.n_features - 1)),
            self.words(asked, "text", self.limits.note),
        )
        add_note(self.features.run.path, feature, text)
        return {"feature": feature, "text": text.strip(), "time": ""}

    def words(self, asked: dict, name: str, most: int = 0, needed: bool = True) -> str:
        text, most = asked.get(name, ""), most or self.limits.characters
        if not isinstance(text, str) or (needed and not text.strip()):
            raise Refused(400, f"The {name} is missing.")
        if len(text) > most:
            raise Refused(
                413, f"The {name} has {len(text):,} characters; at most {most:,} are read."
            )
        return text.encode(
            "utf-8", "replace"
        ).decode()  # JSON can hold half a surrogate pair, which no tokenizer reads


def whole(asked: dict, name: str, least: int, most: int) -> int:
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(400, f"{name} is a whole number from {least:,} to {most:,}.")
    return value


def read_clamp(one) -> Clamp:
    if (
        not isinstance(one, dict)
        or one.get("mode") not in Clamp.MODES
        or isinstance(one.get("value", 0), bool)
        or not isinstance(one.get("value", 0), (int, float))
    ):
        raise Refused(400, "A clamp is {feature, mode, value, relative}.")
    value = float(one.get("value", 0))
    if not abs(value) < 1e6:
        raise Refused(400, "The value of a clamp is a number below a million.")
    return Clamp(whole(one, "feature", 0, 10**9), one["mode"], value, bool(one.get("relative")))


# ---------------------------------------------------------------- safety


def check_host(request: Request) -> None:
    """Only loopback names: a name of elsewhere that points here is an attack on the person in front of the browser."""
    host = request.headers.get("host", "").lower()
    name = (
        host[: host.index("]") + 1]
        if host.startswith("[") and "]" in host
        else host.partition(":")[0]
    )
    if name not in HOSTS:
        raise Refused(403, "Only 127.0.0.1 and localhost are answered.")


def check_origin(request: Request) -> None:
    """A browser says where a POST comes from; it must be this page. A program that sends no origin may ask, with JSON."""
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{request.headers['host'].lower()}":
        raise Refused(403, "Requests from other origins are refused.")
    if (
        request.headers.get("content-type", "").partition(";")[0].strip().lower()
        != "application/json"
    ):
        raise Refused(415, "The body must be application/json.")


async def refused(_request: Request, error: Refused) -> Response:
    return JSONResponse({"error": error.message}, status_code=error.status, headers=HEADERS)


async def unusable(_request: Request, error: ToolError) -> Response:
    status = 404 if isinstance(error, UsageError) and "shard" in error.message else 400
    return PlainTextResponse(
        json.dumps({"error": f"{error.message} {error.next_step}"}),
        status_code=status,
        media_type="application/json",
        headers=HEADERS,
    )


def serve(server: Server, port: int, said: Callable[[str], None]) -> None:
    """Answer on 127.0.0.1 until interrupted; UsageError when the port is taken."""
    import uvicorn

    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"Port {port} cannot be had: {error.strerror}.",
                f"Choose another: python main.py explore {server.features.run.name} --port {port + 1}",
            ) from None
        said(f"http://127.0.0.1:{port}/  (Ctrl-C ends)")
        config = uvicorn.Config(
            server.application(), log_level="warning", limit_concurrency=32, timeout_keep_alive=5
        )
        uvicorn.Server(config).run(sockets=[door])

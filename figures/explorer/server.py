"""The explorer with the loaded subject behind it, on this machine only: your text, clamps, notes.

A page on the web must not reach it. So only loopback host names are answered (against DNS
rebinding), a request with a body must be JSON from this very origin (another site can send neither
without a preflight, which is refused), and answers carry a content policy. One request at a time
uses the subject; a request is limited in bytes, in tokens and in seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from autointerp.features import Features
from autointerp.labels.notes import add_note
from core.errors import ToolError, UsageError
from core.records import Clamp
from figures.explorer.shards import PAGE, Shards

if TYPE_CHECKING:
    from autointerp.study import Study

HOSTS = ("127.0.0.1", "localhost", "[::1]")
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
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
    ablations: int = 20  # of single firings, and as many random ones
    seconds: float = 60.0  # of computing, and of waiting for a turn


@dataclass(frozen=True)
class LiveCalls:
    """What the server may do with the loaded subject."""

    read: Callable[
        [str], dict[str, Any]
    ]  # text -> {tokens, firings}; see `core.clamps.live.Reading`
    clamp: Callable[
        ..., dict[str, Any]
    ]  # the arguments of `Server.clamp` -> an experiment's record
    # (text, position of a token in it, how many to ablate) -> why what follows follows
    why: Callable[[str, int, int], dict[str, Any]] | None = None


def live_calls(study: Study) -> LiveCalls:
    """The calls that a study's loaded model answers; the model is loaded now."""
    from core.clamps.clamp import Sampling
    from core.clamps.live import Positions

    model = study.model

    def read(text: str) -> dict[str, Any]:
        return asdict(model.read(text))

    def clamp(
        clamps: list[Clamp],
        maxima: dict[int, float],
        prompt: str,
        tokens: int,
        samples: int,
        temperature: float,
        positions: str,
        seconds: float,
    ) -> dict[str, Any]:
        sampling = Sampling([prompt], tokens, temperature, tuple(range(samples)))
        record = model.clamp(clamps, maxima, sampling, Positions(positions), seconds=seconds)
        return record.to_dict()

    def why(text: str, at: int, top: int) -> dict[str, Any]:
        tokens = model.read(text).tokens
        if at >= len(tokens):
            raise UsageError(f"The text has {len(tokens)} tokens.", "Choose one of them.")
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        return study.why("".join(tokens[: at + 1]), following, top=top).to_dict()

    return LiveCalls(read, clamp, why)


class Refused(Exception):
    """A request that is not answered: status code and a sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Server:
    """One run behind a Starlette application."""

    def __init__(self, features: Features, calls: LiveCalls, limits: Limits = Limits()):  # noqa: B008 - frozen
        self.features, self.calls, self.limits = features, calls, limits
        live = {
            "characters": limits.characters,
            "tokens": limits.tokens,
            "samples": limits.samples,
            "prompt": "def main():\n    ",
        }
        self.shards = Shards(features, live)
        self.turn = asyncio.Lock()  # one request at a time uses the subject and the index

    def application(self) -> Starlette:
        """The routes, as an ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/{name}", self.page),
            Route("/data/{name}.js", self.shard),
            Route("/api/text", partial(self.answer, self.text), methods=["POST"]),
            Route("/api/clamp", partial(self.answer, self.clamp), methods=["POST"]),
            Route("/api/why", partial(self.answer, self.why), methods=["POST"]),
            Route("/api/note", partial(self.answer, self.note), methods=["POST"]),
        ]
        handlers: Any = {Refused: answer_refused, ToolError: answer_unusable}
        return Starlette(routes=routes, exception_handlers=handlers)

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

    async def in_turn(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` in a thread when the others are done.

        Refuses the request after `seconds` of waiting.
        """
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
        """Features that fire on a text and not on another, the strongest first.

        Strength is the largest activation as a share of the feature's own maximum.
        """
        text, against = self.words(asked, "text"), self.words(asked, "against", needed=False)
        reading = self.calls.read(text)
        left_out = set()
        if against.strip():
            left_out = {feature for _, feature, _ in self.calls.read(against)["firings"]}
        by_feature: dict[int, dict[int, float]] = {}
        for position, feature, activation in reading["firings"]:
            if feature not in left_out:
                by_feature.setdefault(feature, {})[position] = activation
        rows = [self.firing_row(feature, values) for feature, values in by_feature.items()]
        rows.sort(key=lambda row: -row["share"])
        return {"tokens": reading["tokens"], "features": rows}

    def firing_row(self, feature: int, activations: dict[int, float]) -> dict:
        maximum = self.features.evidence.stats(feature).max
        return {
            "feature": feature,
            "label": self.features.label(feature),
            "max": maximum,
            "share": max(activations.values()) / maximum if maximum else 0.0,
            "activations": activations,
        }

    def clamp(self, asked: dict) -> dict:
        """Continue a prompt with and without clamps."""
        limits, given = self.limits, asked.get("clamps")
        if not isinstance(given, list) or not 1 <= len(given) <= limits.clamps:
            raise Refused(400, f"Give 1 to {limits.clamps} clamps.")
        clamps = [read_clamp(one) for one in given]
        numbers = [clamp.feature for clamp in clamps]
        temperature, positions = read_sampling(asked)
        record = self.calls.clamp(
            clamps,
            {f: self.features.evidence.stats(f).max for f in numbers},
            self.words(asked, "prompt"),
            read_whole(asked, "tokens", 1, limits.tokens),
            read_whole(asked, "samples", 1, limits.samples),
            temperature,
            positions,
            limits.seconds,
        )
        return record | {"labels": {str(f): self.features.label(f) for f in numbers}}

    def why(self, asked: dict) -> dict:
        """Why the token behind position `at` of a text follows: the panel of one token.

        The answer is that of `Attribution.to_dict`; at a text's end it is about the likeliest next
        token.
        """
        if self.calls.why is None:
            raise Refused(400, "This page cannot attribute.")
        at = read_whole(asked, "at", 0, self.limits.characters)
        top = read_whole(asked, "top", 1, self.limits.ablations)
        return self.calls.why(self.words(asked, "text"), at, top)

    def note(self, asked: dict) -> dict:
        """Write a note: the one request that writes."""
        feature = read_whole(asked, "feature", 0, self.shards.n_features - 1)
        text = self.words(asked, "text", self.limits.note)
        add_note(self.features.run.path, feature, text)
        return {"feature": feature, "text": text.strip(), "time": ""}

    def words(self, asked: dict, name: str, most: int = 0, needed: bool = True) -> str:
        """A text of the request; refuses one that is missing or longer than `most` characters.

        JSON can hold half of a surrogate pair, which no tokenizer reads; it becomes a ?.
        """
        text, most = asked.get(name, ""), most or self.limits.characters
        if not isinstance(text, str) or (needed and not text.strip()):
            raise Refused(400, f"The {name} is missing.")
        if len(text) > most:
            count = f"{len(text):,} characters"
            raise Refused(413, f"The {name} has {count}; at most {most:,} are read.")
        return text.encode("utf-8", "replace").decode()


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


async def answer_refused(_request: Request, error: Refused) -> Response:
    return JSONResponse({"error": error.message}, status_code=error.status, headers=HEADERS)


async def answer_unusable(_request: Request, error: ToolError) -> Response:
    status = 404 if isinstance(error, UsageError) and "shard" in error.message else 400
    body = {"error": f"{error.message} {error.next_step}"}
    return JSONResponse(body, status_code=status, headers=HEADERS)


def serve(server: Server, port: int, report: Callable[[str], None]) -> None:
    """Answer on 127.0.0.1 until interrupted; `report` is told the address.

    Raises UsageError when the port is taken.
    """
    import uvicorn

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            again = f"python main.py explore {server.features.run.name} --port {port + 1}"
            raise UsageError(
                f"Port {port} cannot be used: {error.strerror}.", f"Choose another: {again}"
            ) from None
        report(f"http://127.0.0.1:{port}/  (Ctrl-C ends)")
        config = uvicorn.Config(
            server.application(), log_level="warning", limit_concurrency=32, timeout_keep_alive=5
        )
        uvicorn.Server(config).run(sockets=[listener])

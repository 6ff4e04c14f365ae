"""The explorer with loaded subjects behind it, on this machine only: texts, clamps, notes.

A page on the web must not reach it. So only loopback host names are answered (against DNS
rebinding), a request with a body must be JSON from this very origin (another site can send neither
without a preflight, which is refused), and answers carry a content policy. One request at a time
uses the subject; a request is limited in bytes, in tokens and in seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from autointerp.clamps import DoseBudget, read_held_out_prompts
from autointerp.features import Features
from autointerp.labels.notes import add_note
from core.errors import ToolError, UsageError
from core.firings.postings import lookup
from figures.explorer.about import shorten
from figures.explorer.asking import (
    Limits,
    Refused,
    check_host,
    check_origin,
    read_clamp,
    read_sampling,
    read_whole,
)
from figures.explorer.live import LiveCalls, as_chat, summarise_attribution
from figures.explorer.runs import Runs
from figures.explorer.shards import PAGE

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MOST_MADE = 8  # clamps that may still be kept
EXAMPLES, EXAMPLE_TOKENS = 4, 12  # texts to try, and their length
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server:
    """One run or several behind a Starlette application.

    `features` and `calls` have an entry for each run, or are those of the only one.
    """

    def __init__(
        self,
        features: Features | Sequence[Features],
        calls: LiveCalls | Sequence[LiveCalls],
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ):
        self.every = [features] if isinstance(features, Features) else list(features)
        self.calls = [calls] if isinstance(calls, LiveCalls) else list(calls)
        self.limits = limits
        pairs = zip(self.every, self.calls, strict=True)
        self.runs = Runs(self.every, [self.allowed(known, calls) for known, calls in pairs])
        self.turn = asyncio.Lock()  # one request at a time uses the subject and the index
        self.made: dict[int, tuple[int, dict]] = {}  # clamps that may be kept: (run, record)

    def allowed(self, features: Features, calls: LiveCalls) -> dict:
        """What the page is told of the server: limits, texts to begin with, whether it chats."""
        examples = example_texts(features)
        return {
            "characters": self.limits.characters,
            "tokens": self.limits.tokens,
            "samples": self.limits.samples,
            "context": self.limits.context,
            "chat": calls.as_chat is not None,
            "keeps": calls.keep is not None,
            "why": calls.why is not None,
            "logprobs": self.limits.logprobs,
            "examples": examples,
            "prompt": examples[0] if examples else "",
        }

    def application(self) -> Starlette:
        """The routes, as an ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/{name}", self.page),
            Route("/data/{name}.js", self.shard),
            Route("/api/text", partial(self.answer, self.text), methods=["POST"]),
            Route("/api/clamp", partial(self.answer, self.clamp), methods=["POST"]),
            *(
                Route(f"/api/{name}", partial(self.answer, function), methods=["POST"])
                for name, function in (
                    ("note", self.note),
                    ("keep", self.keep),
                    ("here", self.here),
                    ("context", self.context),
                    ("pair", self.pair),
                    ("why", self.why),
                )
            ),
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
        body = await self.in_turn(self.runs.script, request.path_params["name"])
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

    def run_of(self, asked: dict) -> tuple[int, Features, LiveCalls]:
        """The run that a request is about: its number, what is known, the calls of its model."""
        number = read_whole({"run": 0} | asked, "run", 0, len(self.every) - 1)
        return number, self.every[number], self.calls[number]

    def text(self, asked: dict) -> dict:
        """Features that fire on a text and not on another, the strongest first.

        Strength is the largest activation as a share of the feature's own maximum.
        """
        _, features, calls = self.run_of(asked)
        text, against = self.words(asked, "text"), self.words(asked, "against", needed=False)
        if asked.get("chat"):
            text, against = (as_chat(calls, t, True) if t.strip() else t for t in (text, against))
        reading = calls.read(text)
        left_out = set()
        if against.strip():
            left_out = {feature for _, feature, _ in calls.read(against)["firings"]}
        by_feature: dict[int, dict[int, float]] = {}
        for position, feature, activation in reading["firings"]:
            if feature not in left_out:
                by_feature.setdefault(feature, {})[position] = activation
        rows = [firing_row(features, feature, values) for feature, values in by_feature.items()]
        rows.sort(key=lambda row: -row["share"])
        return {"tokens": reading["tokens"], "features": rows}

    def clamp(self, asked: dict) -> dict:
        """Continue a prompt with and without clamps."""
        limits, given = self.limits, asked.get("clamps")
        number, features, calls = self.run_of(asked)
        if not isinstance(given, list) or not 1 <= len(given) <= limits.clamps:
            raise Refused(400, f"Give 1 to {limits.clamps} clamps.")
        clamps = [read_clamp(one) for one in given]
        numbers = [clamp.feature for clamp in clamps]
        temperature, positions = read_sampling(asked)
        prompt = self.words(asked, "prompt")
        record = calls.clamp(
            clamps,
            {f: features.evidence.stats(f).max for f in numbers},
            as_chat(calls, prompt, True) if asked.get("chat") else prompt,
            read_whole(asked, "tokens", 1, limits.tokens),
            read_whole(asked, "samples", 1, limits.samples),
            temperature,
            positions,
            read_whole({"logprobs": 0} | asked, "logprobs", 0, limits.logprobs),
            limits.seconds,
        )
        record |= {"labels": {str(f): features.label(f) for f in numbers}}
        made = max(self.made, default=0) + 1
        self.made[made] = (number, record)
        self.made.pop(made - MOST_MADE, None)
        message = {"message": prompt} if asked.get("chat") else {}
        return record | {"made": made} | message

    def keep(self, asked: dict) -> dict:
        """Keep a clamp that this server made, as `clamp` of the command line keeps one."""
        made = read_whole(asked, "made", 0, 10**9)
        if made not in self.made:
            raise Refused(404, f"Only the last {MOST_MADE} clamps can be kept. Run it again.")
        number, record = self.made[made]
        keep = self.calls[number].keep
        if keep is None:
            raise Refused(400, "This server keeps no clamps.")
        return {"number": keep(record)}

    def why(self, asked: dict) -> dict:
        """Why the token behind position `at` of a text follows: the panel of one token.

        The answer is that of `Attribution.to_dict`, with the strongest firings alone and all
        firings of a token summed in `by_token`; at a text's end it is about the likeliest next
        token.
        """
        _, _, calls = self.run_of(asked)
        if calls.why is None:
            raise Refused(400, "This page cannot attribute.")
        at = read_whole(asked, "at", 0, self.limits.characters)
        if at >= self.limits.attributed:
            count = f"{self.limits.attributed:,}"
            raise Refused(400, f"Why is asked of the first {count} tokens. Give a shorter text.")
        top = read_whole(asked, "top", 1, self.limits.ablations)
        text = self.words(asked, "text")
        text = as_chat(calls, text, True) if asked.get("chat") else text
        made = calls.why(text, at, self.words(asked, "against", needed=False), top)
        return summarise_attribution(made)

    def note(self, asked: dict) -> dict:
        """Write a note into the run."""
        _, features, _ = self.run_of(asked)
        feature = read_whole(asked, "feature", 0, features.postings.n_features - 1)
        text = self.words(asked, "text", self.limits.note)
        add_note(features.run.path, feature, text)
        return {"feature": feature, "text": text.strip(), "time": ""}

    def here(self, asked: dict) -> dict:
        """Every feature that fires on one token of the corpus, the strongest first."""
        _, features, _ = self.run_of(asked)
        ordinal = read_whole(asked, "ordinal", 0, features.postings.n_tokens - 1)
        _, found, values = features.postings.firings_at(np.array([ordinal]))
        pairs = zip(found.tolist(), values.tolist(), strict=True)
        rows = [firing_row(features, f, {0: v}) for f, v in pairs]
        rows.sort(key=lambda row: -row["share"])
        return {"token": features.tokens.spell(ordinal, ordinal + 1)[0], "features": rows}

    def context(self, asked: dict) -> dict:
        """Tokens around a peak, inside its document, with a feature's activation on each."""
        _, features, _ = self.run_of(asked)
        ordinal = read_whole(asked, "ordinal", 0, features.postings.n_tokens - 1)
        feature = read_whole(asked, "feature", 0, features.postings.n_features - 1)
        around = read_whole(asked, "around", 1, self.limits.context)
        offsets = features.tokens.document_offsets
        document, _ = features.tokens.locate(ordinal)
        start = max(ordinal - around, int(offsets[document]))
        end = min(ordinal + around + 1, int(offsets[document + 1]))
        values = lookup(*features.postings.firings(feature), np.arange(start, end))
        tokens = list(features.tokens.spell(start, end))
        return {
            "tokens": tokens,
            "activations": values.tolist(),
            "peak": ordinal - start,
            "whole": start == int(offsets[document]) and end == int(offsets[document + 1]),
        }

    def pair(self, asked: dict) -> dict:
        """How two features of a run relate: exact counts over all tokens, and the cosine."""
        _, features, _ = self.run_of(asked)
        a, b = (read_whole(asked, n, 0, features.postings.n_features - 1) for n in ("a", "b"))
        pair: dict = shorten(features.pair(a, b))
        return pair

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


def firing_row(features: Features, feature: int, activations: dict[int, float]) -> dict:
    maximum = features.evidence.stats(feature).max
    return {
        "feature": feature,
        "label": features.label(feature),
        "max": maximum,
        "share": max(activations.values()) / maximum if maximum else 0.0,
        "activations": activations,
    }


def example_texts(features: Features) -> list[str]:
    """A few beginnings of held-out rows of the corpus, as texts to try; none where it has none."""
    try:
        texts = read_held_out_prompts(features.evidence, DoseBudget(EXAMPLES, EXAMPLE_TOKENS))
    except ToolError:
        return []
    return [text for text in texts if text.strip()]


# ---------------------------------------------------------------- errors


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
            again = f"python main.py explore {server.every[0].run.name} --port {port + 1}"
            raise UsageError(
                f"Port {port} cannot be used: {error.strerror}.", f"Choose another: {again}"
            ) from None
        report(f"http://127.0.0.1:{port}/  (Ctrl-C ends)")
        config = uvicorn.Config(
            server.application(), log_level="warning", limit_concurrency=32, timeout_keep_alive=5
        )
        uvicorn.Server(config).run(sockets=[listener])

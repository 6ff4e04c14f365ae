"""An OpenAI-compatible server that fails at random, in a process of its own: what an endpoint does
on a bad day.

    python -m tests.support.fault_server PORT [--faults 0.35] [--latency 0.02] [--provider NAME]

`--provider` answers in a form of `providers.PROVIDERS`, without other faults. Faults, one drawn for each attempt: 429 with Retry-After, 500, connection reset, a hang of 30 s,
half a body, JSON that is no completion, a choice that ended with an error, an answer with wrong counts, a refusal, null content, slow
tokens. An answer whose body was sent whole counts as paid. GET /stats: attempts and paid answers of
each question, requests in flight at most. Latency in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter

from aiohttp import web

from tests.support.providers import PROVIDERS, completion

UNPAID = ("429", "429ms", "500", "reset", "hang", "half", "wrong_json", "finish_error")
PAID = ("wrong_counts", "refusal", "null", "slow")
attempts, paid = Counter(), Counter()
load = {"now": 0, "most": 0}


async def unpaid(request: web.Request, kind: str) -> web.StreamResponse:
    if kind.startswith("429"):
        headers = {"retry-after-ms": "30"} if kind == "429ms" else {"Retry-After": "0.05"}
        return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
    if kind == "500":
        return web.json_response({"error": {"message": "down"}}, status=500)
    if kind == "finish_error":
        return web.json_response(PROVIDERS["finish-error choice"]({}, "")[1])
    if kind == "wrong_json":
        return web.Response(text='{"choices": [{"mess', content_type="application/json")
    if kind == "hang":
        await asyncio.sleep(30)
    if kind == "half":
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Length": "500"}
        )
        await response.prepare(request)
        await response.write(b'{"choices": [{"message"')
        await asyncio.sleep(0.01)
    request.transport.abort()
    return web.Response()


async def slow(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    await response.prepare(request)
    for start in range(0, len(body), 60):
        await response.write(body[start : start + 60])
        await asyncio.sleep(0.01)
    return response


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if name := request.app["provider"]:
        status, table = PROVIDERS[name](body, request.app["answer"])
        if isinstance(table, str):
            return web.Response(text=table, status=status)
        return web.json_response(table, status=status)
    question = body["messages"][-1]["content"]
    attempts[question] += 1
    luck = random.Random(f"{question} {attempts[question]}")
    load["now"] += 1
    load["most"] = max(load["most"], load["now"])
    try:
        await asyncio.sleep(request.app["latency"] * luck.uniform(0.5, 1.5))
        kind = luck.choice(UNPAID + PAID) if luck.random() < request.app["faults"] else ""
        if kind == "hang" and luck.random() < 0.8:  # each costs a whole timeout
            kind = "500"
        if kind in UNPAID:
            return await unpaid(request, kind)
        said = {
            "refusal": completion(None, refusal="I will not."), "null": completion(None), "wrong_counts": completion('{"1": [0, 1, 2, 3]}'),
        }.get(kind, completion(f"answer to {question}"))  # fmt: skip
        body = json.dumps(said).encode()
        response = (
            await slow(request, body)
            if kind == "slow"
            else web.Response(body=body, content_type="application/json")
        )
        paid[question] += 1
        return response
    finally:
        load["now"] -= 1


async def stats(_: web.Request) -> web.Response:
    return web.json_response({"attempts": attempts, "paid": paid, "most": load["most"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--faults", type=float, default=0.35)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--provider", choices=PROVIDERS)
    parser.add_argument("--answer", default="ok", help="text of a provider's answers")
    arguments = parser.parse_args()
    app = web.Application(client_max_size=2**24)
    app["faults"], app["latency"] = arguments.faults, arguments.latency
    app["provider"], app["answer"] = arguments.provider, arguments.answer
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/stats", stats)])
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, backlog=2048)


if __name__ == "__main__":
    main()

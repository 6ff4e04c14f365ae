"""The LLM endpoint: its URL, credentials and models, and the meaning of its error messages."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from autointerp.llm.refusals import (
    NO_SYSTEM,
    ONLY_STREAMS,
    is_too_long,
    plain_text,
    refused_parameter,
)
from autointerp.llm.replies import Request, one_line, public_url
from autointerp.settings import LLMSettings
from core.errors import ProviderError, UsageError

OPENAI = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0  # a host that does not accept a connection within this is unreachable
SHORTEST_SECRET = 8  # characters; hiding shorter ones ("none", "x") would damage replies
FEWER = (5, 2)  # alternatives asked for where more are refused
LEAST_TOKENS = 256  # of an answer; what a model that cannot write so many is not asked for
SECRET_NAMES = re.compile(r"key|token|secret|sig|auth|pass", re.IGNORECASE)
NAMING = ("llm_url", "llm_model", "estimate", "batch_out", "batch_in")


def is_named(settings: LLMSettings) -> bool:
    """Whether a command or the environment names an LLM, or asks for what needs none to answer."""
    environment = (os.environ.get(name) for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    return any(getattr(settings, name) for name in NAMING) or any(environment)


class Endpoint:
    """Where requests are sent, the credentials, and the parameters that each model refuses.

    `url` defaults to OPENAI_BASE_URL, then to OpenAI; `api_key` to OPENAI_API_KEY. Credentials in
    the URL are used and never shown. Refused parameters are remembered by this object, so make one
    a process.
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
            raise UsageError(
                f"The endpoint {shown!r} is not a web address.",
                "Give one such as http://localhost:11434/v1 or https://api.openai.com/v1.",
            )
        self.url = public_url(given)
        self.host = parts.hostname
        self.refused: dict[str, set[str]] = {}  # model -> names of parameters, and "system"
        self.most_alternatives: dict[str, int] = {}  # model -> top_logprobs that it allows
        self.most_tokens: dict[str, int] = {}  # model -> max_tokens that it allows
        self._query = dict(parse_qsl(parts.query))
        self._key = (api_key or os.environ.get("OPENAI_API_KEY", "")).strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(
                "The API key holds characters that no key has.",
                "Set OPENAI_API_KEY again, to the key alone.",
            )
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._basic = base64.b64encode(login.encode()).decode() if "@" in parts.netloc else ""
        secrets = [self._key, self._basic, parts.password or "", unquote(parts.password or "")]
        secrets += [value for name, value in self._query.items() if SECRET_NAMES.search(name)]
        self._secrets = sorted(
            {s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True
        )

    def request(
        self, model: str, messages: list[dict], repetition: int = 0, **parameters: Any
    ) -> Request:
        """A request to this endpoint."""
        return Request(self.url, model, messages, parameters, repetition)

    def choose_model(self, name: str = "", timeout: float = 30.0) -> str:
        """`name`, or else the only model that the endpoint offers.

        Raises UsageError with the names of the models when there is not exactly one.
        """
        return name or asyncio.run(self._only_model(timeout))

    async def _only_model(self, timeout: float) -> str:
        import aiohttp
        import openai

        async with self.client(timeout) as client:
            try:
                offered = [model.id async for model in client.models.list()]
            except openai.APIStatusError as error:
                if error.status_code in (401, 403):
                    said = server_text(self, error)
                    raise wrong_key(self, error.status_code, said) from None
                raise UsageError(
                    f"{self.url} does not list its models (HTTP {error.status_code}).",
                    "Name one with --llm-model.",
                ) from None
            except (openai.APIConnectionError, aiohttp.ClientError) as error:
                raise unreachable(self, error) from None
            except (AttributeError, TypeError, ValueError):
                raise UsageError(
                    f"{self.url} does not list its models in a form that can be read.",
                    "Name one with --llm-model.",
                ) from None
        if len(offered) != 1:
            names = ", ".join(offered[:40]) or "(none)"
            raise UsageError(
                f"{self.url} offers {len(offered)} models and none was named.",
                f"Add --llm-model with one of: {names}.",
            )
        return offered[0]

    def client(self, timeout: float) -> Any:
        """An AsyncOpenAI that never retries by itself.

        Raises UsageError when OpenAI is asked without a key.
        """
        import openai

        if self.host == "api.openai.com" and not self._key:
            raise UsageError(
                "api.openai.com needs a key, and OPENAI_API_KEY is not set.",
                "Set OPENAI_API_KEY, or name another server with --llm-url.",
            )
        return openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or "none",  # local servers take any
            default_query=self._query,
            default_headers={"Authorization": f"Basic {self._basic}"} if self._basic else None,
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            http_client=openai.DefaultAioHttpClient(),
        )

    def adapt(self, request: Request) -> dict:
        """The request's parameters without those that its model refuses."""
        refused = self.refused.get(request.model, set())
        asked = dict(request.parameters)
        if "max_tokens" in asked and request.model in self.most_tokens:
            asked["max_tokens"] = min(asked["max_tokens"], self.most_tokens[request.model])
        sent = {name: value for name, value in asked.items() if name not in refused}
        if "max_tokens" in refused and "max_tokens" in asked:
            sent["max_completion_tokens"] = asked["max_tokens"]
        most = self.most_alternatives.get(request.model)
        if most and sent.get("top_logprobs", 0) > most:
            sent["top_logprobs"] = most
        if "stream" in refused:  # to answer at once
            sent["stream"] = True
            if "stream_options" not in refused:
                sent["stream_options"] = {"include_usage": True}
        return sent

    def adapt_messages(self, request: Request) -> list[dict]:
        """The request's messages, in a form that its model takes.

        Where the model refuses the system role, its text stands in front of the first user turn.
        """
        if "system" not in self.refused.get(request.model, set()):
            return request.messages
        front = [m["content"] for m in request.messages if m["role"] == "system"]
        turns = [dict(m) for m in request.messages if m["role"] != "system"]
        for turn in turns:
            if turn["role"] == "user":
                turn["content"] = "\n\n".join([*front, turn["content"]])
                return turns
        return [{"role": "user", "content": "\n\n".join(front)}, *turns]

    def learn_refusal(
        self, request: Request, sent: dict, status: int, named: str, text: str
    ) -> bool:
        """Learn from an error what the model refuses; whether another form is worth a try.

        `sent` holds the messages and the parameters that the error answers, `named` is its own
        `param`, if any.
        """
        refused = self.refused.setdefault(request.model, set())
        has_system = any(m["role"] == "system" for m in sent["messages"])
        # llama.cpp answers with 500 where a template raises
        stated = status < 500 or "role" in text.casefold()
        if has_system and stated and NO_SYSTEM.search(text):
            refused.add("system")
            return True
        if status not in (400, 405, 406, 413, 422):
            return False
        if "stream" not in sent and ONLY_STREAMS.search(text):
            refused.add("stream")
            return True
        if name := refused_parameter(sent, named, text):
            refused.add(name)
            return True
        fewer = [n for n in FEWER if n < sent.get("top_logprobs", 0)]
        if fewer and "logprob" in (named + text).casefold():
            self.most_alternatives[request.model] = fewer[0]
            return True
        return self._learn_length(request, sent, status, text)

    def _learn_length(self, request: Request, sent: dict, status: int, text: str) -> bool:
        """Halve the tokens of an answer where an error says that they are too many.

        Where even LEAST_TOKENS are, it is the question that is too long, and nothing is learnt.
        """
        tokens = sent.get("max_tokens", sent.get("max_completion_tokens", 0))
        if not is_too_long(status, {"max_tokens": tokens}, text):
            return False
        if tokens <= LEAST_TOKENS:
            self.most_tokens.pop(request.model, None)
            return False
        self.most_tokens[request.model] = max(LEAST_TOKENS, tokens // 2)
        return True

    def hide(self, text: str) -> str:
        """`text` without the credentials, in case a server repeats them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def server_text(endpoint: Endpoint, error: Any) -> str:
    """The text of an error response, in one line, without credentials."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    text = str(said or plain_text(error.response.text) or "no explanation")
    return one_line(endpoint.hide(text))


def wrong_key(endpoint: Endpoint, status: int, said: str) -> ProviderError:
    """The error to raise when the endpoint refuses the key."""
    return ProviderError(
        f"{endpoint.url} refused the key (HTTP {status}): {said}",
        "Set OPENAI_API_KEY to a key of it.",
    )


def no_credit(endpoint: Endpoint, status: int, said: str) -> ProviderError:
    """The error to raise when nothing is left to pay with."""
    return ProviderError(
        f"{endpoint.url} has no credit left (HTTP {status}): {said}",
        "Add credit, then run the same command again.",
    )


def unreachable(endpoint: Endpoint, error: BaseException) -> ProviderError:
    """The error to raise when nothing answers at the endpoint."""
    why = one_line(endpoint.hide(str(error.__cause__ or error)))
    return ProviderError(
        f"Nothing answers at {endpoint.url}: {why}",
        "Start the server, or give another address with --llm-url.",
    )

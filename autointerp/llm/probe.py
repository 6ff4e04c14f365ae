"""What one model of one endpoint can do, found out by asking it once and looking at what comes back.

A 200 proves nothing: servers accept `response_format`, `logprobs` or `temperature` and ignore them. Each question here is made so that
its answer shows whether the parameter was honoured. The verdict is kept in the reply store, so an endpoint is probed once; the replies
themselves are kept like all others.

    plain     which name the limit on tokens has, whether temperature is accepted, whether the model thinks aloud (and needs room for it)
    schema    a strict JSON schema whose only valid answer nobody would give by chance
    object    a JSON object where the question asks for none
    logprobs  log-probabilities of the answer's tokens and of their alternatives
    prompt    log-probabilities of the question's tokens (vLLM)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from autointerp.llm.budget import Budget
from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.replies import Reply, ReplyStore, prompt_logprobs
from core.errors import ProviderError

VERSION = 1
PLAIN_TOKENS, THINKING_TOKENS = 256, 8192
TOP_LOGPROBS = 10
SIGN = "q7-teal"  # an answer that no question asks for
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "sign",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"sign": {"type": "string", "enum": [SIGN]}},
            "required": ["sign"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Abilities:
    """What a model of an endpoint honours. The defaults are what any endpoint can be trusted with."""

    json: str = "none"  # schema, object, none
    top_logprobs: int = 0  # alternatives of each token of an answer that it tells; 0 is none
    prompt_logprobs: bool = False
    refuses: tuple[str, ...] = ()  # parameters that must not be sent, of max_tokens and temperature
    thinks: bool = False  # spends tokens before it answers
    version: int = 0  # of the probe; 0 when nothing was asked
    asked: int = 0  # times that it was probed anew

    def line(self) -> str:
        logprobs = (
            f"{self.top_logprobs} log-probabilities a token"
            if self.top_logprobs
            else "no log-probabilities"
        )
        extras = [f"refuses {name}" for name in self.refuses] + (
            ["thinks first"] if self.thinks else []
        )
        extras += ["log-probabilities of prompts"] if self.prompt_logprobs else []
        return ", ".join([f"JSON: {self.json}", logprobs, *extras])


def abilities(
    endpoint: Endpoint,
    model: str,
    store: ReplyStore,
    anew: bool = False,
    timeout: float = 120.0,
    budget: Budget | None = None,
) -> Abilities:
    """The stored verdict, or a new one when there is none or `anew` asks for it; the endpoint learns what its model refuses.

    What is asked is counted by `budget`. Raises ProviderError when the model does not answer the plain question, or the budget does not reach.
    """
    known = store.probe(endpoint.url, model)
    if known and known["version"] == VERSION and not anew:
        found = Abilities(**known | {"refuses": tuple(known["refuses"])})
    else:
        asked = known["asked"] + 1 if known else 0
        found = replace(_probe(endpoint, model, store, asked, timeout, budget), asked=asked)
        store.keep_probe(endpoint.url, model, asdict(found))
    endpoint.refused[model] = set(found.refuses)
    return found


def stored_abilities(endpoint: Endpoint, model: str, store: ReplyStore) -> Abilities:
    """The stored verdict, or the defaults: nothing is asked."""
    known = store.probe(endpoint.url, model)
    return (
        abilities(endpoint, model, store) if known and known["version"] == VERSION else Abilities()
    )


def _probe(
    endpoint: Endpoint,
    model: str,
    store: ReplyStore,
    repetition: int,
    timeout: float,
    budget: Budget | None,
) -> Abilities:
    def ask(text: str, **parameters) -> Reply:
        request = endpoint.request(
            model, [{"role": "user", "content": text}], repetition, temperature=0.0, **parameters
        )
        reply = answer(
            [request], store, endpoint, timeout=timeout, retries=2, max_failures=10, budget=budget
        )[request.key]
        if reply.error == "budget":
            raise ProviderError(
                "The budget does not reach for the questions of the probe.",
                "Raise --budget; what was answered until here is kept.",
            )
        return reply

    refused = endpoint.refused.setdefault(model, set())
    refused.clear()
    plain = ask("Say the word yes, and nothing else.", max_tokens=PLAIN_TOKENS)
    if plain.error and not plain.raw:
        raise ProviderError(
            f"{endpoint.url} did not answer the first question to {model}: {plain.message}",
            "See to the endpoint, then run the same command.",
        )
    found = Abilities(thinks=thinks(plain), version=VERSION)
    size = THINKING_TOKENS if found.thinks else PLAIN_TOKENS
    if shows_schema(ask("Name a colour.", max_tokens=size, response_format=SCHEMA)):
        found = replace(found, json="schema")
    else:
        refused.discard("response_format")
        if shows_object(
            ask(
                "Write one short sentence on the sea. No JSON, please.",
                max_tokens=size,
                response_format={"type": "json_object"},
            )
        ):
            found = replace(found, json="object")
    refused.discard("response_format")
    told = ask("Name a digit.", max_tokens=size, logprobs=True, top_logprobs=TOP_LOGPROBS)
    prompted = ask("Name another digit.", max_tokens=size, prompt_logprobs=1)
    return replace(
        found,
        top_logprobs=alternatives(told),
        prompt_logprobs=bool(told_of_prompt(prompted)),
        refuses=tuple(sorted(refused)),
    )


# ---------------------------------------------------------------- reading the answers


def thinks(reply: Reply) -> bool:
    """Whether tokens went into thoughts: reported as such, shown as such, or all used up without an answer."""
    table = json.loads(reply.raw)
    said = table["choices"][0].get("message") or {}
    details = (table.get("usage") or {}).get("completion_tokens_details") or {}
    shown = "<think>" in (reply.text or "") or bool(
        said.get("reasoning_content") or said.get("reasoning")
    )
    return shown or bool(details.get("reasoning_tokens")) or reply.error == "truncated"


def shows_schema(reply: Reply) -> bool:
    return _object(reply) == {"sign": SIGN}


def shows_object(reply: Reply) -> bool:
    return isinstance(_object(reply), dict)


def _object(reply: Reply):
    try:
        return json.loads((reply.text or "").rpartition("</think>")[2])
    except ValueError:
        return None


def alternatives(reply: Reply) -> int:
    """How many alternatives the answer's tokens carry, 0 when fewer than two or when they are no log-probabilities."""
    tokens = logprob_tokens(reply)
    counts = [
        len({top.get("token") for top in token.get("top_logprobs") or ()}) for token in tokens
    ]
    sound = all(
        isinstance(token.get("logprob"), (int, float)) and token["logprob"] <= 1e-3
        for token in tokens
    )
    return max(counts) if counts and sound and max(counts) > 1 else 0


def logprob_tokens(reply: Reply) -> list[dict]:
    """The tokens of an answer as the endpoint tells them: `token`, `logprob`, `top_logprobs`; empty when it does not."""
    if not reply.raw:
        return []
    told = (json.loads(reply.raw)["choices"][0].get("logprobs") or {}).get("content")
    return told if isinstance(told, list) else []


def told_of_prompt(reply: Reply) -> list:
    """The tokens of the question as the endpoint tells them, empty when it does not."""
    return prompt_logprobs(json.loads(reply.raw)) if reply.raw else []

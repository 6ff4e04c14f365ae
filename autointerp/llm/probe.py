"""Find out what one model of one endpoint can do, by asking it and looking at the answers.

A status of 200 proves nothing: servers accept `response_format`, `logprobs` or `temperature` and
ignore them. The answer to each question here shows whether the parameter was honoured. The verdict
is kept in the reply store, so an endpoint is probed once; the replies are kept like all others.

    plain     the name of the limit on tokens, whether temperature and a system role are accepted,
              whether the model thinks aloud (and needs room for it)
    schema    a strict JSON schema whose only valid answer nobody would give by chance
    object    a JSON object where the question asks for none
    logprobs  log-probabilities of the answer's tokens and of their alternatives
    prompt    log-probabilities of the question's tokens (vLLM)
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from autointerp.llm.budget import Budget
from autointerp.llm.client import answer
from autointerp.llm.endpoint import FEWER, Endpoint
from autointerp.llm.fleet import Fleet
from autointerp.llm.messages import final_part
from autointerp.llm.repair import THOUGHTS
from autointerp.llm.replies import Reply, ReplyStore, prompt_logprobs, thoughts
from core.errors import ProviderError

VERSION = 2
SYSTEM = "Answer as briefly as you can."  # questions have a system role, as all others do
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
    """What a model of an endpoint honours. The defaults hold for any endpoint."""

    json: str = "none"  # schema, object, none
    top_logprobs: int = 0  # alternatives that it returns for each token of an answer
    prompt_logprobs: bool = False
    # what must not be sent, of max_tokens, temperature and the role `system`; `stream`, where it
    # answers in no other way
    refuses: tuple[str, ...] = ()
    thinks: bool = False  # spends tokens before it answers
    version: int = 0  # of the probe; 0 when nothing was asked
    asked: int = 0  # times that the probe was repeated

    def line(self) -> str:
        """The abilities in words."""
        logprobs = (
            f"{self.top_logprobs} log-probabilities a token"
            if self.top_logprobs
            else "no log-probabilities"
        )
        extras = [
            "answers as a stream only" if name == "stream" else f"refuses {name}"
            for name in self.refuses
        ] + (["thinks first"] if self.thinks else [])
        extras += ["log-probabilities of prompts"] if self.prompt_logprobs else []
        return ", ".join([f"JSON: {self.json}", logprobs, *extras])


@dataclass(frozen=True)
class Interview:
    """Asks one model short questions, one at a time."""

    endpoint: Endpoint
    model: str
    store: ReplyStore
    repetition: int  # a repeated probe asks again
    timeout: float  # seconds for one attempt
    budget: Budget | None
    fleet: Fleet | None = None

    def ask(self, text: str, max_tokens: int, **parameters: Any) -> Reply:
        """The reply to `text`; raises ProviderError when the budget is too small."""
        parameters = {"temperature": 0.0, "max_tokens": max_tokens, **parameters}
        question = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": text},
        ]
        request = self.endpoint.request(self.model, question, self.repetition, **parameters)
        reply = answer(
            [request],
            self.store,
            self.endpoint,
            timeout=self.timeout,
            retries=2,
            max_failures=10,
            budget=self.budget,
            fleet=self.fleet,
        )[request.key]
        if reply.error == "budget":
            raise ProviderError(
                "The budget is too small for the questions of the probe.",
                "Raise --budget; what was answered until here is kept.",
            )
        return reply


def abilities(
    endpoint: Endpoint,
    model: str,
    store: ReplyStore,
    again: bool = False,
    timeout: float = 120.0,
    budget: Budget | None = None,
    fleet: Fleet | None = None,
) -> Abilities:
    """The stored verdict, or a new one where there is none or `again` is set.

    The endpoint, or each of `fleet`, learns which parameters its model refuses. `budget` counts the
    questions. Raises
    ProviderError when the model does not answer the plain question or the budget is too small.
    """
    known = store.probe(endpoint.url, model)
    if known and known["version"] == VERSION and not again:
        verdict = Abilities(**known | {"refuses": tuple(known["refuses"])})
    else:
        asked = known["asked"] + 1 if known else 0
        interview = Interview(endpoint, model, store, asked, timeout, budget, fleet)
        verdict = replace(probe(interview), asked=asked)
        store.keep_probe(endpoint.url, model, asdict(verdict))
    for each in [server.endpoint for server in fleet.servers] if fleet else [endpoint]:
        each.refused[model] = set(verdict.refuses)
    return verdict


def stored_abilities(endpoint: Endpoint, model: str, store: ReplyStore) -> Abilities:
    """The stored verdict, or the defaults; nothing is asked."""
    known = store.probe(endpoint.url, model)
    if known and known["version"] == VERSION:
        return abilities(endpoint, model, store)
    return Abilities()


def probe(interview: Interview) -> Abilities:
    """Find out what the model can do."""
    endpoint, model = interview.endpoint, interview.model
    refused = endpoint.refused.setdefault(model, set())
    refused.clear()
    endpoint.most_alternatives.pop(model, None)
    endpoint.most_tokens.pop(model, None)
    plain = interview.ask("Say the word yes, and nothing else.", PLAIN_TOKENS)
    if plain.error and not plain.raw:
        raise ProviderError(
            f"{endpoint.url} did not answer the first question to {model}: {plain.message}",
            "Check the endpoint, then run the same command.",
        )
    thinking = thinks(plain)
    size = THINKING_TOKENS if thinking else PLAIN_TOKENS
    form = probe_json(interview, refused, size)
    listed = ask_alternatives(interview, size)
    prompted = interview.ask("Name another digit.", size, prompt_logprobs=1)
    return Abilities(
        json=form,
        top_logprobs=alternatives(listed),
        prompt_logprobs=bool(prompt_tokens(prompted)),
        refuses=tuple(sorted(refused)),
        thinks=thinking,
        version=VERSION,
    )


def ask_alternatives(interview: Interview, size: int) -> Reply:
    """The reply with the most alternatives a token; fewer are asked for where an error answers."""
    for count in (TOP_LOGPROBS, *FEWER):
        reply = interview.ask("Name a digit.", size, logprobs=True, top_logprobs=count)
        if reply.raw or not reply.message.startswith(("HTTP 400", "HTTP 422")):
            break
    return reply


def probe_json(interview: Interview, refused: set[str], size: int) -> str:
    """The strictest form of JSON that the model honours: schema, object or none.

    `refused` is the endpoint's set of refused parameters; response_format is removed from it, since
    only a form of it may be refused.
    """
    form = "none"
    if follows_schema(interview.ask("Name a colour.", size, response_format=SCHEMA)):
        form = "schema"
    else:
        refused.discard("response_format")
        text = "Write one short sentence on the sea. No JSON, please."
        reply = interview.ask(text, size, response_format={"type": "json_object"})
        form = "object" if is_object(reply) else "none"
    refused.discard("response_format")
    return form


# ---------------------------------------------------------------- reading the answers


def thinks(reply: Reply) -> bool:
    """Whether tokens went into thoughts: reported, visible, or all used up without an answer."""
    table = json.loads(reply.raw)
    message = _object(table["choices"][0].get("message"))
    details = _object(_object(table.get("usage")).get("completion_tokens_details"))
    visible = any(opening in (reply.text or "") for opening, _ in THOUGHTS)
    kept_apart = bool(thoughts(message)) or bool(details.get("reasoning_tokens"))
    return visible or kept_apart or reply.error == "truncated"


def follows_schema(reply: Reply) -> bool:
    """Whether the reply is the only valid answer to SCHEMA."""
    return read_whole_json(reply) == {"sign": SIGN}


def is_object(reply: Reply) -> bool:
    """Whether the reply is one JSON object and nothing else."""
    return isinstance(read_whole_json(reply), dict)


def read_whole_json(reply: Reply) -> Any:
    """The JSON value that the whole reply is, or None.

    Unlike `last_object` it allows no text around the value, which would prove nothing.
    """
    try:
        return json.loads(final_part(reply.text) or "")
    except ValueError:
        return None


def alternatives(reply: Reply) -> int:
    """How many alternatives the answer's tokens carry.

    0 when they are fewer than two, or no log-probabilities.
    """
    tokens = logprob_tokens(reply)
    counts = [len({top["token"] for top in token["top_logprobs"]}) for token in tokens]
    sound = all(token["logprob"] <= 1e-3 for token in tokens)
    return max(counts) if counts and sound and max(counts) > 1 else 0


def logprob_tokens(reply: Reply) -> list[dict]:
    """The tokens of an answer: `token`, `logprob`, `top_logprobs`; empty when none are returned.

    Alternatives without a token or a finite number are left out.
    """
    if not reply.raw:
        return []
    entries = _object(json.loads(reply.raw)["choices"][0].get("logprobs")).get("content")
    if not isinstance(entries, list) or not all(map(_is_scored, entries)):
        return []
    out = []
    for entry in entries:
        tops = entry.get("top_logprobs")
        tops = [top for top in tops if _is_scored(top)] if isinstance(tops, list) else []
        out.append(entry | {"top_logprobs": tops})
    return out


def _is_scored(token: Any) -> bool:
    """Whether an entry is a token with its log-probability; a server may say null or -Infinity."""
    logprob = token.get("logprob") if isinstance(token, dict) else None
    if not isinstance(logprob, (int, float)) or isinstance(logprob, bool):
        return False
    return isinstance(token.get("token"), str) and not math.isnan(logprob)


def _object(value: Any) -> dict:
    """`value` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def prompt_tokens(reply: Reply) -> list:
    """The tokens of the question with their alternatives; empty when none are returned."""
    return prompt_logprobs(json.loads(reply.raw)) if reply.raw else []

"""What a stage needs to ask an LLM: one open endpoint, store, budget and count, and the choice between asking, estimating and files.

    with asking(run, settings) as asker:
        replies = asker.ask(conversations, 0, LABEL)

Before anything is sent the stage says how many requests are ahead and what they would cost. With `--estimate` or `--batch-out` nothing is sent: `ask`
raises Ahead, and when the block ends the command says what it found (Told, exit 0). With `--batch-in` answers come from files only; a request that has none there is a
provider's failure, asked again by the next command.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autointerp.llm.batch import read_batch, write_batch
from autointerp.llm.budget import Budget, Meter, Pace, Prices, estimate
from autointerp.llm.client import answer
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.probe import THINKING_TOKENS, Abilities, abilities, stored_abilities
from autointerp.llm.replies import Reply, ReplyStore, Request, read_reply
from autointerp.settings import LLMSettings
from core.errors import ProviderError, Stop, UsageError
from core.progress import progress, say
from core.run import Run

ATTEMPTS = 2  # an answer that cannot be read is asked for once more
Ask = Callable[
    [list[list[dict]], int], list[tuple[str, Reply]]
]  # (conversations, repetition) -> (key, reply) of each


class DryRun(Exception):
    """Nothing was sent: the command was asked for an estimate or a batch file."""


@dataclass(frozen=True)
class AnswerFormat:
    """What sort of answer a prompt asks for."""

    name: str  # shown in the progress line
    max_tokens: int
    usual_tokens: int  # of an answer, for estimates
    schema: dict = field(default_factory=dict)  # JSON schema, for endpoints that honour one
    logprobs: bool = False  # wanted where they are told
    prompt_logprobs: int = 0  # alternatives wanted at each token of the question, whose last turn is the answer; nothing is generated then


@contextlib.contextmanager
def open_session(run: Run, settings: LLMSettings) -> Iterator[Asker]:
    """An Asker for the endpoint and model that the settings name; raises at its end what an estimate, a batch file or a spent budget has to say."""
    endpoint = Endpoint(settings.llm_url)
    model = endpoint.choose_model(settings.llm_model)
    meter = Meter(Prices(settings.price_in, settings.price_out))
    with ReplyStore(reply_path(run, settings.replies)) as store:
        asker = Asker(
            endpoint,
            model,
            store,
            settings,
            Budget(settings.budget, meter),
            Pace(settings.rpm, settings.tpm),
        )
        yield asker
        asker.finish()


class Asker:
    """One model and everything that is counted while a command asks it."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        store: ReplyStore,
        settings: LLMSettings,
        budget: Budget,
        pace: Pace,
    ):
        self.endpoint, self.model, self.store, self.settings, self.budget, self.pace = (
            endpoint,
            model,
            store,
            settings,
            budget,
            pace,
        )
        self.meter = budget.meter  # of what this command pays for
        self.used = Meter(
            self.meter.prices
        )  # of every reply that was read, paid for now or earlier
        self._abilities: Abilities | None = None
        self._answers = read_batch(settings.batch_in) if settings.batch_in else ({}, 0)
        self._ahead: list[str] = []
        self._batch: list[Request] = []

    @property
    def abilities(self) -> Abilities:
        """What the model can do: probed once. Where nothing may be sent, what is known, or what any model can do."""
        if self._abilities is None:
            silent = self.settings.estimate or self.settings.batch_out or self.settings.batch_in
            if silent:
                self._abilities = stored_abilities(self.endpoint, self.model, self.store)
            else:
                self._abilities = abilities(
                    self.endpoint, self.model, self.store, self.settings.probe, budget=self.budget
                )
                say(f"llm: {self.model}: {self._abilities.line()}")
        return self._abilities

    def request(self, messages: list[dict], repetition: int, form: AnswerFormat) -> Request:
        """The request for a conversation, in the form of answer that the model honours."""
        can = self.abilities
        if form.prompt_logprobs:
            told = {"prompt_logprobs": form.prompt_logprobs, "add_generation_prompt": False}
            return self.endpoint.request(
                self.model, messages, repetition, temperature=0.0, max_tokens=1, **told
            )
        parameters: dict = {
            "temperature": 0.0,
            "max_tokens": form.max_tokens + (THINKING_TOKENS if can.thinks else 0),
        }
        if form.schema and can.json == "schema":
            parameters["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": form.name, "strict": True, "schema": form.schema},
            }
        elif can.json != "none":
            parameters["response_format"] = {"type": "json_object"}
        if form.logprobs and can.top_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": can.top_logprobs}
        return self.endpoint.request(self.model, messages, repetition, **parameters)

    def ask(
        self, conversations: list[list[dict]], repetition: int, form: AnswerFormat
    ) -> list[tuple[str, Reply]]:
        """(key, Reply) of each conversation, in order; equal ones are asked once. Raises Ahead instead of sending where that was asked for."""
        requests = [self.request(messages, repetition, form) for messages in conversations]
        distinct = {request.key: request for request in requests}
        missing = self._from_files(
            [request for key, request in distinct.items() if self.store.get(key) is None]
        )
        usual = form.usual_tokens * (10 if self.abilities.thinks else 1)
        line = f"{form.name}: " + estimate(
            missing, len(distinct) - len(missing), usual, self.meter
        ).line(self.meter.prices)
        if missing and (self.settings.estimate or self.settings.batch_out):
            self._ahead.append(line)
            self._batch += missing
            raise DryRun
        if missing and self.settings.batch_in:
            say(
                f"llm: {len(missing):,} of {len(distinct):,} requests have no answer in the files; type the same command without --batch-in to ask them"
            )
            absent = {
                r.key: Reply(r.key, None, error="provider", message="no answer in the batch files")
                for r in missing
            }
            replies = {
                key: absent.get(key) or read_reply(key, self.store.get(key)) for key in distinct
            }
        else:
            if missing:
                say(f"llm: {line}")
            replies = self._answered(list(distinct.values()), form)
        for key, reply in replies.items():
            self.used.count(distinct[key], reply)
        return [(request.key, replies[request.key]) for request in requests]

    def _answered(self, requests: list[Request], form: AnswerFormat) -> dict[str, Reply]:
        with progress(total=len(requests), label=form.name, unit="req") as bar:

            def seen(_: Reply) -> None:
                bar.set_postfix_str(self.meter.line(), refresh=False)
                bar.update()

            return answer(
                requests, self.store, self.endpoint, concurrency=self.settings.concurrency, timeout=self.settings.llm_timeout,
                on_progress=seen, budget=self.budget, pace=self.pace,
            )  # fmt: skip

    def _from_files(self, missing: list[Request]) -> list[Request]:
        """Store the answers that files hold; returns the requests that are still without one."""
        answers = self._answers[0]
        for request in missing:
            if request.key in answers:
                self.store.put(request, answers[request.key])
        return [request for request in missing if request.key not in answers]

    def summary(self) -> dict:
        """For a manifest: every reply that was read, and what this command paid for. Money only where prices were given."""
        money = (
            {"cost": round(self.used.cost, 6), "paid_now": round(self.meter.cost, 6)}
            if self.meter.prices
            else {}
        )
        counts = {
            "replies": self.used.n_received,
            "asked_now": self.meter.n_received,
            "tokens_in": self.used.tokens_in,
            "tokens_out": self.used.tokens_out,
        }
        uncounted = {"replies_without_usage": self.used.uncounted} if self.used.uncounted else {}
        return {
            "llm": {
                "model": self.model,
                "can": self.abilities.line(),
                **counts,
                **money,
                **uncounted,
            }
        }

    def finish(self) -> None:
        """Raise what the command has to say at its end: the estimate, the batch file, or that the budget is spent."""
        if self._ahead:
            text = "\n".join(self._ahead) + "\nA reply that cannot be read is asked for once more."
            if self.settings.batch_out:
                n = write_batch(Path(self.settings.batch_out), self._batch, self.endpoint.adapted)
                raise Stop(
                    f"{text}\n{n:,} requests are in {self.settings.batch_out}.",
                    "When they are answered: the same command with --batch-in FILE.",
                )
            raise Stop(text, "Nothing was asked. Without --estimate the same command asks.")
        if self._answers[1]:
            say(
                f"llm: {self._answers[1]:,} lines of the files hold no completion and were passed over"
            )
        if self.meter.n_received:
            say(f"llm: {self.meter.n_received:,} replies, {self.meter.line()}")
        if self.budget.spent_up:
            raise ProviderError(
                f"The budget of {self.budget.limit:g} is spent ({self.meter.cost:.4f}); what was not asked is counted as failed, what was received is kept.",
                "Raise --budget and type the same command again: it asks only for what is missing.",
            )


def asked_twice(
    questions: dict, read: Callable, ask: Ask
) -> tuple[dict, dict[object, tuple[str, str]]]:
    """({key: what was read}, {key: (kind of failure, reply key)}) of questions {key: messages}; an answer that `read` makes nothing of is asked for
    once more, one that never came is not, because `answer` has tried."""
    answers, failures = {}, {}
    left = [*questions]
    for attempt in range(ATTEMPTS):
        replies = dict(
            zip(left, ask([questions[key] for key in left], attempt) if left else (), strict=True)
        )
        for key, (reply_key, reply) in replies.items():
            value = None if reply.error else read(reply.text)
            if value is None:
                failures[key] = (reply.error or "unparsable", reply_key)
            else:
                answers[key] = value
                failures.pop(key, None)
        left = [key for key, (_, reply) in replies.items() if key in failures and reply.raw]
    return answers, failures


def slug(model: str) -> str:
    """The model's name as a folder name."""
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
        or "model"
    )


def reply_path(run: Run, shared: str) -> Path:
    path = Path(shared) if shared else run.path / "llm" / "replies.sqlite"
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file for --replies.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

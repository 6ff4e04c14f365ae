"""One LLM session of a stage: endpoint, reply store, budget and usage.

    with open_session(run, settings) as asker:
        replies = asker.ask(conversations, 0, LABEL)

A session has three modes. Usually requests are sent; before that, the stage prints how many there
are and what they would cost. With `--estimate` or `--batch-out` nothing is sent: `ask` raises
DryRun, and the session ends with Stop (exit 0) and the estimate. With `--batch-in` answers come
from files only; a request without an answer there is a failure of kind provider, and the next
command asks it again.

`ask_until_read` asks questions whose answers may be unreadable or incomplete.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from autointerp.llm.batch import read_batch, write_batch
from autointerp.llm.budget import Budget, Meter, Prices, estimate
from autointerp.llm.client import answer
from autointerp.llm.fleet import Fleet, open_fleet
from autointerp.llm.probe import THINKING_TOKENS, Abilities, abilities, stored_abilities
from autointerp.llm.repair import forget_repair, keep_repairs, reading
from autointerp.llm.replies import Reply, ReplyStore, Request, read_reply
from autointerp.settings import LLMSettings
from core.errors import ProviderError, Stop, UsageError
from core.progress import progress, say
from core.run import Run

ATTEMPTS = 2  # times that a question is asked when its answer cannot be read
K = TypeVar("K")  # key of a question
V = TypeVar("V")  # value read from a reply


class DryRun(Exception):
    """Nothing was sent, because the command asked for an estimate or a batch file."""


@dataclass(frozen=True)
class AnswerFormat:
    """The kind of answer that a prompt asks for."""

    name: str  # shown in the progress line
    max_tokens: int
    usual_tokens: int  # of an answer, for estimates
    schema: dict = field(default_factory=dict)  # JSON schema, for endpoints that honour one
    logprobs: bool = False  # ask for log-probabilities where the endpoint returns them
    # Alternatives wanted at each token of the question, whose last turn is the answer; then nothing
    # is generated.
    prompt_logprobs: int = 0


@contextlib.contextmanager
def open_session(run: Run, settings: LLMSettings) -> Iterator[Asker]:
    """Yield an Asker for the endpoints and the model that the settings name.

    At its end it raises Stop after an estimate or a batch file (also when DryRun left the block),
    and ProviderError when the budget is spent.
    """
    fleet = open_fleet(settings)
    model = fleet.choose_model(settings.llm_model)
    meter = Meter(Prices(settings.price_in, settings.price_out))
    with ReplyStore(reply_path(run, settings.replies)) as store:
        asker = Asker(
            fleet,
            model,
            store,
            settings,
            Budget(settings.budget, meter),
        )
        try:
            with keep_repairs(asker.repaired):
                yield asker
        except DryRun:
            asker.finish()  # raises Stop
            raise
        asker.finish()


class Asker:
    """One model, and everything that is counted while a command asks it."""

    def __init__(
        self,
        fleet: Fleet,
        model: str,
        store: ReplyStore,
        settings: LLMSettings,
        budget: Budget,
    ):
        self.fleet, self.endpoint = fleet, fleet.first
        self.model, self.store = model, store
        self.settings, self.budget = settings, budget
        self.meter = budget.meter  # replies that this command pays for
        self.used = Meter(self.meter.prices)  # replies that were read, paid for now or earlier
        self.repaired: set[str] = set()  # keys of replies that were nearly JSON and were read
        self._abilities: Abilities | None = None
        self._answers: tuple[dict[str, str], int] = ({}, 0)
        if settings.batch_in:
            self._answers = read_batch(settings.batch_in)
        self._estimates: list[str] = []  # lines, in a dry run
        self._batch: list[Request] = []  # requests, in a dry run

    @property
    def abilities(self) -> Abilities:
        """What the model can do, probed once.

        Where nothing may be sent: what an earlier probe found, or what any model can do.
        """
        if self._abilities is None:
            silent = self.settings.estimate or self.settings.batch_out or self.settings.batch_in
            if silent:
                self._abilities = stored_abilities(self.endpoint, self.model, self.store)
            else:
                self._abilities = abilities(
                    self.endpoint,
                    self.model,
                    self.store,
                    self.settings.probe,
                    budget=self.budget,
                    fleet=self.fleet,
                )
                say(f"llm: {self.model}: {self._abilities.line()}")
        return self._abilities

    def request(self, messages: list[dict], repetition: int, form: AnswerFormat) -> Request:
        """The request for a conversation, with the parameters that the model honours."""
        can = self.abilities
        parameters: dict[str, Any]
        if form.prompt_logprobs:
            parameters = {"prompt_logprobs": form.prompt_logprobs, "add_generation_prompt": False}
            parameters = {"temperature": 0.0, "max_tokens": 1} | parameters
            return self.endpoint.request(self.model, messages, repetition, **parameters)
        thinking_tokens = THINKING_TOKENS if can.thinks else 0
        parameters = {"temperature": 0.0, "max_tokens": form.max_tokens + thinking_tokens}
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
        """(key, Reply) of each conversation, in order; equal ones are asked once.

        Raises DryRun instead of sending where an estimate or a batch file is wanted.
        """
        requests = [self.request(messages, repetition, form) for messages in conversations]
        distinct = {request.key: request for request in requests}
        missing = [request for key, request in distinct.items() if self.store.get(key) is None]
        missing = self._store_from_files(missing)
        line = self._estimate(missing, len(distinct) - len(missing), form)
        if missing and (self.settings.estimate or self.settings.batch_out):
            self._estimates.append(line)
            self._batch += missing
            raise DryRun
        if missing and self.settings.batch_in:
            replies = self._stored(distinct, missing)
        else:
            if missing:
                say(f"llm: {line}")
            replies = self._send(list(distinct.values()), form)
        for key, reply in replies.items():
            self.used.count(distinct[key], reply)
        return [(request.key, replies[request.key]) for request in requests]

    def _estimate(self, missing: list[Request], n_stored: int, form: AnswerFormat) -> str:
        """The line that says how many requests are missing and what they would cost."""
        usual_tokens = form.usual_tokens * (10 if self.abilities.thinks else 1)
        cost = estimate(missing, n_stored, usual_tokens, self.meter)
        return f"{form.name}: {cost.line(self.meter.prices)}"

    def _stored(self, wanted: dict[str, Request], missing: list[Request]) -> dict[str, Reply]:
        """The stored replies; a failure of kind provider for each missing request."""
        say(
            f"llm: {len(missing):,} of {len(wanted):,} requests have no answer in the files; type "
            "the same command without --batch-in to ask them"
        )
        absent = {request.key for request in missing}
        replies = {}
        for key in wanted:
            raw = None if key in absent else self.store.get(key)
            if raw is None:
                message = "no answer in the batch files"
                replies[key] = Reply(key, None, error="provider", message=message)
            else:
                replies[key] = read_reply(key, raw)
        return replies

    def _send(self, requests: list[Request], form: AnswerFormat) -> dict[str, Reply]:
        """The replies to the requests, from the store or from the endpoint."""
        with progress(total=len(requests), label=form.name, unit="req") as bar:

            def show(_: Reply) -> None:
                bar.set_postfix_str(self.meter.line(), refresh=False)
                bar.update()

            return answer(
                requests,
                self.store,
                self.endpoint,
                timeout=self.settings.llm_timeout,
                on_progress=show,
                budget=self.budget,
                fleet=self.fleet,
            )

    def _store_from_files(self, missing: list[Request]) -> list[Request]:
        """Store the answers in the batch files; returns the requests that are still without one."""
        answers = self._answers[0]
        for request in missing:
            if request.key in answers:
                self.store.put(request, answers[request.key])
        return [request for request in missing if request.key not in answers]

    def summary(self) -> dict:
        """For a manifest: every reply that was read, and what this command paid for.

        `repaired` counts the replies that were not JSON, or held a value in another form than was
        asked for, and were read nevertheless.

        Money stands in it only where prices were given.
        """
        llm: dict[str, Any] = {
            "model": self.model,
            "can": self.abilities.line(),
            "replies": self.used.n_received,
            "asked_now": self.meter.n_received,
            "tokens_in": self.used.tokens_in,
            "tokens_out": self.used.tokens_out,
            "repaired": len(self.repaired),
        }
        if self.meter.prices:
            llm |= {"cost": round(self.used.cost, 6), "paid_now": round(self.meter.cost, 6)}
        if not self.fleet.is_one:
            llm["endpoints"] = self.fleet.summary()
        if self.used.uncounted:
            llm["replies_without_usage"] = self.used.uncounted
        return {"llm": llm}

    def finish(self) -> None:
        """Raise Stop after a dry run, and ProviderError when the budget is spent."""
        if self._estimates:
            self._stop()
        if self._answers[1]:
            say(f"llm: {self._answers[1]:,} lines of the files hold no completion and were skipped")
        if self.meter.n_received:
            say(f"llm: {self.meter.n_received:,} replies, {self.meter.line()}")
        if self.budget.exhausted:
            raise ProviderError(
                f"The budget of {self.budget.limit:g} is spent ({self.meter.cost:.4f}); what was "
                "not asked is counted as failed, what was received is kept.",
                "Raise --budget and type the same command again: it asks only for what is missing.",
            )

    def _stop(self) -> None:
        text = "\n".join(self._estimates) + "\nA reply that cannot be read is asked for once more."
        if not self.settings.batch_out:
            raise Stop(text, "Nothing was asked. Without --estimate the same command asks.")
        path = Path(self.settings.batch_out)
        n = write_batch(path, self._batch, self.endpoint.adapt, self.endpoint.adapt_messages)
        raise Stop(
            f"{text}\n{n:,} requests are in {path}.",
            "When they are answered: the same command with --batch-in FILE.",
        )


# ------------------------------------------------------------ ask until the answer can be read


@dataclass(frozen=True)
class Unread:
    """Why nothing, or not everything, could be read from a reply."""

    kind: str  # as in a Failure: refused, truncated, unparsable, provider, budget
    message: str = ""
    reply_key: str = ""


# (conversations, repetition) -> (reply key, reply) of each
Ask = Callable[[list[list[dict]], int], list[tuple[str, Reply]]]
Read = Callable[[K, Reply], V | Unread | None]  # (key of the question, its reply) -> value


@dataclass(frozen=True)
class Answers(Generic[K, V]):
    """What was read from the replies to several questions."""

    values: dict[K, V]  # complete and partial ones; a question without any has no entry
    failures: dict[K, Unread]  # questions whose value is missing or is still partial
    reply_keys: dict[K, str]  # of the reply from which the value was read last


def read_whole(parse: Callable[[str | None], V | Unread | None]) -> Read[Any, V]:
    """Return a reader for `ask_until_read` that parses the text of replies without an error.

    A reply with an error, such as `truncated`, is not parsed: its error is the kind of failure.
    """

    def read(_: Any, reply: Reply) -> V | Unread | None:
        return Unread(reply.error) if reply.error else parse(reply.text)

    return read


def ask_until_read(
    questions: Mapping[K, list[dict]],
    read: Read[K, V],
    ask: Ask,
    merge: Callable[[V, V], V] | None = None,
    is_complete: Callable[[V], bool] | None = None,
) -> Answers[K, V]:
    """Ask every question, and those that got no complete answer once more.

    `questions` holds a conversation for each key. `read` makes a value of a reply; it returns
    None (unparsable) or `Unread` where it cannot. `is_complete` says whether a value is whole; a
    partial one is kept, the question is asked again, and `merge(old, new)` joins the two answers
    (without `merge` the new one counts). A request that got no reply at all is not repeated here,
    since `client.answer` has tried that.
    """
    values: dict[K, V] = {}
    failures: dict[K, Unread] = {}
    reply_keys: dict[K, str] = {}
    left = list(questions)
    for repetition in range(ATTEMPTS):
        replies = ask([questions[key] for key in left], repetition) if left else []
        again = []
        for key, (reply_key, reply) in zip(left, replies, strict=True):
            with reading(reply_key):
                value = read(key, reply)
            if value is not None and not isinstance(value, Unread):
                values[key] = merge(values[key], value) if merge and key in values else value
                reply_keys[key] = reply_key
                if is_complete is None or is_complete(values[key]):
                    failures.pop(key, None)
                    continue
            else:
                forget_repair(reply_key)
            kind = value.kind if isinstance(value, Unread) else reply.error or "unparsable"
            if reply.finish_reason == "content_filter":  # which cut it off
                kind = "refused"
            message = reply.message or f"reply of {len(reply.text or '')} characters"
            failures[key] = Unread(kind, message, reply_key)
            if reply.raw:
                again.append(key)
        left = again
    return Answers(values, failures, reply_keys)


def slug(model: str) -> str:
    """The model's name as a folder name."""
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
        or "model"
    )


def reply_path(run: Run, shared: str) -> Path:
    """The file of the reply store: the shared one that --replies names, or the run's own."""
    path = Path(shared) if shared else run.path / "llm" / "replies.sqlite"
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file for --replies.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

"""What the explorer's server may do with the loaded subject of a run, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.clamps.experiments import Experiment, save_experiment
from core.records import Clamp
from figures.explorer.about import shorten
from figures.explorer.asking import Refused

if TYPE_CHECKING:
    from autointerp.study import Study


@dataclass(frozen=True)
class LiveCalls:
    """What the server may do with the loaded subject of one run."""

    # text -> {tokens, firings}; see `core.clamps.live.Reading`
    read: Callable[[str], dict[str, Any]]
    # the arguments of `Server.clamp` -> an experiment's record
    clamp: Callable[..., dict[str, Any]]
    # (text, the answer's beginning too) -> the text as a user's turn; None without a template
    as_chat: Callable[[str, bool], str] | None = None
    # keep an experiment's record in the run -> its number
    keep: Callable[[dict[str, Any]], int] | None = None
    # (text, position of a token in it, what else might follow, how many to ablate) -> why what
    # follows follows
    why: Callable[[str, int, str, int], dict[str, Any]] | None = None


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
        logprobs: int,
        seconds: float,
    ) -> dict[str, Any]:
        sampling = Sampling([prompt], tokens, temperature, tuple(range(samples)))
        what = (clamps, maxima, sampling, Positions(positions))
        record = model.clamp(*what, seconds=seconds)
        if logprobs:
            record = replace(record, next_tokens=model.next_tokens(*what, n=logprobs))
        return record.to_dict()

    def keep(record: dict[str, Any]) -> int:
        with study.run_directory.locked("clamp"):
            return int(
                Path(save_experiment(study.run_directory, Experiment.from_dict(record))).stem
            )

    def why(text: str, at: int, against: str, top: int) -> dict[str, Any]:
        return study.why(text, against=against, top=top, at=at).to_dict()

    as_chat = study.as_chat if model.has_chat_template else None
    return LiveCalls(read, clamp, as_chat, keep, why)


def summarise_attribution(made: dict) -> dict:
    """An attribution without the thousands of firings that its page does not list."""
    by_token = [0.0] * len(made["tokens"])
    for firing in made["firings"]:
        by_token[firing["position"]] += firing["attribution"]
    kept = {*range(made["strongest"]), *made["random"]}
    firings = [
        firing | {"random": i >= made["strongest"]}
        for i, firing in enumerate(made["firings"])
        if i in kept
    ]
    count = {"n_firings": len(made["firings"]), "by_token": by_token, "firings": firings}
    summary: dict = shorten(made | count)
    return summary


def as_chat(calls: LiveCalls, text: str, answer: bool) -> str:
    """A text as a user's turn; refuses where the subject has no chat template."""
    if calls.as_chat is None:
        raise Refused(400, "This subject has no chat template.")
    return calls.as_chat(text, answer)

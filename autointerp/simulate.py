"""Labels in free words, simulated by an LLM: it sees the label and the tokens of each window, and says where it would fire.

Two ways of answering, and the endpoint's probe decides. Where it tells log-probabilities: a digit for each token, read as the mean of
the digits that could have stood there, so that predictions are continuous. Elsewhere: a list of the tokens that fire, by index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autointerp import score_prompts as prompts
from autointerp.asking import Asker, Form
from autointerp.probing import logprob_tokens
from autointerp.replies import Reply
from core.corpus import Tokens

WINDOWS = 8  # in one request
LENGTH = 32  # tokens of a window, at most
ATTEMPTS = 2


@dataclass(frozen=True)
class Mode:
    """One way of asking and reading."""

    prompt: str  # its version
    messages: Callable[[str, list[tuple[str, ...]]], list[dict]]
    read: Callable[[Reply, list[int]], list[np.ndarray | None]]
    form: Form


SPARSE = Mode(
    prompts.SIMULATE_PROMPT,
    prompts.simulate_messages,
    lambda reply, lengths: prompts.parse_simulation(reply.text, lengths),
    Form("simulate", max_tokens=2048, usual_tokens=200),
)
DIGITS = Mode(
    prompts.DIGITS_PROMPT,
    prompts.digits_messages,
    lambda reply, lengths: prompts.parse_digits(reply.text, lengths, logprob_tokens(reply)),
    Form("simulate", max_tokens=2048, usual_tokens=600, logprobs=True),
)


def simulate(asker: Asker, tokens: Tokens, wanted: list) -> tuple[dict[tuple[str, int], np.ndarray | str], dict]:
    """({(label text, feature): predictions (n,) on the ordinals of its sample, or the kind of failure}, what the manifest should say).

    `wanted` is a list of (label text, sample). A window whose answer cannot be read is asked for once more and is NaN after that;
    when no window could be read the whole simulation is a failure.
    """
    mode = DIGITS if asker.abilities.top_logprobs else SPARSE
    samples = {(text, sample.feature): np.asarray(sample.ordinals) for text, sample in wanted}  # a null may say what the label says
    jobs = [(key, part) for key, ordinals in samples.items() for part in batches(ordinals)]
    values: list[list[np.ndarray | None]] = [[None] * len(part) for _, part in jobs]
    errors: dict[tuple[str, int], str] = {}
    left = list(range(len(jobs)))
    for attempt in range(ATTEMPTS):
        questions = [mode.messages(jobs[i][0][0], windows_of(tokens, jobs[i][1])) for i in left]
        again = []
        for i, (_, reply) in zip(left, asker.ask(questions, attempt, mode.form) if left else (), strict=True):
            key, part = jobs[i]
            read = [None] * len(part) if reply.error else mode.read(reply, [len(w) for w in part])
            errors[key] = reply.error or "unparsable"
            values[i] = [old if new is None else new for old, new in zip(values[i], read, strict=True)]
            if reply.raw and any(v is None for v in values[i]):
                again.append(i)
        left = again
    failed = sum(v is None for found in values for v in found)
    told = {"prompt": mode.prompt, "windows": sum(map(len, values)), "windows_failed": failed}
    return joined(jobs, values, errors), told


def joined(jobs: list, values: list, errors: dict) -> dict[tuple[str, int], np.ndarray | str]:
    """The windows of each job put together again; NaN where one failed, the kind of failure where all did."""
    pieces: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key, _ in jobs}
    for (key, part), found in zip(jobs, values, strict=True):
        pieces[key] += [np.full(len(w), np.nan, np.float32) if v is None else v for w, v in zip(part, found, strict=True)]
    whole = {key: np.concatenate(parts) for key, parts in pieces.items()}
    return {key: errors[key] if np.isnan(predicted).all() else predicted for key, predicted in whole.items()}


def batches(ordinals: np.ndarray) -> list[list[np.ndarray]]:
    """Ascending ordinals as lists of at most WINDOWS windows of consecutive ones, none longer than LENGTH."""
    breaks = np.flatnonzero(np.diff(ordinals) != 1) + 1
    windows = [piece for run in np.split(ordinals, breaks) for piece in np.split(run, range(LENGTH, len(run), LENGTH))]
    return [windows[i : i + WINDOWS] for i in range(0, len(windows), WINDOWS)]


def windows_of(tokens: Tokens, windows: list[np.ndarray]) -> list[tuple[str, ...]]:
    return [tuple(tokens.vocabulary[i] for i in np.asarray(tokens.ids[w])) for w in windows]

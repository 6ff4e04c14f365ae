"""Labels in free words, simulated by an LLM: it sees the label and the tokens of each window, and says where it would fire.

Three ways of asking, and the endpoint's probe decides, or the settings do. Where it tells log-probabilities: a digit for each token, read as the mean
of the digits that could have stood there, so that predictions are continuous. Where it tells those of questions only: the same, without a written answer
(`slots`). Elsewhere: a list of the tokens that fire, by index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autointerp import score_prompts as prompts
from autointerp.asking import ATTEMPTS, Asker, Form
from autointerp.probing import Abilities, logprob_tokens, told_of_prompt
from autointerp.replies import Reply
from autointerp.slots import ALTERNATIVES, SLOTS_PROMPT, read_slots, slots_messages
from core.corpus import Tokens
from core.errors import UsageError

WINDOWS = 8  # in one request
LENGTH = 32  # tokens of a window, at most


@dataclass(frozen=True)
class Mode:
    """One way of asking and reading."""

    prompt: str  # its version
    messages: Callable[[str, list[tuple[str, ...]]], list[dict]]
    read: Callable[[Reply, list[int]], list[np.ndarray | None]]
    form: Form
    able: Callable[[Abilities], bool] = lambda _: True


LIST = Mode(
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
    lambda can: can.top_logprobs > 0,
)


SLOTS = Mode(
    SLOTS_PROMPT,
    slots_messages,
    lambda reply, lengths: read_slots(told_of_prompt(reply), lengths),
    Form("simulate", max_tokens=1, usual_tokens=1, prompt_logprobs=ALTERNATIVES),
    lambda can: can.prompt_logprobs,
)
MODES = {"digits": DIGITS, "prompt": SLOTS, "list": LIST}  # the first that the endpoint is able to, unless one is asked for


def mode_for(can: Abilities, wanted: str) -> Mode:
    """The way of asking that is wanted, or with `auto` the first that the endpoint is able to; raises UsageError where it is not."""
    if wanted == "auto":
        return next(mode for mode in MODES.values() if mode.able(can))
    if not MODES[wanted].able(can):
        raise UsageError(f"The endpoint cannot do --simulate-by {wanted}: {can.line()}.", "Leave --simulate-by out, or give --probe to look again.")
    return MODES[wanted]


def simulate(asker: Asker, tokens: Tokens, wanted: list) -> tuple[dict[tuple[str, int], np.ndarray | str], dict]:
    """({(label text, feature): predictions (n,) on the ordinals of its sample, or the kind of failure}, what the manifest should say).

    `wanted` is a list of (label text, sample). A window whose answer cannot be read is asked for once more and is NaN after that;
    when no window could be read the whole simulation is a failure.
    """
    mode = mode_for(asker.abilities, asker.settings.simulate_by)
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
            read = mode.read(reply, [len(w) for w in part]) if reply.text is not None else [None] * len(part)
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

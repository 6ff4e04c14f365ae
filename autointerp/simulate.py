"""Labels in free words, simulated by an LLM: it sees the label and the tokens of each window, and says where it would fire."""

from __future__ import annotations

import numpy as np

from autointerp import prompts
from autointerp.label import JSON, asked, reply_path
from autointerp.llm import Endpoint
from autointerp.replies import ReplyStore
from autointerp.settings import ScoreSettings
from core.corpus import Tokens
from core.run import Run

WINDOWS = 8  # in one request
LENGTH = 32  # tokens of a window, at most
ATTEMPTS = 2


def simulate(run: Run, settings: ScoreSettings, tokens: Tokens, wanted: list) -> dict[tuple[str, int], np.ndarray | str]:
    """{(label text, feature): predictions (n,) on the ordinals of its sample, or the kind of failure}.

    `wanted` is a list of (label text, sample). A window whose answer cannot be read is asked for once more and is NaN after that;
    when no window could be read the whole simulation is a failure.
    """
    endpoint = Endpoint(settings.llm_url)
    model = endpoint.choose_model(settings.llm_model)
    samples = {(text, sample.feature): np.asarray(sample.ordinals) for text, sample in wanted}  # a null may say what the label says
    jobs = [(key, part) for key, ordinals in samples.items() for part in batches(ordinals)]
    values: list[list[np.ndarray | None]] = [[None] * len(part) for _, part in jobs]
    errors: dict[tuple[str, int], str] = {}
    with ReplyStore(reply_path(run, settings.replies)) as store:
        for attempt in range(ATTEMPTS):
            left = [i for i in range(len(jobs)) if any(v is None for v in values[i])]
            requests = [request_for(endpoint, model, tokens, jobs[i][0][0], jobs[i][1], attempt) for i in left]
            for i, (_, reply) in zip(left, asked(requests, store, endpoint, settings.concurrency) if left else (), strict=True):
                key, part = jobs[i]
                read = [None] * len(part) if reply.error else prompts.parse_simulation(reply.text, [len(w) for w in part])
                errors[key] = reply.error or "unparsable"
                values[i] = [old if new is None else new for old, new in zip(values[i], read, strict=True)]
    pieces: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key in samples}
    for (key, part), found in zip(jobs, values, strict=True):
        pieces[key] += [np.full(len(w), np.nan, np.float32) if v is None else v for w, v in zip(part, found, strict=True)]
    joined = {key: np.concatenate(parts) for key, parts in pieces.items()}
    return {key: errors[key] if np.isnan(predicted).all() else predicted for key, predicted in joined.items()}


def batches(ordinals: np.ndarray) -> list[list[np.ndarray]]:
    """Ascending ordinals as lists of at most WINDOWS windows of consecutive ones, none longer than LENGTH."""
    breaks = np.flatnonzero(np.diff(ordinals) != 1) + 1
    windows = [piece for run in np.split(ordinals, breaks) for piece in np.split(run, range(LENGTH, len(run), LENGTH))]
    return [windows[i : i + WINDOWS] for i in range(0, len(windows), WINDOWS)]


def request_for(endpoint: Endpoint, model: str, tokens: Tokens, text: str, windows: list[np.ndarray], attempt: int):
    shown = [tuple(tokens.vocabulary[i] for i in np.asarray(tokens.ids[w])) for w in windows]
    return endpoint.request(model, prompts.simulate_messages(text, shown), attempt, temperature=0.0, max_tokens=2048, response_format=JSON)

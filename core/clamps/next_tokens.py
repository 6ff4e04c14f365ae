"""The likeliest next tokens without and with clamps: at a prompt's end and at written tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.clamps.clamp import Edits, Sampling, generate_texts
from core.records import Site
from core.subject.decoding import Edit
from core.subject.next_token import last_logits
from core.subject.subject import Subject


@torch.inference_mode()
def compare_next_tokens(
    subject: Subject, site: Site, edits: Edits, prompts: list[str], n: int, room: int
) -> tuple[dict[str, Any], ...]:
    """Compare the next tokens at the end of each prompt without and with `edits`.

    Each entry holds a `prompt` and its `tokens`: the `n` likeliest with the edits and the `n`
    likeliest without them, likeliest with them first; each has `token` (its text), `id`, and its
    log-probability in nats without (`baseline`) and with (`clamped`). A prompt is cut as
    `Subject.generate` cuts it that writes `room` tokens.
    """
    texts = subject.token_texts()
    found = []
    for prompt in prompts:
        ids = subject.cut_prompt(subject.prompt_tokens(prompt), subject.context - room)
        tokens = torch.tensor([ids], device=subject.device)
        plain = last_logits(subject, tokens)[0].log_softmax(0)
        held = _hold(site, edits, tokens, len(ids))
        edited = last_logits(subject, tokens, held)[0].log_softmax(0)
        found.append({"prompt": prompt, "tokens": compare_rows(plain, edited, n, texts)})
    return tuple(found)


@torch.inference_mode()
def compare_written(
    subject: Subject, site: Site, edits: Edits, sampling: Sampling, n: int
) -> tuple[list[dict[str, Any]], ...]:
    """Compare the next tokens at each token that was written with `edits`, without and with them.

    One list for each prompt, of the text from the first seed. An entry holds the `token` written
    there, its `id`, its log-probability in nats without (`baseline`) and with the edits
    (`clamped`), both behind what was written with them, and in `tokens` the table of
    `compare_next_tokens`.
    """
    texts, found = subject.token_texts(), []
    first = replace(sampling, seeds=sampling.seeds[:1])
    for made in generate_texts(subject, site, first, edits):
        tokens = torch.tensor([made.tokens], device=subject.device)
        held = _hold(site, edits, tokens, made.n_prompt)
        with contextlib.ExitStack() as hooks:
            plain = subject.logits(tokens)[0].log_softmax(-1)
            for place, edit in held:
                hooks.enter_context(subject.hook(place, edit))
            edited = subject.logits(tokens)[0].log_softmax(-1)
        found.append(
            [
                {
                    "token": texts[made.tokens[at]],
                    "id": made.tokens[at],
                    "baseline": float(plain[at - 1, made.tokens[at]]),
                    "clamped": float(edited[at - 1, made.tokens[at]]),
                    "tokens": compare_rows(plain[at - 1], edited[at - 1], n, texts),
                }
                for at in range(made.n_prompt, len(made.tokens))
            ]
        )
    return tuple(found)


def compare_rows(
    plain: Tensor, edited: Tensor, n: int, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the `n` likeliest tokens of two log-probabilities (V,), likeliest `edited` first."""
    n_kept = min(n, len(plain))
    shown = torch.cat([plain.topk(n_kept).indices, edited.topk(n_kept).indices]).unique()
    rows = [
        {"token": texts[i], "id": i, "baseline": float(plain[i]), "clamped": float(edited[i])}
        for i in shown.tolist()
    ]
    return sorted(rows, key=lambda row: -row["clamped"])


def _hold(
    site: Site, edits: Edits, tokens: Tensor, n_prompt: int
) -> list[tuple[Site, Callable[[Tensor], Tensor]]]:
    """Return the edits as they hold on tokens (1, T), never at the first position.

    The tokens behind the first `n_prompt` were generated.
    """
    editable = torch.ones_like(tokens, dtype=torch.bool)
    if edits.where is not None:
        parts = (tokens[:, :n_prompt], False), (tokens[:, n_prompt:], True)
        editable = torch.cat([edits.where(part, made) for part, made in parts], 1)
    editable[:, 0] = False
    every = [(site, edits.edit)] if edits.edit is not None else []
    return [(place, partial(_apply, edit, editable)) for place, edit in (*every, *edits.also)]


def _apply(edit: Edit, editable: Tensor, hidden: Tensor) -> Tensor:
    return edit(hidden, editable).to(hidden.dtype)

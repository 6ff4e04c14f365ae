"""The likeliest next tokens at a prompt's end, without and with clamps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.clamps.clamp import Edits
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
        edited = last_logits(subject, tokens, _at_prompt(site, edits, tokens))[0].log_softmax(0)
        n_kept = min(n, len(plain))
        shown = torch.cat([plain.topk(n_kept).indices, edited.topk(n_kept).indices]).unique()
        rows = [
            {"token": texts[i], "id": i, "baseline": float(plain[i]), "clamped": float(edited[i])}
            for i in shown.tolist()
        ]
        rows.sort(key=lambda row: -row["clamped"])
        found.append({"prompt": prompt, "tokens": rows})
    return tuple(found)


def _at_prompt(
    site: Site, edits: Edits, tokens: Tensor
) -> list[tuple[Site, Callable[[Tensor], Tensor]]]:
    """Return the edits as they hold on a prompt's tokens (1, T): never at the first position."""
    allowed = torch.ones_like(tokens, dtype=torch.bool)
    editable = allowed if edits.where is None else edits.where(tokens, False)
    editable[:, 0] = False
    every = [(site, edits.edit)] if edits.edit is not None else []
    return [(place, partial(_apply, edit, editable)) for place, edit in (*every, *edits.also)]


def _apply(edit: Edit, editable: Tensor, hidden: Tensor) -> Tensor:
    return edit(hidden, editable).to(hidden.dtype)

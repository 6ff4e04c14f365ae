"""The token that follows a prompt: its logits, with edits at sites, and finding it by its text."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Site
from core.subject.subject import Subject


def last_logits(
    subject: Subject, tokens: Tensor, edits: Sequence[tuple[Site, Callable[[Tensor], Tensor]]] = ()
) -> Tensor:
    """Logits (R, V) float32 at the last position of token ids (R, T) without padding.

    Each edit maps the hidden states (R, T, D) at its site to those that replace them. Gradients
    pass through the edits, unless the caller is in `torch.inference_mode`.
    """
    known = inspect.signature(subject.model.forward).parameters
    only_last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    with contextlib.ExitStack() as hooks:
        for site, edit in edits:
            hooks.enter_context(subject.hook(site, partial(_edit_at, subject.device, edit)))
        out = subject.model(input_ids=tokens.to(subject.device), use_cache=False, **only_last)
    logits: Tensor = out.logits[:, -1].float()
    return logits


def _edit_at(device: torch.device, edit: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    return edit(hidden.to(device))  # the layer of a site may be on another device than an SAE


def find_token(subject: Subject, prompt: str, text: str) -> int:
    """The id of the one token that continues `prompt` by `text`.

    It is looked for as the tokenizer splits the two together, then as it splits `text` alone, then
    among the texts of all tokens, as they are printed: that finds a part of a character too.
    Raises UsageError for a text that is not one token of the subject.
    """
    before = subject.prompt_tokens(prompt)
    both = subject.prompt_tokens(prompt + text)
    if both[: len(before)] == before and len(both) == len(before) + 1:
        return both[-1]
    alone: list[int] = subject.tokenizer.encode(text, add_special_tokens=False)
    if len(alone) == 1:
        return alone[0]
    printed = [i for i, known in enumerate(subject.token_texts()) if known == text != ""]
    if len(printed) == 1:
        return printed[0]
    if not alone:
        raise UsageError("The token has no text.", 'Give one, such as --token " the".')
    pieces = [subject.text_after(before + alone[:i], [id]) for i, id in enumerate(alone)]
    raise UsageError(
        f"{text!r} is {len(alone)} tokens of the subject: {', '.join(map(repr, pieces))}.",
        f'Give one of them, such as "{pieces[0]}".',
    )

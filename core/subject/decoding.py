"""Text generation with a key-value cache, with edits at sites."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.records import Site

if TYPE_CHECKING:
    from core.subject.subject import Subject

Edit = Callable[
    [Tensor, Tensor], Tensor
]  # (hidden (R, T, D), editable (R, T) bool) -> hidden (R, T, D)
Where = Callable[
    [Tensor, bool], Tensor
]  # (token ids (R, T) of a pass, they were generated) -> bool (R, T): an edit holds there


@dataclass(frozen=True)
class Generation:
    """One continuation. `activations` (n, D) float32 belong to `tokens` (n,), prompt and continuation, BOS included, and are as
    they leave the site, after an edit."""

    text: str
    prompt: str
    tokens: list[int]
    n_prompt: int
    activations: Tensor


class _Decoding:
    """The state of one batch being decoded: left-padded rows, the KV cache, and what the hook has seen."""

    def __init__(
        self,
        subject: Subject,
        ids: list[list[int]],
        edits: list[tuple[Site, Edit | None]],
        where: Where | None,
    ):
        self.subject, self.where = subject, where
        self.also, (self.site, self.edit) = edits[:-1], edits[-1]
        width = max(map(len, ids))
        fill = subject.bos if subject.bos is not None else 0
        device = subject.device
        self.tokens = torch.tensor(
            [[fill] * (width - len(i)) + i for i in ids], device=device
        )  # (R, T)
        self.mask = torch.tensor(
            [[0] * (width - len(i)) + [1] * len(i) for i in ids], device=device
        )
        self.first = torch.tensor(
            [width - len(i) for i in ids], device=device
        )  # place of each row's first token
        self.editable = torch.zeros(0)
        self.seen: list[Tensor] = []

    @torch.inference_mode()
    def run(
        self, n_new: int, temperature: float, seeds: list[int]
    ) -> list[tuple[list[int], Tensor]]:
        """(new token ids, activations (n, D)) of each row; a row ends at EOS or after n_new tokens."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        new: list[list[int]] = [[] for _ in seeds]
        done = [n_new == 0] * len(seeds)
        place = torch.arange(self.tokens.shape[1], device=self.tokens.device)[None]
        self.editable = (place > self.first[:, None]) & self._allowed(self.tokens, False)
        with self._hook():
            cache, logits = self._forward(
                self.tokens, (place - self.first[:, None]).clamp(min=0), None
            )
            while not all(done):
                chosen = torch.stack(
                    [_draw(row, temperature, g) for row, g in zip(logits, generators, strict=True)]
                )
                for row, token in enumerate(chosen.tolist()):
                    if not done[row]:
                        new[row].append(token)
                        done[row] = token == self.subject.eos or len(new[row]) == n_new
                positions = self.mask.sum(1, keepdim=True)
                self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
                self.editable = self._allowed(chosen[:, None].to(self.tokens.device), True)
                cache, logits = self._forward(
                    chosen[:, None].to(self.tokens.device), positions, cache
                )
        return self._rows(new)

    def _allowed(self, tokens: Tensor, generated: bool) -> Tensor:
        return (
            torch.ones_like(tokens, dtype=torch.bool)
            if self.where is None
            else self.where(tokens, generated)
        )

    def _forward(self, tokens: Tensor, positions: Tensor, cache):
        out = self.subject.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return out.past_key_values, out.logits[:, -1].float().cpu()

    def _hook(self):
        def see(hidden):
            new = hidden if self.edit is None else self.edit(hidden, self.editable).to(hidden.dtype)
            self.seen.append(new.float().cpu())
            return None if self.edit is None else new

        stack = contextlib.ExitStack()
        for site, edit in self.also:
            stack.enter_context(self.subject.editing(site, edit, lambda: self.editable))
        stack.enter_context(self.subject._hooked(self.site, see))
        return stack

    def _rows(self, new: list[list[int]]) -> list[tuple[list[int], Tensor]]:
        seen = torch.cat(self.seen, 1)  # (R, T + steps, D)
        width = self.tokens.shape[1]
        return [(n, seen[row, int(self.first[row]) : width + len(n)]) for row, n in enumerate(new)]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token of the row's distribution by inverting its cumulative sum at one uniform number; greedy at temperature 0."""
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    if temperature == 0:
        return logits.argmax()
    cumulative = (logits.double() / temperature).softmax(0).cumsum(0)
    return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp(max=len(logits) - 1)

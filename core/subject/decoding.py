"""Generate text with a key-value cache, with edits at sites."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Site

if TYPE_CHECKING:
    from core.subject.subject import Subject

# (hidden (R, T, D), editable (R, T) bool) -> hidden (R, T, D)
Edit = Callable[[Tensor, Tensor], Tensor]
# (token ids (R, T) of a pass, whether they were generated) -> bool (R, T): an edit holds there
Where = Callable[[Tensor, bool], Tensor]


@dataclass(frozen=True)
class Generation:
    """One continuation.

    `activations` (n, D) float32 belong to `tokens` (n,): prompt and continuation, BOS included.
    They are as they leave the site, so after an edit.
    """

    text: str
    prompt: str
    tokens: list[int]
    n_prompt: int
    activations: Tensor


class Decoding:
    """The state of one batch that is being decoded: rows padded on the left, cache, activations.

    `edit` holds at `site`, where activations are kept; `also` holds edits at other sites.
    """

    def __init__(
        self,
        subject: Subject,
        ids: list[list[int]],
        site: Site,
        edit: Edit | None,
        also: Sequence[tuple[Site, Edit]],
        where: Where | None,
    ):
        self.subject, self.where = subject, where
        self.site, self.edit, self.also = site, edit, also
        width = max(map(len, ids))
        fill = subject.bos if subject.bos is not None else 0
        device = subject.device
        padding = [width - len(row) for row in ids]
        self.tokens = torch.tensor(  # (R, T)
            [[fill] * n + row for n, row in zip(padding, ids, strict=True)], device=device
        )
        self.mask = torch.tensor(
            [[0] * n + [1] * len(row) for n, row in zip(padding, ids, strict=True)], device=device
        )
        self.first = torch.tensor(padding, device=device)  # (R,) column of each row's first token
        self.editable = torch.zeros(0)  # (R, T) of the pass at hand
        self.seen: list[Tensor] = []  # (R, T, D) of each pass

    @torch.inference_mode()
    def run(
        self, n_new: int, temperature: float, seeds: list[int]
    ) -> list[tuple[list[int], Tensor]]:
        """(new token ids, activations (n, D)) of each row.

        A row ends at one of the subject's ends or after `n_new` tokens.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        new: list[list[int]] = [[] for _ in seeds]
        done = [n_new == 0] * len(seeds)
        column = torch.arange(self.tokens.shape[1], device=self.tokens.device)[None]
        self.editable = (column > self.first[:, None]) & self._is_allowed(self.tokens, False)
        with self._hook():
            positions = (column - self.first[:, None]).clamp(min=0)
            cache, logits = self._forward(self.tokens, positions, None)
            while not all(done):
                drawn = torch.stack(
                    [draw(row, temperature, g) for row, g in zip(logits, generators, strict=True)]
                )
                for row, token in enumerate(drawn.tolist()):
                    if not done[row]:
                        new[row].append(token)
                        done[row] = token in self.subject.ends or len(new[row]) == n_new
                positions = self.mask.sum(1, keepdim=True)
                self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
                tokens = drawn[:, None].to(self.tokens.device)
                self.editable = self._is_allowed(tokens, True)
                cache, logits = self._forward(tokens, positions, cache)
        return self._split_rows(new)

    def _is_allowed(self, tokens: Tensor, generated: bool) -> Tensor:
        """bool (R, T): `where` allows an edit."""
        if self.where is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        return self.where(tokens, generated)

    def _forward(self, tokens: Tensor, positions: Tensor, cache: Any) -> tuple[Any, Tensor]:
        """(the cache, logits (R, V) float32 at the last position) of one pass."""
        out = self.subject.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return out.past_key_values, out.logits[:, -1].float().cpu()

    def _hook(self) -> contextlib.ExitStack:
        def see(hidden: Tensor) -> Tensor | None:
            new = hidden.to(self.subject.device)
            if self.edit is not None:
                new = self.edit(new, self.editable).to(hidden.dtype)
            self.seen.append(new.float().cpu())
            return None if self.edit is None else new

        for place in (self.site, *(site for site, _ in self.also)):
            self.subject.module(place)  # an unknown architecture is run once, which no hook may see
        stack = contextlib.ExitStack()
        for site, edit in self.also:
            stack.enter_context(self.subject.edit_site(site, edit, lambda: self.editable))
        stack.enter_context(self.subject.hook(self.site, see))
        return stack

    def _split_rows(self, new: list[list[int]]) -> list[tuple[list[int], Tensor]]:
        seen = torch.cat(self.seen, 1)  # (R, T + steps, D)
        width = self.tokens.shape[1]
        return [(n, seen[row, int(self.first[row]) : width + len(n)]) for row, n in enumerate(new)]


def check_cache(model: Any, architecture: str) -> None:
    """Raise UsageError for a model that takes no key-value cache, such as Mamba and RWKV."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise UsageError(
            f"The architecture {architecture!r} keeps a state of its own instead of a key-value "
            "cache, so it cannot generate here.",
            "Reading works: leave --generate out, or use a subject with attention to generate.",
        )


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one token from logits (V,): greedy at temperature 0.

    It inverts the cumulative distribution at one uniform number, which it also draws when greedy.
    """
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    if temperature == 0:
        return logits.argmax()
    cumulative = (logits.double() / temperature).softmax(0).cumsum(0)
    return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp(max=len(logits) - 1)

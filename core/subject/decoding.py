"""Generate text with edits at sites: with a key-value cache, or by reading the rows anew.

A model without such a cache, such as Mamba and RWKV, or with one that does not give what reading
the whole text gives, reads every row anew for each token: the same text, only slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.records import Site

if TYPE_CHECKING:
    from core.subject.subject import Subject

# (hidden (R, T, D), editable (R, T) bool) -> hidden (R, T, D)
Edit = Callable[[Tensor, Tensor], Tensor]
# (token ids (R, T) of a pass, whether they were generated) -> bool (R, T): an edit holds there
Where = Callable[[Tensor, bool], Tensor]


MISSED = 0.05  # of the logits, by which a cache may miss them: arithmetic types round by less


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
        self.width = width = max(map(len, ids))  # of the prompts
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
        self.cache: Any = None

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
        with self._hook():
            logits = self._read_prompts()
            while not all(done):
                drawn = torch.stack(
                    [draw(row, temperature, g) for row, g in zip(logits, generators, strict=True)]
                )
                for row, token in enumerate(drawn.tolist()):
                    if not done[row]:
                        new[row].append(token)
                        done[row] = len(new[row]) == n_new or self._is_end(row, new[row])
                logits = self._append(drawn[:, None].to(self.tokens.device))
        return self._split_rows(new)

    def _is_end(self, row: int, new: list[int]) -> bool:
        """Whether the last of the new tokens ends the text of a row."""
        if new[-1] in self.subject.ends or not self.subject.stop_strings:
            return new[-1] in self.subject.ends
        prompt = self.tokens[row, int(self.first[row]) : self.width].tolist()
        return self.subject.ends_with_stop(prompt + new)

    def _read_prompts(self) -> Tensor:
        """Logits (R, V) float32 after the prompts."""
        column = torch.arange(self.tokens.shape[1], device=self.tokens.device)[None]
        self.editable = (column > self.first[:, None]) & self._is_allowed(self.tokens, False)
        positions = (column - self.first[:, None]).clamp(min=0)
        self.cache, logits = self._forward(self.tokens, positions, None)
        return logits

    def _append(self, tokens: Tensor) -> Tensor:
        """Logits (R, V) float32 after one more token (R, 1) of each row."""
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        self.editable = self._is_allowed(tokens, True)
        self.cache, logits = self._forward(tokens, positions, self.cache)
        return logits

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


class Rereading(Decoding):
    """Decoding without a cache: each step reads the rows anew, padded on the right.

    A causal model never looks at the padding, whatever state it keeps.
    """

    def _read_prompts(self) -> Tensor:
        allowed = self._is_allowed(self.tokens, False)
        starts = self.first.tolist()
        self.rows = [row[start:] for row, start in zip(self.tokens, starts, strict=True)]
        self.allowed = [row[start:] for row, start in zip(allowed, starts, strict=True)]
        return self._read()

    def _append(self, tokens: Tensor) -> Tensor:
        allowed = self._is_allowed(tokens, True)
        self.rows = [torch.cat(pair) for pair in zip(self.rows, tokens, strict=True)]
        self.allowed = [torch.cat(pair) for pair in zip(self.allowed, allowed, strict=True)]
        return self._read()

    def _read(self) -> Tensor:
        self.seen.clear()  # the last pass holds every token
        tokens = nn.utils.rnn.pad_sequence(self.rows, batch_first=True)
        self.editable = nn.utils.rnn.pad_sequence(self.allowed, batch_first=True)
        self.editable[:, 0] = False
        out = self.subject.model(input_ids=tokens, use_cache=False)
        last = torch.tensor([len(row) - 1 for row in self.rows], device=tokens.device)
        logits: Tensor = out.logits[torch.arange(len(last), device=tokens.device), last]
        return logits.float().cpu()

    def _split_rows(self, new: list[list[int]]) -> list[tuple[list[int], Tensor]]:
        width, (seen,) = self.tokens.shape[1], self.seen
        lengths = [width - int(first) + len(n) for first, n in zip(self.first, new, strict=True)]
        return [(n, seen[row, : lengths[row]]) for row, n in enumerate(new)]


@torch.inference_mode()
def cache_holds(model: Any, device: torch.device) -> bool:
    """Whether decoding with a cache, and beside a longer row, gives what reading anew gives.

    A model without a cache is one whose cache does not hold.
    """
    rows = [[5, 9, 11, 3], [17, 8]]
    padded = torch.tensor([rows[0], [0, 0, *rows[1]]], device=device)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]], device=device)
    try:
        whole = [model(input_ids=torch.tensor([row + [2]], device=device)) for row in rows]
        first = model(
            input_ids=padded,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        then = model(
            input_ids=torch.full((2, 1), 2, device=device),
            attention_mask=torch.cat([mask, torch.ones_like(mask[:, :1])], 1),
            position_ids=mask.sum(1, keepdim=True),
            past_key_values=first.past_key_values,
            use_cache=True,
        )
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, KeyError):
        return False
    expected = torch.stack([out.logits[0, -1] for out in whole]).float()
    missed = (then.logits[:, -1].float() - expected).norm(dim=1) / expected.norm(dim=1)
    return first.past_key_values is not None and bool((missed < MISSED).all())


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one token from logits (V,): greedy at temperature 0.

    It inverts the cumulative distribution at one uniform number, which it also draws when greedy.
    """
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    if temperature == 0:
        return logits.argmax()
    cumulative = (logits.double() / temperature).softmax(0).cumsum(0)
    return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp(max=len(logits) - 1)

"""Run the part of the subject behind a site many times, after one pass over the part before it."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from core.records import Site
from core.subject.hooks import hook_module, keep_output, skip_modules
from core.subject.subject import Subject


class Behind:
    """One text, read once up to `site`, and read on from there with other hidden states.

    `hidden` (T - 1, D) are the unchanged ones, at every position but the first. No edit reaches
    the first position: its keys and values are kept. Layers in front of the site's own are not
    run again where the architecture is known. `tokens` are at least two.
    """

    @torch.inference_mode()
    def __init__(self, subject: Subject, site: Site, tokens: list[int]):
        self.subject, self.site = subject, site
        self.tokens = torch.tensor([tokens], device=subject.device)
        first = self.tokens[:, :1]
        self.cache = subject.model(input_ids=first, use_cache=True).past_key_values
        self.skipped, self.ends_layer = layers_in_front(subject, site)
        seen: list[Tensor] = []
        outputs: list[Any] = []  # of the last layer that later runs skip
        with contextlib.ExitStack() as hooks:
            hooks.enter_context(subject.hook(site, seen.append))
            if self.skipped:
                hooks.enter_context(keep_output(self.skipped[-1], outputs))
            self._run(1)
        self.hidden = seen[0][0].to(subject.device)
        self.output = outputs[0] if outputs else None

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (m, V) float32 at the last position, from hidden states (m, T - 1, D) at the site.

        Until it returns, no other thread may run the subject.
        """
        hidden = hidden.to(self.hidden.dtype)
        head, model = self.subject.model.get_output_embeddings(), self.subject.model
        with contextlib.ExitStack() as hooks:
            if not self.ends_layer:
                hooks.enter_context(self.subject.hook(self.site, lambda _: hidden))
            if self.skipped:
                hooks.enter_context(skip_modules(self.skipped, self._output(hidden)))
            hooks.enter_context(
                hook_module(model, head, "input", False, lambda states: states[:, -1:])
            )
            return self._run(len(hidden))[:, -1].float()

    def _output(self, hidden: Tensor) -> Any:
        """What the last of the skipped layers returns, in the container that it returns."""
        assert self.output is not None, "a layer was skipped"
        whole = isinstance(self.output, Tensor)
        states = self.output if whole else self.output[0]
        states = hidden if self.ends_layer else states.repeat(len(hidden), 1, 1)
        return states if whole else (states, *self.output[1:])

    def _run(self, n_rows: int) -> Tensor:
        """Logits of one pass over every position but the first, in `n_rows` equal rows."""
        cache = copy.deepcopy(self.cache)  # a pass adds to it
        cache.batch_repeat_interleave(n_rows)
        tokens = self.tokens.expand(n_rows, -1)
        positions = torch.arange(1, tokens.shape[1], device=tokens.device)[None]
        logits: Tensor = self.subject.model(
            input_ids=tokens[:, 1:],
            attention_mask=torch.ones_like(tokens),
            position_ids=positions.expand(n_rows, -1),
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits


def layers_in_front(subject: Subject, site: Site) -> tuple[list[nn.Module], bool]:
    """(the layers that no change at `site` reaches, whether the site is the last one's output).

    None where the architecture is not known or the site is in no layer.
    """
    if subject.family is None:
        return [], False
    module, side = subject.module(site)
    layers = [
        subject.model.get_submodule(subject.family.layer.format(i)) for i in range(subject.n_layers)
    ]
    for number, layer in enumerate(layers):
        if layer is module and side == "output":
            return layers[: number + 1], True
        if any(module is part for part in layer.modules()):
            return layers[:number], False
    return [], False

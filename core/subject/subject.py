"""The subject: a Hugging Face causal language model; read a site, edit a site, generate text.

Reading ends the forward pass at the hooked module by raising through it: on the embedded subject a
read at layer 3 of 6 costs about half a whole pass. Rows are padded on the right for reading (a
causal model never looks there) and on the left for generating.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from core.devices import pick_device, pick_dtype
from core.errors import UsageError
from core.hub import subject_errors
from core.records import Site
from core.subject.chat import chat_text
from core.subject.decoding import Decoding, Edit, Generation, Rereading, Where, cache_holds
from core.subject.discover import discover_family
from core.subject.embedded import find_subject
from core.subject.families import FAMILIES, Family
from core.subject.hooks import hook_module
from core.subject.sites import find_module
from core.subject.texts import TextAccess
from core.subject.token_texts import (
    cut_broken,
    ends_with_stop,
    find_ends,
    find_stop_strings,
    special_ids,
    token_texts,
)
from core.subject.tokenizer import load_tokenizer
from core.subject.weights import SPLIT, check_pointers, load_weights, split_model, weight_shape


class _EndPass(Exception):
    """Raised in a hook to end the forward pass; carries nothing."""


class Subject(TextAccess):
    """A causal language model and its tokenizer: read a site, edit a site, generate text."""

    def __init__(self, model: Any, tokenizer: Any):
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"The tokenizer of {model.config.name_or_path!r} gives no character offsets.",
                "Use a subject with a fast tokenizer (tokenizer.json).",
            )
        self.model: Any = model
        self.model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.device: torch.device = next(model.parameters()).device
        self.architecture: str = model.config.model_type
        self.family = FAMILIES.get(self.architecture)
        self._discovered: dict[int, Family] = {}  # of layers, where the family is not known
        self.bos: int | None = tokenizer.bos_token_id
        self.ends: frozenset[int] = find_ends(model, tokenizer)
        self.stop_strings: tuple[str, ...] = find_stop_strings(model)
        self.n_vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        text = model.config.get_text_config()
        self.width: int = text.hidden_size  # of the residual stream
        self.context: int = (  # tokens
            getattr(text, "max_position_embeddings", 0) or getattr(text, "n_positions", 0) or 2048
        )

    @classmethod
    def load(
        cls,
        name: str,
        revision: str = "",
        device: str = "auto",
        dtype: str = "auto",
        weights: str = "trained",
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> Subject:
        """The subject called `name` on the hub, or in the local folder `name`.

        `weights="random"` leaves it untrained, initialised from `seed`. Code that comes with a
        checkpoint runs only with `trust_remote_code`. Raises UsageError for a name that is neither
        and for weights that are not whole, and NotReady for a repository that needs a token.
        """
        name = find_subject(name)
        split = device == SPLIT
        place = pick_device("auto" if split else device)
        source: dict[str, Any] = {"revision": revision} if revision else {}
        source["trust_remote_code"] = trust_remote_code
        transformers_logging.disable_progress_bar()
        # without this it warns of right padding without a mask, which a causal model never sees
        transformers_logging.set_verbosity_error()
        check_pointers(Path(name))
        with subject_errors(name):
            tokenizer = load_tokenizer(name, **source)
            config = AutoConfig.from_pretrained(name, **source)
            kind = pick_dtype(dtype, place, weight_shape(config))
            if weights == "random":
                torch.manual_seed(seed)
                code = {"trust_remote_code": trust_remote_code}
                model = AutoModelForCausalLM.from_config(config, **code).to(kind)
                model = split_model(model) if split else model.to(place)
            else:
                model = load_weights(name, kind, "auto" if split else place, **source)
        return cls(model, tokenizer)

    # ------------------------------------------------------------ sites

    def module(self, site: Site) -> tuple[nn.Module, str]:
        """The module of `site` and its side, "input" or "output"; raises UsageError without one."""
        path, side = self._path(site)
        try:
            return find_module(self.model, path), side
        except AttributeError:
            raise UsageError(
                f"The subject has no site {site}: there is no module {path}.",
                f"It has layers 0 to {self.n_layers - 1}.",
            ) from None

    def _path(self, site: Site) -> tuple[str, str]:
        if site.module is not None:
            return site.module, site.kind
        return self._layer_family(site.layer or 0).path(site)

    @property
    def final_norm(self) -> str:
        """The path of the norm in front of the unembedding; empty where it is not known."""
        return self._layer_family(0).final_norm

    def _layer_family(self, number: int) -> Family:
        """The sites of layer `number`: those of its family, else found by running the model."""
        if self.family is not None:
            return self.family
        if number not in self._discovered:
            found = discover_family(self.model, self.n_layers, self.width, number)
            self._discovered[number] = found
        return self._discovered[number]

    @cached_property
    def n_layers(self) -> int:
        return int(getattr(self.model.config.get_text_config(), "num_hidden_layers", 0))

    # ------------------------------------------------------------ hooks

    @contextlib.contextmanager
    def hook(self, site: Site, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Context manager: calls `see(hidden (R, T, D))` whenever the model computes `site`.

        Unless `see` returns None, what it returns replaces the hidden states.
        """
        module, side = self.module(site)
        with hook_module(self.model, module, side, site.kind == "resid_mid", see):
            yield

    def read(self, site: Site, tokens: Tensor) -> Tensor:
        """Activations (R, T, D) at `site` for token ids (R, T), padded on the right.

        The pass ends at the site.
        """
        return self.read_sites([site], tokens)[0]

    def read_sites(self, sites: list[Site], tokens: Tensor) -> list[Tensor]:
        """Activations (R, T, D) at each of `sites` from one pass over token ids (R, T).

        The rows are padded on the right, and the pass ends at the last of the sites.
        """
        with self.open_reader(sites) as read:
            return read(tokens, sites)

    @contextlib.contextmanager
    def open_reader(
        self, sites: list[Site]
    ) -> Iterator[Callable[[Tensor, list[Site]], list[Tensor]]]:
        """Context manager: yields `read(tokens, sites)`, which does what `read_sites` does.

        `read` takes some of the `sites` given here and is thread-safe. The hooks are installed
        once for the whole block.
        """
        current = threading.local()

        def keep(site: Site, hidden: Tensor) -> None:
            if site in current.wanted:
                current.seen[site] = hidden
            if len(current.seen) == len(current.wanted):
                raise _EndPass

        @torch.inference_mode()
        def read(tokens: Tensor, wanted: list[Site]) -> list[Tensor]:
            current.wanted, current.seen = set(wanted), {}
            with contextlib.suppress(_EndPass):
                self.model(input_ids=tokens.to(self.device), use_cache=False)
            seen, current.seen = current.seen, {}
            if missing := [str(s) for s in wanted if s not in seen]:
                raise UsageError(
                    f"The forward pass never reached {missing[0]}.",
                    "Choose a site that the subject computes for every token.",
                )
            return [seen[site] for site in wanted]

        for site in sites:  # an unknown architecture is run once, which no hook may see
            self.module(site)
        with contextlib.ExitStack() as hooks:
            for site in set(sites):
                hooks.enter_context(self.hook(site, partial(keep, site)))
            yield read

    @contextlib.contextmanager
    def edit_site(self, site: Site, edit: Edit, editable: Callable[[], Tensor]) -> Iterator[None]:
        """Context manager: each forward pass replaces hidden at `site` by edit(hidden, editable()).

        `editable()` is bool (R, T): the positions at which the edit may change something.
        """

        def see(hidden: Tensor) -> Tensor:  # an SAE is on the subject's device
            return edit(hidden.to(self.device), editable()).to(hidden.dtype)

        with self.hook(site, see):
            yield

    def _logits(
        self, tokens: Tensor, site: Site | None, edit: Edit | None, where: Where | None = None
    ) -> Tensor:
        """Logits (R, T, V) in the subject's type; arguments as in `logits`."""
        editable = (
            torch.ones_like(tokens, dtype=torch.bool) if where is None else where(tokens, False)
        )
        editable[:, 0] = False
        with contextlib.ExitStack() as hooks:
            if site is not None and edit is not None:
                hooks.enter_context(self.edit_site(site, edit, lambda: editable))
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits

    @torch.inference_mode()
    def logits(
        self,
        tokens: Tensor,
        site: Site | None = None,
        edit: Edit | None = None,
        where: Where | None = None,
    ) -> Tensor:
        """Logits (R, T, V) float32 for token ids (R, T) without padding.

        `edit` holds at `site` on every position but the first, where `where` allows it.
        """
        return self._logits(tokens.to(self.device), site, edit, where).float()

    @torch.inference_mode()
    def losses(self, tokens: Tensor, site: Site | None = None, edit: Edit | None = None) -> Tensor:
        """Cross-entropy in nats (R, T - 1) of predicting tokens[:, 1:].

        `edit` holds at `site` on every position but the first.
        """
        tokens = tokens.to(self.device)
        logits = self._logits(tokens, site, edit)
        loss = torch.empty(tokens.shape[0], tokens.shape[1] - 1, device=self.device)
        for row in range(len(tokens)):  # float32 logits of one row at a time: V is large
            loss[row] = nn.functional.cross_entropy(
                logits[row, :-1].float(), tokens[row, 1:], reduction="none"
            )
        return loss

    # ------------------------------------------------------------ text

    def prompt_tokens(self, text: str) -> list[int]:
        """Token ids of `text`, led by one BOS where the subject has one.

        Raises UsageError when that is no token at all.
        """
        ids: list[int] = list(self.encode([text])[0].ids)
        if self.bos is not None and ids[:1] != [self.bos]:
            ids = [self.bos, *ids]
        if not ids:
            raise UsageError("The text has no tokens.", "Give some text.")
        return ids

    def chat_text(self, turns: list[tuple[str, str]], answer: bool = False) -> str:
        """(role, content) turns in the subject's chat template, without BOS in front.

        With `answer`, the text ends where the assistant's next turn begins. Raises UsageError
        where the subject has no template or the template refuses the turns.
        """
        return chat_text(self.tokenizer, turns, answer)

    def token_texts(self) -> list[str]:
        """The text of every token of the vocabulary (V,), see `core.subject.token_texts`."""
        return self._token_texts

    @cached_property
    def _token_texts(self) -> list[str]:
        return token_texts(self.tokenizer, self.n_vocabulary)

    @cached_property
    def special_ids(self) -> list[int]:
        """The ids of special tokens, which hold no text of a document."""
        return special_ids(self.tokenizer)

    @cached_property
    def are_spaces(self) -> np.ndarray:
        """bool (V,): the tokens that are white space."""
        return np.array([text.isspace() for text in self._token_texts], bool)

    def embeddings(self, tokens: Tensor) -> Tensor:
        """The input embeddings (len(tokens), D) float32 of tokens, on the CPU."""
        weight: Tensor = self.model.get_input_embeddings().weight.detach()
        return weight[tokens.to(self.device)].float().cpu()

    def generate(
        self,
        prompts: list[str],
        n_new: int,
        site: Site,
        *,
        temperature: float = 1.0,
        seeds: list[int] | None = None,
        edit: Edit | None = None,
        where: Where | None = None,
        also: Sequence[tuple[Site, Edit]] = (),
    ) -> list[Generation]:
        """Continue each prompt by up to `n_new` tokens, and keep the activations of every token.

        Each row draws from its own generator, seeded by `seeds`, one uniform number a token. So
        the text of a row does not depend on the other rows, and two calls with the same seeds draw
        the same numbers. `edit` holds at `site` on every position but the first and the padding:
        in the prompt and, through the KV cache, at every generated token; `where` narrows that
        down. `also` holds edits at other sites. Raises UsageError for an `n_new` that does not fit
        the context.
        """
        if not 0 <= n_new < self.context:
            raise UsageError(
                f"Cannot generate {n_new} tokens in a context of {self.context}.",
                f"Give 0 to {self.context - 1}.",
            )
        ids = [self.cut_prompt(self.prompt_tokens(p), self.context - n_new) for p in prompts]
        how = Decoding if self._keeps_cache else Rereading
        decoding = how(self, ids, site, edit, also, where)
        rows = decoding.run(n_new, temperature, seeds or list(range(len(prompts))))
        return [
            Generation(
                cut_broken(self.text_after(i, new, skip_special=True)),
                p,
                i + new,
                len(i),
                activations,
            )
            for p, i, (new, activations) in zip(prompts, ids, rows, strict=True)
        ]

    @cached_property
    def _keeps_cache(self) -> bool:
        """Whether it decodes with a key-value cache; that of an unknown architecture is tried."""
        return self.family is not None or cache_holds(self.model, self.device)

    def cut_prompt(self, ids: list[int], room: int) -> list[int]:
        """The last `room` tokens of a prompt, led by BOS if there is room for more than it."""
        if len(ids) <= room or self.bos is None or room == 1:
            return ids[-room:]
        return [self.bos, *ids[1 - room :]]

    def ends_with_stop(self, ids: list[int]) -> bool:
        """Whether the last token of `ids` completes one of the stop strings."""
        return ends_with_stop(self.tokenizer, self.stop_strings, ids)

    # ------------------------------------------------------------ output side

    @torch.inference_mode()
    def to_residual(self, site: Site, directions: Tensor) -> Tensor | None:
        """What directions (F, D) at `site` write to the residual stream, (F, width) float32.

        At attn_z that is their image under attention's output projection, elsewhere the directions
        themselves. None for a site of another width.
        """
        directions = directions.to(self.device, torch.float32)
        if site.kind == "attn_z":
            projection = copy.deepcopy(self.module(site)[0]).float()
            directions = directions.to(next(projection.parameters()).device)
            image: Tensor = projection(directions) - projection(torch.zeros_like(directions[:1]))
            return image
        return directions if directions.shape[1] == self.width else None

    @torch.inference_mode()
    def logit_lens(self, directions: Tensor) -> Tensor:
        """What each direction (F, width) of the residual stream adds to the logits (F, V) float32.

        It is the final norm of the direction alone, followed by the unembedding (logit lens,
        nostalgebraist 2020). The norm's bias is subtracted, so a zero direction promotes nothing.
        The length of a direction does not matter, because the norm divides by it. Raises
        UsageError for an architecture whose final norm is not known.
        """
        if not self.final_norm:
            raise UsageError("The subject's final norm is not known.", "Use another subject.")
        norm: Any = copy.deepcopy(self.model.get_submodule(self.final_norm)).float()
        directions = directions.to(next(norm.parameters()).device, torch.float32)
        normed: Tensor = norm(directions) - norm(torch.zeros_like(directions[:1]))
        unembedding: Tensor = self.model.get_output_embeddings().weight.float()
        return normed.to(unembedding.device) @ unembedding.T

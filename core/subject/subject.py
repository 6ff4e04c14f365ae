"""The subject: a Hugging Face causal language model, read and edited through PyTorch forward hooks. The only hooks are here.

A hook sits on one module of one layer. Layers return a Tensor or a tuple, and take their hidden states by position or by keyword;
both are handled, and an edited value goes back in the container that it came in (resid_mid is edited in place, since the layer adds to
that tensor afterwards). Where the sites of an architecture are is in `core/families.py`. Reading stops the forward pass at the hooked module
by raising through it: on the embedded subject a read at layer 3 of 6 costs about half a whole pass.

Rows are padded on the right for reading (a causal model never looks there) and on the left for generating.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from core.devices import pick_device, pick_dtype
from core.errors import UsageError
from core.hub import subject_errors
from core.records import Site
from core.run import Run
from core.subject.decoding import Edit, Generation, Where, _Decoding
from core.subject.families import FAMILIES


class _Stop(Exception):
    """Raised in a hook to end the forward pass; carries nothing."""


class Subject:
    """A causal language model and its tokenizer: read a site, edit a site, generate with activations."""

    def __init__(self, model: nn.Module, tokenizer):
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"The tokenizer of {model.config.name_or_path!r} gives no character offsets.",
                "Use a subject with a fast tokenizer (tokenizer.json).",
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.device = next(model.parameters()).device
        self.family = FAMILIES.get(model.config.model_type)
        self.bos: int | None = tokenizer.bos_token_id
        self.eos: int | None = tokenizer.eos_token_id
        self.n_vocabulary: int = model.get_output_embeddings().weight.shape[0]
        text = model.config.get_text_config()
        self.width: int = text.hidden_size  # of the residual stream
        self.context: int = getattr(text, "max_position_embeddings", None) or getattr(
            text, "n_positions", 2048
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
    ) -> Subject:
        """The subject called `name` on the hub, or in the local folder `name`. `weights="random"` leaves it untrained.

        Raises UsageError for a name that is neither, and NotReady for a repository that wants a token.
        """
        device = pick_device(device)
        kind = pick_dtype(dtype, device)
        source = {"revision": revision} if revision else {}
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # it would warn of right padding without a mask, which a causal model never sees
        with subject_errors(name):
            tokenizer = AutoTokenizer.from_pretrained(name, **source)
            if weights == "random":
                torch.manual_seed(seed)
                model = AutoModelForCausalLM.from_config(
                    AutoConfig.from_pretrained(name, **source)
                ).to(kind)
            else:
                model = AutoModelForCausalLM.from_pretrained(name, dtype=kind, **source)
        return cls(model.to(device), tokenizer)

    # ------------------------------------------------------------ sites

    def module(self, site: Site) -> tuple[nn.Module, str]:
        """The module that `site` names and the side of it, "input" or "output"; raises UsageError when there is none."""
        path, side = self._path(site)
        try:
            return self.model.get_submodule(path), side
        except AttributeError:
            layers = (
                f"layers 0 to {self.n_layers - 1}"
                if self.family
                else "no known layers: give a module path"
            )
            raise UsageError(
                f"The subject has no site {site}: there is no module {path}.", f"It has {layers}."
            ) from None

    def _path(self, site: Site) -> tuple[str, str]:
        if site.module is not None:
            return site.module, site.kind
        if self.family is None:
            raise UsageError(
                f"Named sites are not known for the architecture {self.model.config.model_type!r}.",
                "Give a module path and a side, such as model.layers.3.output.",
            )
        return self.family.path(site)

    @cached_property
    def n_layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    # ------------------------------------------------------------ hooks

    @contextlib.contextmanager
    def _hooked(self, site: Site, see: Callable[[Tensor], Tensor | None]):
        """Call `see(hidden (R, T, D))` whenever `site` is computed; what it returns, unless None, takes hidden's place."""
        module, side = self.module(site)
        passing = threading.local()  # several threads may be in the subject at once

        def look(hidden: Tensor) -> Tensor | None:
            if hidden.dim() == 3:
                return see(hidden)
            new = see(hidden.unflatten(0, (passing.rows, -1)))  # OPT runs its MLP on (R * T, D)
            return None if new is None else new.flatten(0, 1)

        def begin(_model, args, kwargs):
            passing.rows = len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])

        def before(_module, args, kwargs):
            by_keyword = not (args and isinstance(args[0], Tensor))
            hidden = kwargs["hidden_states"] if by_keyword else args[0]
            new = look(hidden)
            if new is None:
                return None
            if (
                site.kind == "resid_mid"
            ):  # the norm's input is the very tensor that the layer adds to later
                hidden.copy_(new)
                return None
            return (
                (args, kwargs | {"hidden_states": new})
                if by_keyword
                else ((new, *args[1:]), kwargs)
            )

        def after(_module, _args, output):
            new = look(output if isinstance(output, Tensor) else output[0])
            return new if new is None or isinstance(output, Tensor) else (new, *output[1:])

        handles = [
            self.model.register_forward_pre_hook(begin, with_kwargs=True),
            module.register_forward_pre_hook(before, with_kwargs=True)
            if side == "input"
            else module.register_forward_hook(after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self, site: Site, tokens: Tensor) -> Tensor:
        """Activations (R, T, D) at `site` for token ids (R, T), padded on the right; the pass ends at the site."""
        return self.read_sites([site], tokens)[0]

    def read_sites(self, sites: list[Site], tokens: Tensor) -> list[Tensor]:
        """Activations (R, T, D) at each of `sites` from one pass over token ids (R, T), padded on the right; it ends at the last one."""
        with self.reading(sites) as read:
            return read(tokens, sites)

    @contextlib.contextmanager
    def reading(self, sites: list[Site]):
        """Within the block, what it gives reads token ids (R, T) at some of `sites` as `read_sites` does; several threads may call it at once."""
        passing = threading.local()

        def keep(site: Site, hidden: Tensor) -> None:
            if site in passing.wanted:
                passing.seen[site] = hidden
            if len(passing.seen) == len(passing.wanted):
                raise _Stop

        @torch.inference_mode()
        def read(tokens: Tensor, wanted: list[Site]) -> list[Tensor]:
            passing.wanted, passing.seen = set(wanted), {}
            with contextlib.suppress(_Stop):
                self.model(input_ids=tokens.to(self.device), use_cache=False)
            seen, passing.seen = passing.seen, {}
            if missed := [str(s) for s in wanted if s not in seen]:
                raise UsageError(
                    f"The forward pass never reached {missed[0]}.",
                    "Choose a site that the subject computes for every token.",
                )
            return [seen[site] for site in wanted]

        with contextlib.ExitStack() as hooks:
            for site in set(sites):
                hooks.enter_context(self._hooked(site, partial(keep, site)))
            yield read

    @contextlib.contextmanager
    def editing(self, site: Site, edit: Edit, editable: Callable[[], Tensor]):
        """Within the block every forward pass has `edit(hidden, editable())` in the place of hidden at `site`."""
        with self._hooked(site, lambda hidden: edit(hidden, editable()).to(hidden.dtype)):
            yield

    def _logits(
        self, tokens: Tensor, site: Site | None, edit: Edit | None, where: Where | None = None
    ) -> Tensor:
        """Logits (R, T, V) in the subject's type, with `edit` at `site` on every position but the first, and `where` says so."""
        editable = (
            torch.ones_like(tokens, dtype=torch.bool) if where is None else where(tokens, False)
        )
        editable[:, 0] = False
        with self.editing(site, edit, lambda: editable) if edit else contextlib.nullcontext():
            return self.model(input_ids=tokens, use_cache=False).logits

    @torch.inference_mode()
    def logits(
        self,
        tokens: Tensor,
        site: Site | None = None,
        edit: Edit | None = None,
        where: Where | None = None,
    ) -> Tensor:
        """Logits (R, T, V) float32 for unpadded token ids (R, T), with `edit` at `site` on every position but the first, where
        `where` allows it."""
        return self._logits(tokens.to(self.device), site, edit, where).float()

    @torch.inference_mode()
    def losses(self, tokens: Tensor, site: Site | None = None, edit: Edit | None = None) -> Tensor:
        """Cross-entropy in nats (R, T - 1) of predicting tokens[:, 1:], with `edit` at `site` on every position but the first."""
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
        """Token ids of `text` behind BOS, where the subject has one; raises UsageError when nothing is left to read."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        ids = ([self.bos] if self.bos is not None else []) + ids
        if not ids:
            raise UsageError("The text has no tokens.", "Give some text.")
        return ids

    def chat_text(self, turns: list[tuple[str, str]], answer: bool = False) -> str:
        """(role, content) turns in the subject's chat template, without BOS in front; with `answer`, up to where the assistant begins.

        Raises UsageError where the subject has no template or the template refuses the turns.
        """
        if not self.tokenizer.chat_template:
            raise UsageError(
                "The subject has no chat template.",
                "Leave --chat out, or use a subject that was trained to chat.",
            )
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer
            )
        except TemplateError as error:
            raise UsageError(
                f"The chat template refuses the turns: {error}.",
                "Use the roles and the order that the subject knows.",
            ) from None
        return text.removeprefix(self.tokenizer.bos_token or "")

    def token_texts(self) -> list[str]:
        """The text of every token of the vocabulary, decoded alone."""
        return self.tokenizer.batch_decode(
            [[i] for i in range(self.n_vocabulary)],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )

    def embeddings(self, tokens: Tensor) -> Tensor:
        """The input embeddings of tokens, float32 (len(tokens), D) on the CPU."""
        return (
            self.model.get_input_embeddings().weight.detach()[tokens.to(self.device)].float().cpu()
        )

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
        """A continuation of each prompt by up to `n_new` tokens, with the activations of every token.

        Each row draws from its own generator, seeded by `seeds`, one uniform number a token, so a row's text does not depend on the
        rows beside it and two runs with the same seeds use the same luck. `edit` holds at every position but the first and the
        padding, in the prompt and at every generated token, through the KV cache; `where` narrows that down. `also`
        holds edits at other sites.
        """
        if not 0 <= n_new < self.context:
            raise UsageError(
                f"Cannot generate {n_new} tokens in a context of {self.context}.",
                f"Give 0 to {self.context - 1}.",
            )
        ids = [self._cut(self.prompt_tokens(p), self.context - n_new) for p in prompts]
        loop = _Decoding(self, ids, [*also, (site, edit)], where)
        rows = loop.run(n_new, temperature, seeds or list(range(len(prompts))))
        return [self._generation(p, i, *row) for p, i, row in zip(prompts, ids, rows, strict=True)]

    def _cut(self, ids: list[int], room: int) -> list[int]:
        """The last `room` of a prompt's tokens, BOS in front where the subject has one and there is room for more than it."""
        if len(ids) <= room or self.bos is None or room == 1:
            return ids[-room:]
        return [self.bos, *ids[1 - room :]]

    def text_after(self, before: list[int], new: list[int], skip_special: bool = False) -> str:
        """What tokens `new` add to the text behind tokens `before`. SentencePiece decoders drop the space at the start of what they are
        given, so the last token in front is decoded with them."""
        decode = lambda ids: self.tokenizer.decode(
            ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        front, whole = decode(before[-1:]), decode(before[-1:] + new)
        return whole[len(front) :] if front and whole.startswith(front) else decode(new)

    def _generation(
        self, prompt: str, prompt_ids: list[int], new: list[int], activations: Tensor
    ) -> Generation:
        text = self.text_after(prompt_ids, new, skip_special=True)
        return Generation(text, prompt, prompt_ids + new, len(prompt_ids), activations)

    # ------------------------------------------------------------ output side

    @torch.inference_mode()
    def to_residual(self, site: Site, directions: Tensor) -> Tensor | None:
        """What directions (F, D) at `site` write to the residual stream, (F, width) float32: themselves, or, at attn_z, their image under
        attention's output projection. None where that is not known."""
        directions = directions.to(self.device, torch.float32)
        if site.kind == "attn_z":
            projection = copy.deepcopy(self.module(site)[0]).float()
            return projection(directions) - projection(torch.zeros_like(directions[:1]))
        return directions if directions.shape[1] == self.width else None

    @torch.inference_mode()
    def logit_lens(self, directions: Tensor) -> Tensor:
        """What each direction (F, width) of the residual stream adds to the logits (F, V), float32: the final norm of the direction alone,
        then the unembedding.

        The norm's bias is taken off, so a zero direction promotes nothing. A direction is scale-free here: the norm divides by its length.
        """
        if self.family is None:
            raise UsageError(
                f"The final norm of the architecture {self.model.config.model_type!r} is not known.",
                "Effects need a known architecture.",
            )
        norm = copy.deepcopy(self.model.get_submodule(self.family.final_norm)).float()
        directions = directions.to(self.device, torch.float32)
        normed = norm(directions) - norm(torch.zeros_like(directions[:1]))
        return normed @ self.model.get_output_embeddings().weight.float().T


def load_subject(run: Run) -> Subject:
    """The subject that the run is about."""
    s = run.settings
    return Subject.load(s.subject, s.revision, s.device, s.dtype, s.weights, s.seed)

"""Texts to tokens and back; one text in, activations or a continuation out, as in a notebook."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Site
from core.subject.decoding import Edit
from core.subject.token_texts import tell_broken
from core.text.forms import join_surrogates

if TYPE_CHECKING:
    from tokenizers import Encoding

NEXT = 'Give one: ai.Site.parse("resid_post.6"), or the one that an SAE holds.'


class TextAccess:
    """Methods of `Subject` for texts: to tokens, from tokens, and what a person types."""

    def encode(self: Any, texts: list[str]) -> list[Encoding]:
        """The tokens of texts with their offsets, without special tokens around them.

        Truncation and padding that are saved in the tokenizer's file do not apply. Raises
        UsageError for a token that the subject has no embedding of.
        """
        if not texts:
            return []
        whole = [join_surrogates(text) for text in texts]
        encodings: list[Encoding] = self.tokenizer(
            whole, add_special_tokens=False, truncation=False, padding=False, verbose=False
        ).encodings
        if len(self.tokenizer) > self.n_embeddings:
            self._check_ids(encodings)
        return encodings

    def _check_ids(self: Any, encodings: list[Encoding]) -> None:
        """Raise UsageError for a token that the subject has no embedding of."""
        largest = max((max(encoding.ids, default=0) for encoding in encodings), default=0)
        if largest >= self.n_embeddings:
            raise UsageError(
                f"The tokenizer gives the token {largest}, and the subject has "
                f"{self.n_embeddings:,} tokens.",
                "Use the tokenizer that belongs to these weights.",
            )

    @cached_property
    def n_embeddings(self: Any) -> int:
        """The number of tokens that the subject can read."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def text_after(self: Any, before: list[int], new: list[int], skip_special: bool = False) -> str:
        """What tokens `new` add to the text of tokens `before`.

        SentencePiece decoders drop a space at the start of the text, so the last token in front
        is decoded with the new ones. Bytes that make no character are told as `<0xE9>`; those at
        the end, which more tokens may complete, stand as U+FFFD.
        """

        def decode(ids: list[int]) -> str:
            text: str = self.tokenizer.decode(
                ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
            )
            return tell_broken(self.tokenizer, ids, text, skip_special)

        front, whole = decode(before[-1:]), decode(before[-1:] + new)
        return whole[len(front) :] if front and whole.startswith(front) else decode(new)

    @torch.inference_mode()
    def read_text(self: Any, site: Site | None, text: str) -> Tensor:
        """Activations (T, D) float32 at `site` for the tokens of a text, read after BOS.

        The first position of the row is left out: BOS, or the first token without a BOS. Raises
        UsageError for a text that holds no other token.
        """
        ids = self.prompt_tokens(text)[: self.context]
        if len(ids) < 2:
            raise UsageError("The text is shorter than two tokens.", "Give a longer text.")
        hidden: Tensor = self.read(known_site(site), torch.tensor([ids]))
        return hidden[0, 1:].float()

    def write(
        self: Any,
        prompt: str,
        tokens: int = 40,
        edit: Edit | None = None,
        *,
        site: Site | None = None,
        temperature: float = 0.7,
        seed: int = 0,
    ) -> str:
        """The prompt's continuation, with `edit` at `site`, by default the site of the edit.

        Raises UsageError for an edit where neither says a site.
        """
        place = site or getattr(edit, "site", None)
        if edit is None and place is None:
            place = Site("resid_post", 0)  # read and not changed
        made = self.generate(
            [prompt],
            tokens,
            known_site(place),
            temperature=temperature,
            seeds=[seed],
            edit=edit,
        )
        return str(made[0].text)


def known_site(site: Site | None) -> Site:
    """`site`; raises UsageError where there is none."""
    if site is None:
        raise UsageError("The site is not known.", NEXT)
    return site

"""One text in, activations or a continuation out: what a person types in a notebook."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Site
from core.subject.decoding import Edit

NEXT = 'Give one: ai.Site.parse("resid_post.6"), or the one that an SAE holds.'


class TextAccess:
    """Methods of `Subject` for a single text."""

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

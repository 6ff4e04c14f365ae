"""Published SAEs, each in the layout that its authors chose: one module a layout, `load_published` in front.

A layout module has `matches(place)` and `load(place)`. What it gives back computes what the authors' own code computes; where the files leave
that open, it refuses and says why. docs/formats.md lists what loads.
"""

from __future__ import annotations

from core.errors import UsageError
from core.saes.formats import (
    bare_tensors,
    dictionary_learning,
    gemma_scope,
    learned_dicts,
    linear_layers,
    llama_scope,
    openai_gpt2,
    own,
    saelens,
    sparsify,
)
from core.saes.formats.places import find_place
from core.saes.formats.published import Published

__all__ = ["Published", "load_published"]

LAYOUTS = (
    learned_dicts,
    own,
    saelens,
    sparsify,
    llama_scope,
    dictionary_learning,
    gemma_scope,
    openai_gpt2,
    bare_tensors,
    linear_layers,
)


def load_published(spec: str) -> Published:
    """The SAE that `spec` names: a file or folder here, or `hf:owner/repo[/folder][@revision]`.

    Raises UsageError when its layout is not known or it cannot be loaded as its authors meant it, NotReady when the hub does not give it.
    """
    place = find_place(spec)
    for layout in LAYOUTS:
        if layout.matches(place):
            try:
                return layout.load(place)
            except KeyError as error:
                raise UsageError(
                    f"{spec} lacks the tensor {error}.",
                    "Download it again, or give another folder.",
                ) from None
    raise UsageError(
        f"{spec} is in no layout that is known here: its file holds {sorted(place.keys)[:12]}.",
        "docs/formats.md lists the layouts.",
    )

"""The published SAE layouts, one module each, and `load`, which finds the right one.

A layout module has `matches(source) -> bool` and `load(source) -> SAE`. The SAE computes what the
authors' own code computes. Where the files leave that open, `load` refuses and says why.
docs/formats.md lists what loads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from core.errors import UsageError
from core.saes.formats import (
    bare_tensors,
    circuit_tracer,
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
from core.saes.formats.sources import Source, find_source
from core.saes.sae import SAE

__all__ = ["load"]


class Layout(Protocol):
    """A layout module."""

    def matches(self, source: Source) -> bool: ...
    def load(self, source: Source) -> SAE: ...


LAYOUTS: tuple[Layout, ...] = (
    learned_dicts,
    own,
    saelens,
    sparsify,
    circuit_tracer,
    llama_scope,
    dictionary_learning,
    gemma_scope,
    openai_gpt2,
    bare_tensors,
    linear_layers,
)


def load(spec: str | Path) -> SAE:
    """Load the SAE that `spec` names: a file, a folder, or `hf:owner/repo[/folder][@revision]`.

    Raises UsageError when the layout is unknown or the SAE cannot be loaded as its authors meant
    it, and NotReady when the hub cannot be reached.
    """
    source = find_source(str(spec))
    for layout in LAYOUTS:
        if layout.matches(source):
            try:
                return layout.load(source)
            except KeyError as error:
                raise UsageError(
                    f"{spec} lacks the tensor {error}.",
                    "Download it again, or give another folder.",
                ) from None
    raise UsageError(
        f"{spec} is in no known layout: its file holds {sorted(source.keys)[:12]}.",
        "docs/formats.md lists the layouts.",
    )

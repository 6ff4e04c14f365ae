"""Find the sites of an architecture that `families` does not list, by running the model once.

What a layer adds to the residual stream is the sum of what its two halves write. So the modules of
a layer are watched in one short pass, and the two whose outputs sum to the layer's change are the
sites attn_out and mlp_out. Nothing is assumed from names but which of two parallel halves is
attention; where no two modules sum to the change, there are only resid_pre and resid_post.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.subject.families import Family

TOKENS = (5, 9, 11, 3, 17, 8, 2, 13)
# Of the change, by which sums may miss it: float32 rounds by far less, bfloat16 and float16 by less
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 0.02
ATTENTION = re.compile(r"attn|attention|mixer|mamba|temporal|conv|linear_att")
SIDE_TOWER = re.compile(r"(^|[._])(enc|encoder|vis|vision|visual|audio)")


@dataclass
class Seen:
    """What the modules of one layer took and gave back, each (T, D) float32, by relative path."""

    given: dict[str, Tensor] = field(default_factory=dict)
    returned: dict[str, Tensor] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)  # by completion
    tolerance: float = COARSE


def find_layers(model: nn.Module, n_layers: int) -> str:
    """The path of the list of the decoder's layers; empty without one."""
    lists = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists or not n_layers:
        return ""
    return str(min(lists, key=lambda path: (bool(SIDE_TOWER.search(path)), path.count("."))))


@torch.inference_mode()
def discover_family(model: nn.Module, n_layers: int, width: int, number: int) -> Family:
    """The sites of layer `number`, and the final norm.

    Where no two modules sum to what the layer adds, `attn`, `attn_projection` and `mlp` are empty.
    All are empty where there are no layers. Raises UsageError where there is no such layer.
    """
    path = find_layers(model, n_layers)
    if not path:
        return Family("", "", "", "", None, "")
    if not 0 <= number < n_layers:
        raise UsageError(f"There is no layer {number}.", f"There are layers 0 to {n_layers - 1}.")
    layer = model.get_submodule(f"{path}.{number}")
    seen, norm = watch(model, layer, width)
    attn, mlp = find_halves(seen)
    return Family(
        f"{path}.{{}}",
        attn,
        find_projection(layer, seen, attn),
        mlp,
        find_middle(seen, attn) if attn else None,
        norm,
        find_mlp_input(layer, seen, mlp),
    )


def watch(model: nn.Module, layer: nn.Module, width: int) -> tuple[Seen, str]:
    """(what the modules of `layer` did in one pass, path of the norm before the unembedding)."""
    seen = Seen(tolerance=TOLERANCE.get(next(layer.parameters()).dtype, COARSE))
    norms = {name: m for name, m in model.named_modules() if "norm" in type(m).__name__.casefold()}
    outputs: dict[str, Tensor] = {}
    into: list[Tensor] = []

    def take(name: str, args: Any, kwargs: dict[str, Any]) -> None:
        value = hidden_of(args[:1] or (kwargs.get("hidden_states"),), width)
        if value is not None:
            seen.given[name] = value

    def give(name: str, output: Any) -> None:
        value = hidden_of(output, width)
        if value is not None:
            seen.returned[name] = value
            seen.order.append(name)

    handles = []
    for name, module in layer.named_modules():
        handles += [
            module.register_forward_pre_hook(
                lambda _m, a, k, name=name: take(name, a, k), with_kwargs=True
            ),
            module.register_forward_hook(lambda _m, _a, out, name=name: give(name, out)),
        ]
    for name, module in norms.items():
        handles.append(
            module.register_forward_hook(
                lambda _m, _a, out, name=name: outputs.update({name: hidden_of(out, width)})
            )
        )
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    handles.append(
        head.register_forward_pre_hook(lambda _m, a: into.append(cast(Tensor, hidden_of(a, width))))
    )
    tokens = torch.tensor([TOKENS], device=next(model.parameters()).device)
    try:
        model(input_ids=tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    last = [
        name
        for name, value in outputs.items()
        if into and value is not None and into[-1] is not None and torch.equal(value, into[-1])
    ]
    return seen, last[-1] if last else ""


def hidden_of(value: Any, width: int) -> Tensor | None:
    """The hidden states (T, D) float32 of what a module takes or gives back, without the first.

    The first position is often of a size that would hide all others.
    """
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[-1] != width:
        return None
    rows = value.reshape(-1, width)
    return rows[1:].float().clone() if len(rows) == len(TOKENS) else None


def find_halves(seen: Seen) -> tuple[str, str]:
    """(attn, mlp): the modules nearest to the layer whose outputs sum to what it adds; or empty."""
    before, after = seen.given.get(""), seen.returned.get("")
    if before is None or after is None:
        return "", ""
    names = [name for name in dict.fromkeys(seen.order) if name]
    pairs = [
        (a, b)
        for a, b in itertools.combinations(names, 2)
        if is_sum(before, (seen.returned[a], seen.returned[b]), after, seen.tolerance)
    ]
    if not pairs:
        return "", ""
    first, second = min(pairs, key=lambda pair: pair[0].count(".") + pair[1].count("."))
    parallel = find_middle(seen, first) is None
    swapped = ATTENTION.search(second) and not ATTENTION.search(first)
    return (second, first) if parallel and swapped else (first, second)


def is_sum(before: Tensor, parts: tuple[Tensor, ...], after: Tensor, tolerance: float) -> bool:
    """Whether `before` and the parts sum to `after`, up to rounding.

    A part that is next to nothing proves nothing.
    """
    change = sum(part for part in parts)
    assert isinstance(change, Tensor)
    size = change.norm()
    if min(float(part.norm()) for part in parts) < 4 * tolerance * float(size):
        return False
    return bool((before + change - after).norm() <= tolerance * size)


def find_middle(seen: Seen, attn: str) -> str | None:
    """The module nearest to the layer whose input is the stream between the halves, or None."""
    before = seen.given[""]
    names = [
        name
        for name, value in seen.given.items()
        if name and is_sum(before, (seen.returned[attn],), value, seen.tolerance)
    ]
    return min(names, key=lambda name: name.count("."), default=None)


def find_mlp_input(layer: nn.Module, seen: Seen, mlp: str) -> str:
    """`mlp` where it takes hidden states and is no norm behind an MLP; empty otherwise."""
    if mlp not in seen.given or not mlp:
        return ""
    return "" if "norm" in type(layer.get_submodule(mlp)).__name__.casefold() else mlp


def find_projection(layer: nn.Module, seen: Seen, attn: str) -> str:
    """The last matrix that ran before `attn` had its output; empty without one."""
    if not attn:
        return ""
    modules = dict(layer.named_modules())
    ran = seen.order[: seen.order.index(attn) + 1]
    matrices = [
        name
        for name in ran
        if isinstance(modules[name], nn.Linear) or type(modules[name]).__name__ == "Conv1D"
    ]
    within = [name for name in matrices if ATTENTION.search(name)]
    return (within or matrices or [""])[-1]

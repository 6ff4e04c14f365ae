"""Hook one module of the subject, to see or replace the hidden states that enter or leave it.

No other module registers hooks. Layers return a Tensor or a tuple, and take their hidden states
by position or by keyword; both are handled, and a new value goes back in the container that the
old one came in.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def hook_module(
    model: nn.Module,
    module: nn.Module,
    side: str,
    in_place: bool,
    see: Callable[[Tensor], Tensor | None],
) -> Iterator[None]:
    """Context manager: calls `see(hidden (R, T, D))` whenever `model` runs `module`.

    `side` is "input" or "output". Unless `see` returns None, what it returns replaces the hidden
    states; `in_place` writes an input into the tensor that the layer holds, for a layer that adds
    to this very tensor afterwards. What `see` returns is moved to the device of the hidden states.
    Several threads may run the model at once.
    """
    current = threading.local()

    def count_rows(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current.rows = len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])

    def see_rows(hidden: Tensor) -> Tensor | None:
        if hidden.dim() == 3:
            new = see(hidden)
            return None if new is None else new.to(hidden.device)
        rows = hidden.reshape(current.rows, -1, hidden.shape[-1])  # OPT's MLP runs on (R * T, D)
        new = see(rows)
        return None if new is None else new.flatten(0, 1).to(hidden.device)

    def see_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        by_keyword = not (args and isinstance(args[0], Tensor))
        hidden = kwargs["hidden_states"] if by_keyword else args[0]
        new = see_rows(hidden)
        if new is None:
            return None
        if in_place:
            hidden.copy_(new)
            return None
        if by_keyword:
            return args, kwargs | {"hidden_states": new}
        return (new, *args[1:]), kwargs

    def see_output(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        new = see_rows(output if isinstance(output, Tensor) else output[0])
        return new if new is None or isinstance(output, Tensor) else (new, *output[1:])

    handles = [
        model.register_forward_pre_hook(count_rows, with_kwargs=True),
        module.register_forward_pre_hook(see_input, with_kwargs=True)
        if side == "input"
        else module.register_forward_hook(see_output),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def keep_output(module: nn.Module, outputs: list[Any]) -> Iterator[None]:
    """Context manager: appends what `module` returns, container and all, to `outputs`."""

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)

    handle = module.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def skip_modules(modules: list[nn.Module], output: Any) -> Iterator[None]:
    """Context manager: none of `modules` computes anything; each returns `output` at once.

    Hooks on them still run. Holds for every thread.
    """

    def forward(*_args: Any, **_kwargs: Any) -> Any:
        return output

    own = [vars(module).get("forward") for module in modules]  # accelerate sets one of its own
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            del module.forward  # the class's own is found again
            if before is not None:
                module.forward = before

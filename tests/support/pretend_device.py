"""A device that this machine does not have: its tensors hold numbers, and refuse those of the CPU.

`PretendDevice` is a context manager. Within it a tensor can be moved to DEVICE and back and computes
there as on the CPU. As on a real device, an operation between a tensor there and one of the CPU
raises RuntimeError, but for a number (no dimension) and an index of the CPU, and numpy cannot read
it. It is the device type that torch keeps for other people's hardware.
"""

import functools

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("privateuseone", 0)
AT = torch.ops.aten
CROSSING = {AT._to_copy.default, AT.copy_.default, AT._copy_from.default}
INDEXING = {
    AT.index.Tensor,
    AT.index_put.default,
    AT.index_put_.default,
    AT._index_put_impl_.default,
}


class There(torch.Tensor):
    """A tensor on DEVICE; `held` are its numbers."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def tolist(self):  # torch does this for tensors of any device, and for no subclass
        return self.held.tolist()

    def __repr__(self):
        return f"There({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


def is_there(device):
    return device is not None and torch.device(device).type == DEVICE.type


def take(value):
    return value.held if isinstance(value, There) else value


def check(func, args, kwargs):
    """Raise RuntimeError where tensors of both places meet."""
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
    if func in INDEXING:
        tensors = [args[0], *([args[2]] if len(args) > 2 else [])]
    here = [t for t in tensors if not isinstance(t, There) and t.dim()]
    if here and any(isinstance(t, There) for t in tensors):
        raise RuntimeError(f"{func}: tensors on {DEVICE} and on cpu, {tuple(here[0].shape)}")


def run(func, args, kwargs):
    there = any(isinstance(t, There) for t in tree_iter((args, kwargs)))
    asked = kwargs.get("device")
    if func not in CROSSING:
        check(func, args, kwargs)
    place = is_there(asked) if asked is not None else there
    kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    held_args, held_kwargs = tree_map(take, (args, kwargs))
    if asked is not None and not place:
        held_kwargs["device"] = "cpu"
    out = func(*held_args, **held_kwargs)
    if not func._schema.returns:
        return None
    name = func._schema.name
    in_place = name.endswith("_") and not name.endswith("__")  # __or__ is not
    if in_place or "out" in kwargs:  # the tensor that was given
        return kwargs.get("out", args[0])
    wrap = lambda t: There(t) if isinstance(t, torch.Tensor) and not isinstance(t, There) else t
    return tree_map(wrap, out) if place else out


class Hook(backend_registration._DummyPrivateUse1Hook):
    """An accelerator that is there within `PretendDevice` alone."""

    there = False

    def is_available(self):
        return self.there


@functools.cache
def register():
    """Register the device with torch, once in a process."""
    hook = Hook()
    backend_registration._setup_privateuseone_for_python_backend("pretended", hook=hook)
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")  # where torch asks no mode
    library.impl("empty_strided", make_empty)
    library.impl("empty.memory_format", make_contiguous)
    library.impl("_copy_from", copy_from)
    return hook, library


def make_empty(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return There(torch.empty_strided(size, stride, dtype=dtype))


def make_contiguous(
    size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None
):
    return There(torch.empty(size, dtype=dtype))


def copy_from(source, target, non_blocking=False):
    take(target).copy_(take(source))
    return target


class PretendDevice(TorchDispatchMode):
    """Operations on DEVICE work within it; those that make a tensor there too."""

    def __enter__(self):
        self.hook, _ = register()
        self.hook.there = True
        self.patch = pytest.MonkeyPatch()  # a subclass cannot be an inference tensor
        self.patch.setattr(torch.inference_mode, "__enter__", torch.no_grad.__enter__)
        self.patch.setattr(torch.inference_mode, "__exit__", torch.no_grad.__exit__)
        return super().__enter__()

    def __exit__(self, *raised):
        self.patch.undo()
        self.hook.there = False
        return super().__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def move(module):
    """The module with every parameter and buffer on DEVICE."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = There(parameter.detach())
                part._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = There(buffer.detach())
    return module

"""Check that the tensors of an SAE fit each other."""

from __future__ import annotations

from torch import Tensor

from core.errors import UsageError


def check_shapes(tensors: dict[str, Tensor], transcoder: bool = False) -> None:
    """Raise UsageError where a tensor does not fit W_dec (F, d_out).

    A `transcoder` may read another width than it writes.
    """
    if tensors["W_dec"].ndim != 2:
        raise UsageError(
            f"W_dec has shape {tuple(tensors['W_dec'].shape)}; it must be (features, width).",
            "Load a whole SAE.",
        )
    n_features, d_out = tensors["W_dec"].shape
    d_in = d_out
    if transcoder and tensors["W_enc"].ndim == 2:
        d_in = len(tensors["W_enc"])
    shapes = {
        "W_enc": (d_in, n_features),
        "W_dec": (n_features, d_out),
        "b_dec": (d_out,),
        "W_skip": (d_in, d_out),
    }
    for name, tensor in tensors.items():
        shape = shapes.get(name, (n_features,))
        if tensor.shape != shape:
            raise UsageError(
                f"{name} has shape {tuple(tensor.shape)}; the decoder asks for {shape}.",
                "Load a whole SAE.",
            )

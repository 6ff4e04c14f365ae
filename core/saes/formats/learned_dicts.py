"""Cunningham et al. (2023, arXiv 2309.08600): learned_dicts.pt, a pickled list of (dictionary object, settings of its training).

    TiedSAE     encoder E (F, D), encoder_bias (F,), norm_encoder, center_trans t (D,), center_rot R (D, D), center_scale s (D,)
    UntiedSAE   encoder E (F, D), decoder (F, D), encoder_bias (F,)

With M the rows of E (or of the decoder) at length 1, and A = M where norm_encoder is set, else E:

    f = ReLU(A ((R (x - t)) * s) + b)        x_hat = R^T (M^T f / s) + t

The objects' classes are never looked up: in the restricted unpickler a plain record stands in their place and keeps the fields alone.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from core.records import Site
from core.saes.formats.places import Source
from core.saes.formats.published import Published, refused
from core.saes.formats.tensors import as_floats, read_pickle
from core.saes.sae import SAE, SAEConfig


class Tied:
    """The fields of a TiedSAE."""


class Untied:
    """The fields of an UntiedSAE."""


RECORDS = {"autoencoders.learned_dict.TiedSAE": Tied, "autoencoders.learned_dict.UntiedSAE": Untied}
CENTRING = {"center_trans", "center_rot", "center_scale"}


def matches(place: Source) -> bool:
    return place.weights.suffix == ".pt" and "learned_dict" in place.weights.name


def load(place: Source) -> Published:
    """Raises UsageError when the file holds several dictionaries and none is named, or another kind of one."""
    found = read_pickle(place.weights, RECORDS)
    pairs = (
        [pair for pair in found if isinstance(pair, tuple) and len(pair) == 2]
        if isinstance(found, list)
        else []
    )
    if not pairs or len(pairs) != len(found):
        raise refused(
            place.name,
            "it holds no list of dictionaries",
            "Use the learned_dicts.pt that training wrote.",
        )
    if place.part is None and len(pairs) > 1 or place.part is not None and place.part >= len(pairs):
        said = "; ".join(
            f"#{number} {_shown(settings)}" for number, (_, settings) in enumerate(pairs[:8])
        )
        raise refused(
            place.name,
            f"it holds {len(pairs)} dictionaries: {said}",
            f"Name one: {str(place.name).split('#')[0]}#0",
        )
    fields = vars(pairs[place.part or 0][0])
    tensors = as_floats(
        {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    )
    needed = {"encoder", "encoder_bias"} | (
        {"decoder"} if isinstance(pairs[place.part or 0][0], Untied) else set()
    )
    if missing := needed - tensors.keys():
        raise refused(
            place.name,
            f"its dictionary has no {sorted(missing)}",
            "Use one that training wrote whole.",
        )
    sae = (
        _untied(tensors)
        if "decoder" in needed
        else _tied(place, tensors, fields.get("norm_encoder"))
    )
    return Published(sae, _site(place.path), "", 0, False, f"learned_dicts, {place.name}")


def _site(path: str) -> Site | None:
    """From the name of the run's folder: `tied_residual_l2_r4` is layer 2."""
    found = re.search(r"_(resid|residual|mlpout)_l(\d+)_r", path)
    return (
        Site("mlp_out" if found[1] == "mlpout" else "resid_post", layer=int(found[2]))
        if found
        else None
    )


def _shown(settings: object) -> str:
    if not isinstance(settings, dict):
        return ""
    return " ".join(
        f"{name}={value:.3g}"
        for name, value in settings.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _unit_rows(matrix: Tensor) -> Tensor:
    return matrix / matrix.norm(dim=1, keepdim=True).clamp(min=1e-8)


def _untied(tensors: dict[str, Tensor]) -> SAE:
    weights = {
        "W_enc": tensors["encoder"].T,
        "b_enc": tensors["encoder_bias"],
        "W_dec": _unit_rows(tensors["decoder"]),
    }
    return SAE(
        SAEConfig("untied_l1", "relu", subtract_b_dec=False),
        weights | {"b_dec": torch.zeros(tensors["encoder"].shape[1])},
    )


def _tied(place: Source, tensors: dict[str, Tensor], normalised: object) -> SAE:
    """Centring folded in: W_enc = R^T diag(s) A^T, W_dec = M diag(1 / s) R, b_dec = t, which is also taken off the input."""
    if not isinstance(normalised, bool):
        raise refused(
            place.name,
            "it does not say whether its encoder is normalised (norm_encoder)",
            "Use one that training wrote whole.",
        )
    centring = CENTRING & tensors.keys()
    if centring and centring != CENTRING:
        raise refused(
            place.name,
            f"of its centring there is only {sorted(centring)}",
            "Use one that training wrote whole.",
        )
    rows = _unit_rows(tensors["encoder"])
    W_enc, W_dec, b_dec = (
        (rows if normalised else tensors["encoder"]).T,
        rows,
        torch.zeros(rows.shape[1]),
    )
    if centring:
        rotation, scale, b_dec = (
            tensors["center_rot"],
            tensors["center_scale"],
            tensors["center_trans"],
        )
        W_enc, W_dec = rotation.T @ (scale[:, None] * W_enc), W_dec / scale @ rotation
    return SAE(
        SAEConfig("tied_l1", "relu"),
        {"W_enc": W_enc, "b_enc": tensors["encoder_bias"], "W_dec": W_dec, "b_dec": b_dec},
    )

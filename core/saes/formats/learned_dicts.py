"""Cunningham et al. (2023, arXiv 2309.08600): learned_dicts.pt, a list of dictionaries.

The file is a pickled list of (dictionary object, settings of its training):

    TiedSAE     encoder E (F, D), encoder_bias (F,), norm_encoder,
                center_trans t (D,), center_rot R (D, D), center_scale s (D,)
    UntiedSAE   encoder E (F, D), decoder (F, D), encoder_bias (F,)

With M the rows of E (or of the decoder) at length 1, and A = M where norm_encoder is set, else E:

    f = ReLU(A ((R (x - t)) * s) + b)        x_hat = R^T (M^T f / s) + t

The objects' classes are never looked up: the restricted unpickler puts a plain record in their
place, which keeps the fields alone.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from core.records import Site
from core.saes.formats.refusal import refusal
from core.saes.formats.sources import Source
from core.saes.formats.tensors import as_floats, read_pickle
from core.saes.sae import SAE, SAEConfig


class Tied:
    """The fields of a TiedSAE."""


class Untied:
    """The fields of an UntiedSAE."""


RECORDS: dict[str, type] = {
    "autoencoders.learned_dict.TiedSAE": Tied,
    "autoencoders.learned_dict.UntiedSAE": Untied,
}
CENTRING = {"center_trans", "center_rot", "center_scale"}
USE_WHOLE = "Use one that training wrote whole."


def matches(source: Source) -> bool:
    """Return whether the file has the name that the paper's code gives it."""
    return source.weights.suffix == ".pt" and "learned_dict" in source.weights.name


def load(source: Source) -> SAE:
    """Load the dictionary that `source` names.

    Raises UsageError when the file holds several and none is named, or another kind of one.
    """
    record = _choose(source, _read_pairs(source))
    fields = vars(record)
    tensors = as_floats({n: t for n, t in fields.items() if isinstance(t, Tensor)})
    needed = {"encoder", "encoder_bias"} | ({"decoder"} if isinstance(record, Untied) else set())
    if missing := needed - tensors.keys():
        raise refusal(source.name, f"its dictionary has no {sorted(missing)}", USE_WHOLE)
    if isinstance(record, Untied):
        config, weights = _fold_untied(tensors)
    else:
        config, weights = _fold_tied(source, tensors, fields.get("norm_encoder"))
    return SAE(config, weights, _site(source.path), source=f"learned_dicts, {source.name}")


def _read_pairs(source: Source) -> list[tuple[object, object]]:
    content = read_pickle(source.weights, RECORDS)
    listed = content if isinstance(content, list) else []
    pairs = [pair for pair in listed if isinstance(pair, tuple) and len(pair) == 2]
    if not pairs or len(pairs) != len(listed):
        raise refusal(
            source.name,
            "it holds no list of dictionaries",
            "Use the learned_dicts.pt that training wrote.",
        )
    return pairs


def _choose(source: Source, pairs: list[tuple[object, object]]) -> object:
    unnamed = source.part is None and len(pairs) > 1
    if unnamed or (source.part is not None and source.part >= len(pairs)):
        listing = "; ".join(
            f"#{number} {_describe(settings)}" for number, (_, settings) in enumerate(pairs[:8])
        )
        raise refusal(
            source.name,
            f"it holds {len(pairs)} dictionaries: {listing}",
            f"Name one: {source.name.split('#')[0]}#0",
        )
    return pairs[source.part or 0][0]


def _site(path: str) -> Site | None:
    """Read the site from the name of the run's folder: `tied_residual_l2_r4` is layer 2."""
    named = re.search(r"_(resid|residual|mlpout)_l(\d+)_r", path)
    if not named:
        return None
    return Site("mlp_out" if named[1] == "mlpout" else "resid_post", layer=int(named[2]))


def _describe(settings: object) -> str:
    if not isinstance(settings, dict):
        return ""
    return " ".join(
        f"{name}={value:.3g}"
        for name, value in settings.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _unit_rows(matrix: Tensor) -> Tensor:
    lengths: Tensor = matrix.norm(dim=1, keepdim=True).clamp(min=1e-8)
    return matrix / lengths


def _fold_untied(tensors: dict[str, Tensor]) -> tuple[SAEConfig, dict[str, Tensor]]:
    weights = {
        "W_enc": tensors["encoder"].T,
        "b_enc": tensors["encoder_bias"],
        "W_dec": _unit_rows(tensors["decoder"]),
        "b_dec": torch.zeros(tensors["encoder"].shape[1]),
    }
    return SAEConfig("untied_l1", "relu", subtract_b_dec=False), weights


def _fold_tied(
    source: Source, tensors: dict[str, Tensor], normalised: object
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Fold the centring into the weights.

    W_enc = R^T diag(s) A^T, W_dec = M diag(1 / s) R, b_dec = t, which is also subtracted from the
    input.
    """
    if not isinstance(normalised, bool):
        raise refusal(
            source.name,
            "it does not say whether its encoder is normalised (norm_encoder)",
            USE_WHOLE,
        )
    centring = CENTRING & tensors.keys()
    if centring and centring != CENTRING:
        raise refusal(source.name, f"its centring has only {sorted(centring)}", USE_WHOLE)
    rows = _unit_rows(tensors["encoder"])
    W_enc, W_dec = (rows if normalised else tensors["encoder"]).T, rows
    b_dec = torch.zeros(rows.shape[1])
    if centring:
        rotation, scale = tensors["center_rot"], tensors["center_scale"]
        W_enc, W_dec = rotation.T @ (scale[:, None] * W_enc), W_dec / scale @ rotation
        b_dec = tensors["center_trans"]
    weights = {"W_enc": W_enc, "b_enc": tensors["encoder_bias"], "W_dec": W_dec, "b_dec": b_dec}
    return SAEConfig("tied_l1", "relu"), weights

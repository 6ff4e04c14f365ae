"""Find every firing in two passes: bfloat16 products select candidates, float32 decides.

A product of two vectors that were rounded to bfloat16 is off by at most about 2^-8 |z| |w| (each
factor by 2^-9 of itself, sums in float32). So a pre-activation that lies below its threshold by
more than that is rejected in bfloat16, eight times as fast on hardware made for it. Only the
candidates are recomputed in float32: there are no false negatives, and the firings are those of a
float32 product, but for activations that equal their threshold in float32's last bit. The error
bound, and the threshold or the bias in two halves, are columns of the product itself, so that its
result is never below the truth.

Where features decide for themselves, a candidate has a positive sign. In a TopK SAE, the k-th
largest of the rough pre-activations, less twice the bound, is below the k-th largest of the true
ones; so is the k-th largest of the maxima of groups, which is found sooner.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.devices import pick_dtype
from core.saes.sae import SAE

# the second power is for sums in float32, the factor for rounding the bound itself
MARGIN = 1.01 * (2**-8 + 2**-12)
BIAS = 2**-14  # of the bias: its second half is rounded too
PAD = 32  # columns beside the D of the product: bound, two halves, zeros
DENSE = 64  # where more than one feature in so many passes, a dense product is faster
LEAST = 32  # features for each of the k, from which a prefilter is faster

Array = npt.NDArray[Any]
Firings = tuple[Array, Array, Array]  # row, feature, activation; sorted by row and feature


def make_prefilter(sae: SAE) -> Prefilter | TopKPrefilter | None:
    """Return the prefilter for `sae`, or None where dense products are faster here."""
    device, shape = sae.W_enc.device, (sae.d_in, sae.n_features)
    if device.type != "cpu" or pick_dtype("auto", device, shape) != torch.bfloat16:
        return None
    if sae.config.activation in ("relu", "jumprelu"):
        return Prefilter(sae)
    if sae.config.activation == "topk" and sae.n_features >= LEAST * sae.config.k:
        return TopKPrefilter(sae)
    return None


class Products:
    """Rough and exact products of inputs with the encoder columns of `sae`.

    The rough ones are of all columns, with the error bound and `offset` (F,) added.
    """

    def __init__(self, sae: SAE, offset: Tensor) -> None:
        self.rows = sae.W_enc.T.contiguous()  # (F, D)
        self.lengths: Tensor = self.rows.norm(dim=1)
        self.columns = torch.zeros(sae.n_features, sae.d_in + PAD, dtype=torch.bfloat16)
        self.columns[:, : sae.d_in] = self.rows
        upper = offset.bfloat16()
        added = (self.lengths * MARGIN, upper, offset - upper.float())
        for place, column in enumerate(added, sae.d_in):
            self.columns[:, place] = column

    def compute_rough(self, z: Tensor) -> Tensor:
        """Return bits (B, F) int16 of bfloat16 numbers that are at least z . W_enc + offset.

        The bits of positive numbers have the numbers' order.
        """
        inputs = torch.zeros(len(z), self.columns.shape[1], dtype=torch.bfloat16)
        inputs[:, : z.shape[1]] = z
        inputs[:, z.shape[1]] = z.norm(dim=1)
        inputs[:, z.shape[1] + 1 : z.shape[1] + 3] = 1
        return (inputs @ self.columns.T).view(torch.int16)

    def compute_exact(self, z: Tensor, row: Array, feature: Tensor) -> Tensor:
        """Return z[row] . W_enc[:, feature] (m,), in float32; `row` ascends."""
        starts = torch.from_numpy(np.searchsorted(row, np.arange(len(z) + 1)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: sparse CSR is in beta
            places = torch.sparse_csr_tensor(
                starts, feature, torch.zeros(len(feature)), (len(z), len(self.rows))
            )
            sampled: Any = torch.sparse.sampled_addmm
            products: Tensor = sampled(places, z, self.rows.T, beta=0.0).values()
        return products


class Prefilter:
    """The prefilter of an `sae` whose features decide for themselves whether they fire."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.floor = torch.zeros_like(sae.b_enc)
        if sae.config.activation == "jumprelu":
            self.floor = sae.threshold.clamp(min=0)
        self.products = Products(sae, sae.b_enc - self.floor)

    def find_firings(self, x: Tensor) -> Firings | None:
        """Return the firings on x (B, D), or None where too many pass for it to be faster."""
        z = self.sae.prepare(x)
        passed = np.flatnonzero((self.products.compute_rough(z) > 0).numpy())
        if len(passed) > len(z) * self.sae.n_features // DENSE:
            return None
        row, feature = np.divmod(passed, self.sae.n_features)
        kept = torch.from_numpy(feature)
        value = self.products.compute_exact(z, row, kept) + self.sae.b_enc[kept]
        fires = (value > self.floor[kept]).numpy()
        return row[fires], feature[fires].astype(np.int32), value.numpy()[fires]


class TopKPrefilter:
    """The prefilter of a TopK `sae`."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.k = sae, sae.config.k
        self.products = Products(sae, sae.b_enc + BIAS * sae.b_enc.abs())
        self.longest = float(self.products.lengths.max())
        self.highest = float(sae.b_enc.max().clamp(min=0))
        self.group = 1
        while (
            sae.n_features % (2 * self.group) == 0
            and sae.n_features // (2 * self.group) >= 8 * self.k
        ):
            self.group *= 2

    def find_firings(self, x: Tensor) -> Firings | None:
        """Return the firings on x (B, D), or None where too many pass for it to be faster."""
        z = self.sae.prepare(x)
        rough = self.products.compute_rough(z)
        passed = np.flatnonzero(rough.numpy() > self._floor(z, rough)[:, None])
        if len(passed) > 8 * self.k * len(z):
            return None
        row, feature = np.divmod(passed, self.sae.n_features)
        kept = torch.from_numpy(feature)
        value = (self.products.compute_exact(z, row, kept) + self.sae.b_enc[kept]).relu()
        fires = self._is_among_largest(value, row, feature, len(z)) & (value > 0).numpy()
        return row[fires], feature[fires].astype(np.int32), value.numpy()[fires]

    def _floor(self, z: Tensor, rough: Tensor) -> Array:
        """Return bits (B,) int16 that the bits of all that may fire exceed."""
        maxima = rough.view(len(rough), self.group, -1).amax(1).numpy()  # (B, groups)
        place = maxima.shape[1] - self.k
        last = np.ascontiguousarray(np.partition(maxima, place, axis=1)[:, place])
        border = torch.from_numpy(last).view(torch.bfloat16).float()
        rounding = border * 2**-7  # of the rough product itself, on either side
        # a negative bias that counts is no longer than z . w
        length: Tensor = z.norm(dim=1)
        margin = (2 * MARGIN + 4 * BIAS) * self.longest * length + 4 * BIAS * self.highest
        least = border - rounding - margin
        bits: Array = least.clamp(min=0).bfloat16().view(torch.int16).numpy()
        below: Array = bits - (least > 0).numpy()
        return below

    def _is_among_largest(self, value: Tensor, row: Array, feature: Array, n_rows: int) -> Array:
        """Return bool (m,): whether `value` (m,) >= 0 is among the k largest of its row.

        Among equal values, those of later features are larger.
        """
        keys = value.view(torch.int32).numpy().astype(np.int64) << 32 | feature
        place = np.arange(len(row)) - np.searchsorted(row, np.arange(n_rows))[row]
        table = np.zeros((n_rows, max(self.k, int(place.max(initial=0)) + 1)), np.int64)
        table[row, place] = keys
        smallest: Array = np.partition(table, -self.k, axis=1)[row, -self.k]
        among: Array = keys >= smallest
        return among

"""Every firing of an SAE, found by fast products first and exact ones where it matters.

A product of two vectors that were rounded to bfloat16 is off by at most about 2^-8 |z| |w| (each factor by 2^-9 of itself, sums in float32). So what
exceeds its threshold by that much less is sieved out in bfloat16, eight times as fast on hardware made for it, and only what is left is
computed in float32: the same firings as without a sieve, but for activations that equal their threshold in float32's last bit. The margin, and the threshold or
the bias in two halves, are columns of the product itself, so that what it gives is never below the truth.

Where features decide for themselves, what passes has a positive sign. Of a TopK SAE, the k-th largest of the rough pre-activations, less twice the margin, is
below the k-th largest of the true ones, and so is the k-th largest of the maxima of groups, which is found sooner.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from core.devices import pick_dtype
from core.saes.sae import SAE

MARGIN = 1.01 * (
    2**-8 + 2**-12
)  # the second power for sums in float32; the factor for rounding the margin itself
BIAS = 2**-14  # of the bias: its second half is rounded too
PAD = 32  # columns beside the D of the product: margin, two halves, zeros
DENSE = 64  # where more than one feature in so many passes, a dense product is faster
LEAST = 32  # features for each of the k, from which a sieve is faster

Firings = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # row, feature, activation; sorted by row and feature


def sieve_of(sae: SAE) -> Sieve | TopKSieve | None:
    """The sieve for `sae`, where there is one that is faster here than dense products."""
    if sae.W_enc.device.type != "cpu" or pick_dtype("auto", sae.W_enc.device) != torch.bfloat16:
        return None
    if sae.form.activation in ("relu", "jumprelu"):
        return Sieve(sae)
    return (
        TopKSieve(sae)
        if sae.form.activation == "topk" and sae.n_features >= LEAST * sae.form.k
        else None
    )


class Products:
    """Rough products of inputs with all encoder columns of `sae`, with a margin and `offset` (F,) added, and exact ones with some."""

    def __init__(self, sae: SAE, offset: Tensor):
        self.rows = sae.W_enc.T.contiguous()  # (F, D)
        self.lengths = self.rows.norm(dim=1)
        self.columns = torch.zeros(sae.n_features, sae.d_in + PAD, dtype=torch.bfloat16)
        upper = offset.bfloat16()
        self.columns[:, : sae.d_in] = self.rows
        for place, column in enumerate(
            (self.lengths * MARGIN, upper, offset - upper.float()), sae.d_in
        ):
            self.columns[:, place] = column

    def rough(self, z: Tensor) -> Tensor:
        """Bits (B, F) int16 of bfloat16 numbers that are z . W_enc + offset or more; of positive ones they have the numbers' order."""
        inputs = torch.zeros(len(z), self.columns.shape[1], dtype=torch.bfloat16)
        inputs[:, : z.shape[1]] = z
        inputs[:, z.shape[1]] = z.norm(dim=1)
        inputs[:, z.shape[1] + 1 : z.shape[1] + 3] = 1
        return (inputs @ self.columns.T).view(torch.int16)

    def exact(self, z: Tensor, row: np.ndarray, feature: Tensor) -> Tensor:
        """z[row] . W_enc[:, feature] (m,), in float32; `row` ascends."""
        starts = torch.from_numpy(np.searchsorted(row, np.arange(len(z) + 1)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: sparse CSR is in beta
            places = torch.sparse_csr_tensor(
                starts, feature, torch.zeros(len(feature)), (len(z), len(self.rows))
            )
            return torch.sparse.sampled_addmm(places, z, self.rows.T, beta=0.0).values()


class Sieve:
    """The firings of an `sae` whose features decide for themselves."""

    def __init__(self, sae: SAE):
        self.sae = sae
        self.floor = (
            sae.threshold.clamp(min=0)
            if sae.form.activation == "jumprelu"
            else torch.zeros_like(sae.b_enc)
        )
        self.products = Products(sae, sae.b_enc - self.floor)

    def firings(self, x: Tensor) -> Firings | None:
        """The firings on x (B, D); None where too much passes to be worth it."""
        z = self.sae.read(x)
        passed = np.flatnonzero((self.products.rough(z) > 0).numpy())
        if len(passed) > len(z) * self.sae.n_features // DENSE:
            return None
        row, feature = np.divmod(passed, self.sae.n_features)
        kept = torch.from_numpy(feature)
        value = self.products.exact(z, row, kept) + self.sae.b_enc[kept]
        fires = (value > self.floor[kept]).numpy()
        return row[fires], feature[fires].astype(np.int32), value.numpy()[fires]


class TopKSieve:
    """The firings of a TopK `sae`."""

    def __init__(self, sae: SAE):
        self.sae, self.k = sae, sae.form.k
        bias = sae.b_enc + BIAS * sae.b_enc.abs()
        self.products = Products(sae, bias)
        self.longest, self.highest = (
            float(self.products.lengths.max()),
            float(sae.b_enc.max().clamp(min=0)),
        )
        self.group = 1
        while (
            sae.n_features % (2 * self.group) == 0
            and sae.n_features // (2 * self.group) >= 8 * self.k
        ):
            self.group *= 2

    def firings(self, x: Tensor) -> Firings | None:
        """The firings on x (B, D); None where too much passes to be worth it."""
        z = self.sae.read(x)
        rough = self.products.rough(z)
        passed = np.flatnonzero(rough.numpy() > self._floor(z, rough)[:, None])
        if len(passed) > 8 * self.k * len(z):
            return None
        row, feature = np.divmod(passed, self.sae.n_features)
        kept = torch.from_numpy(feature)
        value = (self.products.exact(z, row, kept) + self.sae.b_enc[kept]).relu()
        fires = self._among_the_largest(value, row, feature, len(z)) & (value > 0).numpy()
        return row[fires], feature[fires].astype(np.int32), value.numpy()[fires]

    def _floor(self, z: Tensor, rough: Tensor) -> np.ndarray:
        """Bits (B,) int16 that the bits of all that may fire exceed."""
        maxima = rough.unflatten(1, (self.group, -1)).amax(1).numpy()  # (B, groups)
        last = np.ascontiguousarray(
            np.partition(maxima, maxima.shape[1] - self.k, axis=1)[:, maxima.shape[1] - self.k]
        )
        rounding = (
            torch.from_numpy(last).view(torch.bfloat16).float() * 2**-7
        )  # of the rough product itself, on either side
        margin = (2 * MARGIN + 4 * BIAS) * self.longest * z.norm(
            dim=1
        ) + 4 * BIAS * self.highest  # a negative bias that is met is no longer than z . w
        least = torch.from_numpy(last).view(torch.bfloat16).float() - rounding - margin
        return least.clamp(min=0).bfloat16().view(torch.int16).numpy() - (least > 0).numpy()

    def _among_the_largest(
        self, value: Tensor, row: np.ndarray, feature: np.ndarray, n_rows: int
    ) -> np.ndarray:
        """bool (m,): the `value` (m,), not negative, is among the k largest of its row; of equal ones, those of later features are."""
        keys = value.view(torch.int32).numpy().astype(np.int64) << 32 | feature
        place = np.arange(len(row)) - np.searchsorted(row, np.arange(n_rows))[row]
        table = np.zeros((n_rows, max(self.k, int(place.max(initial=0)) + 1)), np.int64)
        table[row, place] = keys
        return keys >= np.partition(table, -self.k, axis=1)[row, -self.k]

"""Every firing of an SAE whose features decide for themselves whether they fire, by fast products first and exact ones where it matters.

A product of two vectors that were rounded to bfloat16 is off by at most about 2^-8 |z| |w| (each factor by 2^-9 of itself, sums in float32). So what
exceeds its threshold by that much less is sieved out in bfloat16, eight times as fast on hardware made for it, and only what is left is
computed in float32: the same firings as without a sieve, but for activations that equal their threshold in float32's last bit. The margin, and the threshold in
two halves, are columns of the product itself, so that what passes has a positive sign.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from core.loading import pick_dtype
from core.saes.sae import SAE

MARGIN = 1.01 * (2**-8 + 2**-12)  # the second power for sums in float32; the factor for rounding the margin itself
PAD = 32  # columns beside the D of the product: margin, two halves of the threshold, zeros
DENSE = 64  # where more than one feature in so many passes, a dense product is faster


class Sieve:
    """The firings of `sae`, found as above; `fits` says whether that is possible and faster here."""

    def __init__(self, sae: SAE):
        self.sae, self.rows = sae, sae.W_enc.T.contiguous()  # (F, D)
        self.floor = sae.threshold.clamp(min=0) if sae.form.activation == "jumprelu" else torch.zeros_like(sae.b_enc)
        least = self.floor - sae.b_enc
        self.columns = torch.zeros(sae.n_features, sae.d_in + PAD, dtype=torch.bfloat16)
        upper = least.bfloat16()
        beside = (self.rows.norm(dim=1) * MARGIN, -upper, upper.float() - least)
        self.columns[:, : sae.d_in] = self.rows
        for place, column in enumerate(beside, sae.d_in):
            self.columns[:, place] = column

    @staticmethod
    def fits(sae: SAE) -> bool:
        device = sae.W_enc.device
        return device.type == "cpu" and sae.form.activation in ("relu", "jumprelu") and pick_dtype("auto", device) == torch.bfloat16

    def firings(self, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(row, feature, activation) of every firing on x (B, D), sorted by row and feature; None where too much passes to be worth it."""
        z = self.sae.read(x)
        inputs = torch.zeros(len(z), self.columns.shape[1], dtype=torch.bfloat16)
        inputs[:, : z.shape[1]] = z
        inputs[:, z.shape[1]] = z.norm(dim=1)
        inputs[:, z.shape[1] + 1 : z.shape[1] + 3] = 1
        passed = np.flatnonzero(((inputs @ self.columns.T).view(torch.int16) > 0).numpy())  # a positive number has positive bits
        if len(passed) > len(z) * self.sae.n_features // DENSE:
            return None
        row, feature = np.divmod(passed, self.sae.n_features)
        kept = torch.from_numpy(feature)
        value = self.products(z, row, kept) + self.sae.b_enc[kept]
        fires = (value > self.floor[kept]).numpy()
        return row[fires], feature[fires].astype(np.int32), value.numpy()[fires]

    def products(self, z: Tensor, row: np.ndarray, feature: Tensor) -> Tensor:
        """z[row] . W_enc[:, feature] (m,), in float32; `row` ascends."""
        starts = torch.from_numpy(np.searchsorted(row, np.arange(len(z) + 1)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: sparse CSR is in beta
            places = torch.sparse_csr_tensor(starts, feature, torch.zeros(len(feature)), (len(z), self.sae.n_features))
            return torch.sparse.sampled_addmm(places, z, self.rows.T, beta=0.0).values()

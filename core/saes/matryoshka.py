"""Matryoshka BatchTopK sparse autoencoder (Bussmann et al. 2025, arXiv 2503.17547): its first features alone reconstruct, too.

    loss = mean over prefixes m of mean squared error of (f[:m] W_dec[:m] + b_dec) + AuxK of the whole

so that early features stay general instead of being split by later ones. Prefixes are 1/16, 1/8, 1/4, 1/2 and all of the features, as in the paper; the
paper sums the losses where we take their mean, which only moves the learning rate and AuxK's share. Activations, threshold and AuxK are
those of BatchTopK.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.batch_topk import BatchTopK
from core.saes.kernels import decode, where_positive
from core.saes.protocol import TrainingLoss, sampled_l0
from core.saes.untied import auxk

HALVINGS = 4


class Matryoshka(BatchTopK):
    """`parts` are the numbers of features that each prefix adds to the one before."""

    architecture = "matryoshka"

    def __init__(self, d_in: int, n_features: int, k: int):
        super().__init__(d_in, n_features, k)
        ends = sorted({max(1, n_features >> i) for i in range(HALVINGS + 1)})
        self.parts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def training_loss(self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32) -> TrainingLoss:
        f = _Activate.apply(self.preactivations(x, dtype), self.activate)
        error, losses, sums = x - self.b_dec, [], []
        for part, rows in zip(f.split(self.parts, 1), self.W_dec.split(self.parts), strict=True):
            out, part_sums = decode(part, rows, dtype)
            error = error - out
            losses.append(error.square().mean())
            sums.append(part_sums.detach())
        total = torch.stack(losses).mean() + auxk(self, x, error, dead, dtype)
        return TrainingLoss(total, losses[-1].detach(), error.new_zeros(()), sampled_l0(f.detach()), torch.cat(sums) > 0)


class _Activate(torch.autograd.Function):
    """`activate`, with a gradient of 1 where something fires."""

    @staticmethod
    def forward(ctx, pre, activate):
        f = activate(pre)
        ctx.save_for_backward(f)
        return f

    @staticmethod
    def backward(ctx, g):
        return where_positive(g, ctx.saved_tensors[0]), None

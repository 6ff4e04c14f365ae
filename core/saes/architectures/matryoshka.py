"""Matryoshka BatchTopK sparse autoencoder (Bussmann et al. 2025, arXiv 2503.17547): its first features alone reconstruct, too.

    loss = mean over prefixes m of mean squared error of (f[:m] W_dec[:m] + b_dec) + AuxK of the whole

so that early features stay general instead of being split by later ones. Prefixes are 1/16, 1/8, 1/4, 1/2 and all of the features, as in the paper; the
paper sums the losses where we take their mean, which only moves the learning rate and AuxK's share. Activations, threshold and AuxK are
those of BatchTopK.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.saes.architectures.batch_topk import BatchTopK
from core.saes.architectures.protocol import TrainingLoss, sampled_l0
from core.saes.architectures.untied import auxk
from core.saes.kernels import (
    column_sums,
    encoder_gradients,
    mean_square,
    preactivations,
    where_positive,
)

HALVINGS = 4


class Matryoshka(BatchTopK):
    """`parts` are the numbers of features that each prefix adds to the one before."""

    architecture = "matryoshka"

    def __init__(self, d_in: int, n_features: int, k: int):
        super().__init__(d_in, n_features, k)
        ends = sorted({max(1, n_features >> i) for i in range(HALVINGS + 1)})
        self.parts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        reconstruction, mean, error, f = _Nested.apply(
            x, self.E, self.b_enc, self.W_dec, self.b_dec, self.activate, self.parts, dtype
        )
        total = mean + auxk(self, x, error, dead, dtype)
        return TrainingLoss(
            total, reconstruction, error.new_zeros(()), sampled_l0(f), column_sums(f) > 0
        )


class _Nested(torch.autograd.Function):
    """x (B, D), weights -> (mean squared error of the whole, mean of the prefixes' mean squared errors, error of the whole (B, D), f (B, F)).

    A part of f pulls on the errors of all prefixes that hold it, so the errors are added up from the last prefix on. Only the second has a gradient.
    """

    @staticmethod
    def forward(ctx, x, E, b_enc, W_dec, b_dec, activate, parts, dtype):
        error = x - b_dec
        pre, inputs = preactivations(error, E, b_enc, dtype)
        f, W, errors = activate(pre), W_dec.to(dtype), []
        for part, rows in zip(f.split(parts, 1), W.split(parts), strict=True):
            error = error - part @ rows
            errors.append(error)
        losses = [mean_square(e) for e in errors]
        ctx.save_for_backward(inputs, E, W, f, *errors)
        ctx.parts = parts
        ctx.mark_non_differentiable(losses[-1], error, f)
        return losses[-1], torch.stack(losses).mean(), error, f

    @staticmethod
    def backward(ctx, _, g_loss, *__):
        inputs, E, W, f, *errors = ctx.saved_tensors
        pulls, total, weight = [], 0.0, g_loss * (-2 / (errors[0].numel() * len(errors)))
        for error in reversed(errors):
            total = total + error
            pulls.insert(0, total.to(W.dtype) * weight)
        each = list(zip(pulls, f.split(ctx.parts, 1), W.split(ctx.parts), strict=True))
        g_pre = where_positive(torch.cat([g @ rows.T for g, _, rows in each], 1), f)
        g_W = torch.cat([part.T @ g for g, part, _ in each]).to(E.dtype)
        g_E, g_b_enc, g_b_dec = encoder_gradients(
            g_pre.T @ inputs[:, : E.shape[1]], column_sums(g_pre), E
        )
        return None, g_E, g_b_enc, g_W, g_b_dec + pulls[0].sum(0, dtype=E.dtype), None, None, None

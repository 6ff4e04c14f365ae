"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2407.14435): each feature has a threshold of its own, trained with L0 itself.

    f = pre where pre > threshold, with pre = W_enc (x - b_dec) + b_enc        x_hat = f W_dec + b_dec
    loss = mean squared error + penalty * mean over vectors of the number of features that fire

The jump has no slope, so a rectangle of width `BANDWIDTH` around the threshold stands in for it (the paper's equations 11 and 12):

    d f / d threshold   = -threshold / BANDWIDTH  where |pre - threshold| < BANDWIDTH / 2, else 0
    d L0 / d threshold  = -1 / BANDWIDTH          likewise

Other than in the paper, d / d pre has the same terms with the other sign, besides its own 1 where f fires, so that encoder and biases, too, learn to be
sparse (Anthropic 2025, "Circuits Updates - January 2025"): a threshold moves by at most the learning rate in a step, and alone
does not get far in a short training. The rectangle is wide for the same reason. The threshold is learned itself, in float32, and kept at 0 or above: its
logarithm would move more slowly still. Unit decoder rows; the penalty rises over warm-up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.saes.architectures.protocol import TrainingLoss
from core.saes.architectures.untied import Untied
from core.saes.kernels import (
    column_sums,
    encoder_gradients,
    hardtanh_backward,
    mean_square,
    preactivations,
    where_positive,
)
from core.saes.sae import SAE, SAEConfig

BANDWIDTH, START = 0.5, 0.05


class JumpReLU(Untied):
    """`threshold` (F,) beside the four tensors."""

    architecture = "jumprelu"
    default_rate = 2e-3
    default_penalty = 2e-3

    def __init__(self, d_in: int, n_features: int):
        super().__init__(d_in, n_features)
        self.threshold = nn.Parameter(torch.full((n_features,), START))

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        self.b_enc.copy_(self.quiet_biases(sample))

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        reconstruction, l0, firings = _Jump.apply(
            x, self.E, self.b_enc, self.W_dec, self.b_dec, self.threshold, dtype
        )
        return TrainingLoss(
            reconstruction + penalty * l0,
            reconstruction.detach(),
            l0.detach(),
            l0.detach(),
            firings > 0,
        )

    @torch.no_grad()
    def after_step(self) -> None:
        super().after_step()
        self.threshold.clamp_(min=0.0)

    @torch.no_grad()
    def finished(self, scale: float) -> SAE:
        return SAE(
            SAEConfig(self.architecture, "jumprelu"),
            self.tensors(scale) | {"threshold": self.threshold.cpu() * scale},
        )


class _Jump(torch.autograd.Function):
    """x (B, D), weights, thresholds (F,) -> (mean squared error (), mean number that fire (), how often each did (F,)).

    `above` (B, F) are the pre-activations less the thresholds, which stand in the product as a bias: so in bfloat16 they are exact where it matters,
    near 0, and masks by one number, which are fast, find both what fires and what the rectangle holds.
    """

    @staticmethod
    def forward(ctx, x, E, b_enc, W_dec, b_dec, threshold, dtype):
        error, W = x - b_dec, W_dec.to(dtype)
        above, inputs = preactivations(error, E, b_enc - threshold, dtype)
        f = where_positive(above + threshold.to(dtype), above)
        error -= f @ W
        ctx.save_for_backward(inputs, E, W, above, f, error, threshold)
        firings = column_sums(f.sign())
        ctx.mark_non_differentiable(firings)
        return mean_square(error), firings.sum().to(E.dtype) / len(f), firings

    @staticmethod
    def backward(ctx, g_loss, g_l0, _):
        inputs, E, W, above, f, error, threshold = ctx.saved_tensors
        g = error.to(W.dtype) * (g_loss * (-2 / error.numel()))
        g_f = g @ W.T
        at_jump = torch.addcmul((g_l0 / len(f)).to(W.dtype), g_f, threshold.to(W.dtype))
        at_jump = hardtanh_backward(at_jump, above, -BANDWIDTH / 2, BANDWIDTH / 2)
        g_pre = where_positive(g_f, above).add_(at_jump, alpha=1 / BANDWIDTH)
        g_E, g_b_enc, g_b_dec = encoder_gradients(
            g_pre.T @ inputs[:, : E.shape[1]], column_sums(g_pre), E
        )
        return (
            None,
            g_E,
            g_b_enc,
            (f.T @ g).to(E.dtype),
            g_b_dec + g.sum(0, dtype=E.dtype),
            column_sums(at_jump).to(E.dtype) / -BANDWIDTH,
            None,
        )

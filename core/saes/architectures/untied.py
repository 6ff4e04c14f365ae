"""The base of architectures with separate encoder and decoder.

It holds the four tensors, their start, the decoder's unit rows, and AuxK. A derived class writes
`plain_loss`, the paper's formula in plain autograd; where that is slow it overrides `training_loss`
with a fused pass of `core.saes.kernels` that computes the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.saes.architectures.protocol import TrainingLoss
from core.saes.kernels import decode, encode
from core.saes.sae import SAE
from core.saes.selection import largest

AUX_WEIGHT = 1 / 32
START_L0 = 32  # features that fire on a vector at the first step, with `compute_sparse_biases`
ROWS = 2048  # of the encoder in one product


class Untied(nn.Module):
    """E (F, D), b_enc (F,), W_dec (F, D) with unit rows, b_dec (D,).

    E is the transpose of W_enc, because gradients come that way.
    """

    architecture: str
    default_lr = 1.5e-3
    default_penalty = 0.0

    def __init__(self, d_in: int, n_features: int) -> None:
        super().__init__()
        self.d_in, self.n_features = d_in, n_features
        self.E = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    # ------------------------------------------------------------ start

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Set random unit decoder rows, the same encoder, and b_dec to the data's mean (D,)."""
        directions = torch.randn(self.n_features, self.d_in, generator=generator)
        self.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
        self.E.copy_(self.W_dec)
        self.b_dec.copy_(mean)

    def start(self, sample: Tensor) -> None:
        """Change nothing; a derived class may set what depends on vectors (n, D) of the data."""

    @torch.no_grad()
    def compute_sparse_biases(self, sample: Tensor) -> Tensor:
        """Return encoder biases (F,) with which START_L0 features fire on a vector.

        Every feature fires on the same share of `sample` (n, D), at most a half (Anthropic 2025,
        "Circuits Updates - January 2025"). With biases of 0 half of all features fire; a penalty
        needs hundreds of steps to silence them, which distorts what they learn
        (docs/experiments.md). Each bias is halfway between two pre-activations of the sample, so
        that none is 0 but for its rounding.
        """
        n, centred = len(sample), sample - self.b_dec
        place = max(1, round(n * (1 - min(0.5, START_L0 / self.n_features))))
        biases = []
        for rows in torch.split(self.E, ROWS):
            pre = rows @ centred.T
            below, above = (pre.kthvalue(p, dim=1).values for p in (place, min(n, place + 1)))
            biases.append((below + above) / -2)
        return torch.cat(biases)

    # ------------------------------------------------------------ a step

    def plain_loss(self, x: Tensor, penalty: float, dead: Tensor) -> TrainingLoss:
        """Return the paper's loss on x (B, D), in plain autograd."""
        raise NotImplementedError

    def training_loss(
        self, x: Tensor, penalty: float, dead: Tensor, dtype: torch.dtype = torch.float32
    ) -> TrainingLoss:
        """Return `plain_loss`; a fused pass that overrides this may multiply in `dtype`."""
        return self.plain_loss(x, penalty, dead)

    def preactivate(self, x: Tensor) -> Tensor:
        """Return (x - b_dec) W_enc + b_enc (B, F) of x (B, D)."""
        return (x - self.b_dec) @ self.E.T + self.b_enc

    def reconstruct(self, f: Tensor) -> Tensor:
        """Return f W_dec + b_dec (B, D) of f (B, F)."""
        return f @ self.W_dec + self.b_dec

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove from the decoder's gradient what would only change a row's length."""
        gradient = self.W_dec.grad
        assert gradient is not None
        gradient -= (gradient * self.W_dec).sum(1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def after_step(self) -> None:
        """Scale the decoder's rows to length 1."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-8))

    # ------------------------------------------------------------ result

    def finish(self, scale: float) -> SAE:
        """Return the SAE that reads raw x, where this one was trained on x / scale."""
        raise NotImplementedError

    @torch.no_grad()
    def raw_tensors(self, scale: float) -> dict[str, Tensor]:
        """Return copies of the four tensors for raw x, where these read x / scale."""
        tensors = {
            "W_enc": self.E.T.contiguous(),
            "b_enc": self.b_enc * scale,
            "W_dec": self.W_dec.clone(),
            "b_dec": self.b_dec * scale,
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}


def auxk(sae: Untied, x: Tensor, error: Tensor, dead: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Return AuxK (Gao et al. 2024, appendix A.2).

    The D / 2 largest pre-activations of the `dead` features (n,) reconstruct the `error` (B, D)
    that the others leave. The loss is the share of that error which remains, times 1/32. It reaches
    the encoder of the dead.
    """
    if not len(dead):
        return 0.0
    pre = encode(x, sae.E[dead], sae.b_enc[dead], sae.b_dec, dtype)
    places = largest(pre.detach(), min(sae.d_in // 2, len(dead)))[1]
    f = torch.zeros_like(pre).scatter(1, places, pre.gather(1, places).relu())
    left = error.detach()
    x_hat = decode(f, sae.W_dec[dead], dtype)
    return AUX_WEIGHT * (x_hat - left).square().mean() / left.square().mean().clamp(min=1e-12)


def check_k(k: int, n_features: int) -> None:
    """Raise UsageError where k is not between 1 and the number of features."""
    if not 1 <= k <= n_features:
        raise UsageError(
            f"k is {k} for {n_features} features.", f"Use --k between 1 and {n_features}."
        )

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
from core.saes.sae import SAE, SAEConfig
from core.saes.selection import largest

AUX_WEIGHT = 1 / 32
START_L0 = 32  # features that fire on a vector at the first step, with `compute_sparse_biases`
ROWS = 2048  # of the encoder in one product


class Untied(nn.Module):
    """E (F, D), b_enc (F,), W_dec (F, D) with unit rows, b_dec (D,).

    E is the transpose of W_enc, because gradients come that way. A transcoder (`make_transcoder`)
    predicts `target` (B, d_out) from x. Its encoder subtracts the mean of x, fixed, and not b_dec;
    with W_skip (d_in, d_out), (x - mean) W_skip is added to what is decoded.
    """

    architecture: str
    centre: Tensor | None  # (d_in,) what a transcoder's encoder subtracts
    W_skip: nn.Parameter | None
    default_lr = 1.5e-3
    default_penalty = 0.0

    def __init__(self, d_in: int, n_features: int) -> None:
        super().__init__()
        self.d_in, self.d_out, self.n_features = d_in, d_in, n_features
        self.register_buffer("centre", None)
        self.register_parameter("W_skip", None)
        self.ratio = 1.0
        self.E = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def make_transcoder(self, d_out: int, skip: bool, ratio: float) -> None:
        """Predict vectors of `d_out` numbers instead of x; with `skip`, by a matrix beside them.

        `ratio` is the constant by which targets were divided over that by which x was.
        """
        self.d_out, self.ratio = d_out, ratio
        self.W_dec = nn.Parameter(torch.zeros(self.n_features, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.register_buffer("centre", torch.zeros(self.d_in))
        if skip:
            self.W_skip = nn.Parameter(torch.zeros(self.d_in, d_out))

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
    def initialise_transcoder(self, x: Tensor, target: Tensor, generator: torch.Generator) -> None:
        """Set random unit encoder rows, each decoder row to the direction that its own predicts.

        That is the row's image under the linear map of least squares (with a ridge of a thousandth
        of the variance) from x (n, d_in) to the targets (n, d_out). b_dec is the targets' mean, and
        W_skip is 0 (Paulo et al. 2025, arXiv 2501.18823).
        """
        assert self.centre is not None, "make_transcoder was not called"
        mean_in, mean = x.mean(0), target.mean(0)
        self.centre.copy_(mean_in)
        self.b_dec.copy_(mean)
        rows = torch.randn(self.n_features, self.d_in, generator=generator)
        self.E.copy_(rows / rows.norm(dim=1, keepdim=True))
        z = (x - mean_in).double()
        ridge = 1e-3 * len(z) * z.square().mean() * torch.eye(self.d_in, dtype=torch.float64)
        linear = torch.linalg.solve(z.T @ z + ridge, z.T @ (target - mean).double())
        images = (self.E.double() @ linear).float()
        self.W_dec.copy_(images / images.norm(dim=1, keepdim=True).clamp(min=1e-8))

    @torch.no_grad()
    def compute_sparse_biases(self, sample: Tensor) -> Tensor:
        """Return encoder biases (F,) with which START_L0 features fire on a vector.

        Every feature fires on the same share of `sample` (n, D), at most a half (Anthropic 2025,
        "Circuits Updates - January 2025"). With biases of 0 half of all features fire; a penalty
        needs hundreds of steps to silence them, which distorts what they learn
        (docs/experiments.md). Each bias is halfway between two pre-activations of the sample, so
        that none is 0 but for its rounding.
        """
        n, centred = len(sample), sample - (self.b_dec if self.centre is None else self.centre)
        place = max(1, round(n * (1 - min(0.5, START_L0 / self.n_features))))
        biases = []
        for rows in torch.split(self.E, ROWS):
            pre = rows @ centred.T
            below, above = (pre.kthvalue(p, dim=1).values for p in (place, min(n, place + 1)))
            biases.append((below + above) / -2)
        return torch.cat(biases)

    # ------------------------------------------------------------ a step

    def plain_loss(
        self, x: Tensor, penalty: float, dead: Tensor, target: Tensor | None = None
    ) -> TrainingLoss:
        """Return the paper's loss on x (B, D), in plain autograd; a transcoder's on `target`."""
        raise NotImplementedError

    def training_loss(
        self,
        x: Tensor,
        penalty: float,
        dead: Tensor,
        dtype: torch.dtype = torch.float32,
        target: Tensor | None = None,
    ) -> TrainingLoss:
        """Return `plain_loss`; a fused pass that overrides this may multiply in `dtype`."""
        return self.plain_loss(x, penalty, dead, target)

    def take_apart(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (x, the target) as the fused passes take them.

        A transcoder's x is centred, and what the skip connection predicts is off its target.
        """
        if target is None or self.centre is None:
            return x, None
        x = x - self.centre
        return x, target if self.W_skip is None else target - x @ self.W_skip

    def multiply(self, x: Tensor) -> Tensor:
        """Return the product of the encoder (B, F) with x (B, D), less its centre."""
        return (x - (self.b_dec if self.centre is None else self.centre)) @ self.E.T

    def preactivate(self, x: Tensor) -> Tensor:
        """Return (x - b_dec) W_enc + b_enc (B, F) of x (B, D)."""
        return self.multiply(x) + self.b_enc

    def wanted(self, x: Tensor, target: Tensor | None) -> Tensor:
        """Return what features and b_dec are to add up to (B, d_out)."""
        apart = self.take_apart(x, target)[1]
        return x if apart is None else apart

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

    def describe(self, activation: str, k: int = 0) -> SAEConfig:
        """Return the config of the finished SAE."""
        transcoder = self.centre is not None
        return SAEConfig(
            self.architecture,
            activation,
            k,
            subtract_b_dec=not transcoder,
            transcoder=transcoder,
        )

    @torch.no_grad()
    def raw_tensors(self, scale: float) -> dict[str, Tensor]:
        """Return copies of the tensors for raw x, where these read x / scale.

        A transcoder's targets were divided by `scale`, its x by `scale` / `ratio`; its centre goes
        into b_enc and, with a skip connection, into b_dec.
        """
        W_enc: Tensor = self.E.T * self.ratio
        b_enc: Tensor = self.b_enc
        b_dec: Tensor = self.b_dec
        tensors: dict[str, Tensor] = {}
        if self.centre is not None:
            b_enc = b_enc - self.centre @ self.E.T
        if self.centre is not None and self.W_skip is not None:
            b_dec = b_dec - self.centre @ self.W_skip
            tensors["W_skip"] = self.W_skip * self.ratio
        tensors |= {
            "W_enc": W_enc.contiguous(),
            "b_enc": b_enc * scale,
            "W_dec": self.W_dec.clone(),
            "b_dec": b_dec * scale,
        }
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def auxk(sae: Untied, x: Tensor, error: Tensor, dead: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Return AuxK (Gao et al. 2024, appendix A.2).

    The D / 2 largest pre-activations of the `dead` features (n,) reconstruct the `error` (B, D)
    that the others leave. The loss is the share of that error which remains, times 1/32. It reaches
    the encoder of the dead.
    """
    if not len(dead):
        return 0.0
    if sae.centre is None:
        pre = encode(x, sae.E[dead], sae.b_enc[dead], sae.b_dec, dtype)
    else:
        pre = encode(x, sae.E[dead], sae.b_enc[dead], sae.centre, dtype)
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

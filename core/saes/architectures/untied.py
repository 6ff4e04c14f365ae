"""What architectures with separate encoder and decoder share: the four tensors, their start, the decoder's unit rows, and AuxK."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.saes.kernels import decode, encode, largest

AUX_WEIGHT = 1 / 32
START_L0 = 32  # features that fire on a vector at the first step, where `quiet_biases` sets them


class Untied(nn.Module):
    """Weights E (F, D), the transpose of W_enc because gradients come that way, b_enc (F,), W_dec (F, D) with unit rows, b_dec (D,)."""

    architecture: str
    default_rate = 1.5e-3
    default_penalty = 0.0

    def __init__(self, d_in: int, n_features: int):
        super().__init__()
        self.d_in, self.n_features = d_in, n_features
        self.E = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Unit decoder rows at random, encoder the same, decoder bias the data's mean (D,)."""
        directions = torch.randn(self.n_features, self.d_in, generator=generator)
        self.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
        self.E.copy_(self.W_dec)
        self.b_dec.copy_(mean)

    def start(self, sample: Tensor) -> None:
        pass

    @torch.no_grad()
    def quiet_biases(self, sample: Tensor) -> Tensor:
        """Encoder biases (F,) at which every feature fires on one and the same share of `sample` (n, D), and START_L0 of them on a vector (at most
        half of all), after Anthropic 2025 ("Circuits Updates - January 2025"). With biases of 0 half of all features fire, and a penalty
        needs hundreds of steps to silence them, which distorts what they learn (docs/experiments.md). Each is halfway between two
        pre-activations of the sample, so that none is 0 but for its rounding."""
        n, centred = len(sample), sample - self.b_dec
        place = max(1, round(n * (1 - min(0.5, START_L0 / self.n_features))))
        biases = []
        for rows in self.E.split(2048):
            pre = rows @ centred.T
            below, above = (pre.kthvalue(p, dim=1).values for p in (place, min(n, place + 1)))
            biases.append((below + above) / -2)
        return torch.cat(biases)

    @torch.no_grad()
    def before_step(self) -> None:
        """Take out of the decoder's gradient what would only change a row's length."""
        self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def after_step(self) -> None:
        """Decoder rows have unit length."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-8))

    @torch.no_grad()
    def tensors(self, scale: float) -> dict[str, Tensor]:
        """The four tensors for raw x, when these read x / scale."""
        found = {
            "W_enc": self.E.T.contiguous(),
            "b_enc": self.b_enc * scale,
            "W_dec": self.W_dec.clone(),
            "b_dec": self.b_dec * scale,
        }
        return {name: tensor.cpu() for name, tensor in found.items()}


def auxk(sae: Untied, x: Tensor, error: Tensor, dead: Tensor, dtype: torch.dtype) -> Tensor | float:
    """AuxK (Gao et al. 2024, appendix A.2): the D / 2 largest pre-activations of `dead` features (n,) reconstruct the `error` (B, D) that the
    others leave; the loss is their share of that error, times 1/32. It reaches the encoder of the dead."""
    if not len(dead):
        return 0.0
    pre = encode(x, sae.E[dead], sae.b_enc[dead], sae.b_dec, dtype)
    places = largest(pre.detach(), min(sae.d_in // 2, len(dead)))[1]
    f = torch.zeros_like(pre).scatter(1, places, pre.gather(1, places).relu())
    left = error.detach()
    return (
        AUX_WEIGHT
        * (decode(f, sae.W_dec[dead], dtype)[0] - left).square().mean()
        / left.square().mean().clamp(min=1e-12)
    )


def check_k(k: int, n_features: int) -> None:
    if not 1 <= k <= n_features:
        raise UsageError(
            f"k is {k} for {n_features} features.", f"Use --k between 1 and {n_features}."
        )

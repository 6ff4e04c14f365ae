"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations fire.

    f = ReLU(top_k(W_enc (x - b_dec) + b_enc))        x_hat = f W_dec + b_dec

Trained on activations divided by one constant scale; `fold_scale` takes it into the weights, so that a stored TopK SAE reads raw
activations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.saes.protocol import TrainingLoss


class TopK(nn.Module):
    """Weights W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,) and k."""

    architecture = "topk"
    default_rate = 1.5e-3

    def __init__(self, d_in: int, n_features: int, k: int):
        super().__init__()
        if not 1 <= k <= n_features:
            raise UsageError(f"k is {k} for {n_features} features.", f"Use --k between 1 and {n_features}.")
        self.d_in, self.n_features, self.k = d_in, n_features, k
        self.W_enc = nn.Parameter(torch.zeros(d_in, n_features))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator) -> None:
        """Unit decoder rows at random, encoder their transpose, decoder bias the data's mean (D,)."""
        directions = torch.randn(self.n_features, self.d_in, generator=generator)
        self.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
        self.W_enc.copy_(self.W_dec.T)
        self.b_dec.copy_(mean)

    def preactivations(self, x: Tensor) -> Tensor:
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(activations (..., k), features (..., k)); fewer than k of them are above zero where pre-activations are negative."""
        values, features = self.preactivations(x.to(self.W_enc.dtype)).topk(self.k, dim=-1, sorted=False)
        return values.relu(), features

    def encode(self, x: Tensor) -> Tensor:
        values, features = self.encode_sparse(x)
        return torch.zeros(*x.shape[:-1], self.n_features, dtype=values.dtype, device=x.device).scatter_(-1, features, values)

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.W_dec + self.b_dec

    def edit(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """Needs the whole encoder: only then is it known whether a feature is among the k."""
        values_k, features_k = self.encode_sparse(x.float())
        current = (values_k[..., None] * (features_k[..., None] == features.to(x.device))).sum(-2)
        return (values - current) @ self.W_dec[features]

    def training_loss(self, x: Tensor, penalty: float, dead: Tensor) -> TrainingLoss:
        """Mean squared error per vector and dimension, plus AuxK: the D / 2 largest pre-activations of *dead* features (F,) bool
        reconstruct the error that the others leave, with weight 1/32 on its share of that error (Gao et al. 2024, appendix A.2).
        `penalty` is not used."""
        pre = self.preactivations(x)
        values, features = pre.topk(self.k, dim=-1, sorted=False)
        f = torch.zeros_like(pre).scatter_(-1, features, values.relu())
        error = x - self.decode(f).float()
        reconstruction = error.square().mean()
        fired = torch.zeros(self.n_features, dtype=torch.bool, device=x.device)
        fired[features[values > 0]] = True
        total = reconstruction
        if n_dead := int(dead.sum()):
            index = dead.nonzero()[:, 0]
            chosen, place = pre[:, index].topk(min(self.d_in // 2, n_dead), dim=-1, sorted=False)
            f_dead = torch.zeros(len(x), n_dead, dtype=pre.dtype, device=x.device).scatter_(-1, place, chosen.relu())
            left = error.detach()
            total = total + (f_dead @ self.W_dec[index] - left).square().mean() / left.square().mean().clamp(min=1e-12) / 32
        return TrainingLoss(total, reconstruction.detach(), torch.zeros(()), (values > 0).sum() / len(x), fired)

    @torch.no_grad()
    def before_step(self) -> None:
        """Take out of the decoder's gradient what would only change a row's length."""
        self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def after_step(self) -> None:
        """Decoder rows have unit length."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-8))

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Make an SAE that was trained on x / scale read raw x; activations and biases of the encoder are then in raw units."""
        self.b_enc.mul_(scale)
        self.b_dec.mul_(scale)

    def settings(self) -> dict:
        return {"d_in": self.d_in, "n_features": self.n_features, "k": self.k}

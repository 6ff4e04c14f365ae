"""The one form that every trained or published SAE takes when it is used.

    u = x - mean(x)          where `centred`: a GPT-2 whose writing weights were centred when the SAE was trained
    z = u, or u scaled token by token (`norm`)
    pre = (z - b_dec) W_enc + b_enc          without b_dec where `subtract_b_dec` is False
    f = activation(pre)
    x_hat = f W_dec + b_dec, with the token's scale and mean put back

`activation` is one of

    relu         max(pre, 0)
    topk         the k largest of pre, then ReLU
    topk_signed  the k largest of pre by absolute value, sign kept
    groupmax     ReLU, then the largest of each of k contiguous groups of features
    jumprelu     ReLU(pre) where pre > threshold
    gated        ReLU(r (pre - b_enc) + b_mag) where pre > 0; r and b_mag are `gate_scale` and `gate_bias`

Constant input scaling is folded into the weights, so f is in the SAE's own units on raw activations; a scale that depends on the token
cannot be folded, so `decode` needs the vectors that f came from. Directions are rows of W_dec (F, D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.saes.kernels import largest

ACTIVATIONS = ("relu", "topk", "topk_signed", "groupmax", "jumprelu", "gated")
NORMS = ("none", "layer_norm", "constant_norm")
EXTRAS = {
    "jumprelu": ("threshold",),
    "gated": ("gate_scale", "gate_bias"),
}  # tensors (F,) beside the four that all have
EPSILON = 1e-5  # added to the standard deviation by `layer_norm` on the way in, not on the way out


@dataclass(frozen=True)
class SAEConfig:
    """What, beside the tensors, an SAE is: see the module's docstring. `name` is the architecture as its authors call it."""

    name: str
    activation: str
    k: int = 0
    norm: str = "none"
    subtract_b_dec: bool = True
    centred: bool = False


def check_shapes(tensors: dict[str, Tensor]) -> None:
    """Raises UsageError where a tensor does not fit W_dec (F, D)."""
    if tensors["W_dec"].ndim != 2:
        raise UsageError(
            f"W_dec has shape {tuple(tensors['W_dec'].shape)} where (features, width) is asked for.",
            "Load a whole SAE.",
        )
    n_features, d_in = tensors["W_dec"].shape
    shapes = {"W_enc": (d_in, n_features), "W_dec": (n_features, d_in), "b_dec": (d_in,)}
    for name, tensor in tensors.items():
        shape = shapes.get(name, (n_features,))
        if tensor.shape != shape:
            raise UsageError(
                f"{name} has shape {tuple(tensor.shape)} where the decoder asks for {shape}.",
                "Load a whole SAE.",
            )


class SAE(nn.Module):
    """A sparse autoencoder for use: W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,), without gradients."""

    def __init__(self, form: SAEConfig, tensors: dict[str, Tensor]):
        """Raises UsageError for a form that does not exist and for tensors that do not fit it or each other."""
        super().__init__()
        wanted = {"W_enc", "b_enc", "W_dec", "b_dec", *EXTRAS.get(form.activation, ())}
        if form.activation not in ACTIVATIONS or form.norm not in NORMS:
            raise UsageError(
                f"An SAE with activation {form.activation!r} and normalisation {form.norm!r} is not known.",
                "Load another one.",
            )
        if tensors.keys() != wanted:
            raise UsageError(
                f"A {form.activation} SAE has tensors {sorted(wanted)}; found {sorted(tensors)}.",
                "Load a whole SAE.",
            )
        check_shapes(tensors)
        self.form, self.n_features, self.d_in = form, *tensors["W_dec"].shape
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float())
        if (
            self.is_sparse
            and not 1 <= form.k <= self.n_features
            or form.activation == "groupmax"
            and self.n_features % form.k
        ):
            raise UsageError(
                f"k is {form.k} for {self.n_features} features.",
                "k must be between 1 and the number of features, and divide it for groupmax.",
            )

    @property
    def architecture(self) -> str:
        return self.form.name

    @property
    def is_sparse(self) -> bool:
        """Whether at most k features fire on a token by construction, so that `encode_sparse` works."""
        return self.form.activation in ("topk", "topk_signed", "groupmax")

    # ------------------------------------------------------------ forward

    def encode(self, x: Tensor) -> Tensor:
        """Activations f (..., F) of raw vectors x (..., D)."""
        if self.is_sparse:
            values, features = self.encode_sparse(x)
            return torch.zeros(
                *x.shape[:-1], self.n_features, dtype=values.dtype, device=x.device
            ).scatter_(-1, features, values)
        return self._activate(self.read(x) @ self.W_enc, slice(None))

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(activations (..., k), features (..., k)) where k bounds what can fire; some activations may be 0."""
        pre = self.read(x) @ self.W_enc + self.b_enc
        k = self.form.k
        if self.form.activation == "groupmax":
            values, place = pre.relu().unflatten(-1, (k, -1)).max(-1)
            return values, place + torch.arange(
                0, self.n_features, self.n_features // k, device=x.device
            )
        if self.form.activation == "topk_signed":
            features = pre.abs().topk(k, dim=-1, sorted=False).indices
            return pre.gather(-1, features), features
        values, features = largest(pre.reshape(-1, self.n_features), k)
        return values.reshape(*pre.shape[:-1], k), features.reshape(*pre.shape[:-1], k)

    def above(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """(pre-activations (B, F), what they must exceed to fire), where that is all there is to firing; else None. A firing's activation is
        then its pre-activation, and no dense matrix of activations is made."""
        if self.form.activation not in ("relu", "jumprelu"):
            return None
        floor = (
            self.threshold.clamp(min=0)
            if self.form.activation == "jumprelu"
            else self.b_enc.new_zeros(())
        )
        return torch.addmm(self.b_enc, self.read(x), self.W_enc), floor

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstructions (..., D), raw, of activations f (..., F). `x` (..., D) are the raw vectors that f came from; only an SAE that
        scales or centres each token needs them, and raises ValueError without."""
        out = f @ self.W_dec + self.b_dec
        if not self.per_token:
            return out
        if x is None:
            raise ValueError(
                f"a {self.form.norm} SAE scales every token: decode needs the vectors that it encoded"
            )
        mean, scale = self._statistics(x.float())
        return out * scale + mean

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x), x)

    def edit(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """What to add to raw x (..., D) so that `features` (m,) have activations `values` (..., m): delta (..., D), float32.

        The SAE's error at x is kept: only the difference that the edited features make is added. Where every feature decides for
        itself whether it fires, only their own columns are read.
        """
        return self.editor(features)(x, values)

    def editor(self, features: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """`edit` for `features` (m,), for many uses: their rows and columns are taken out once."""
        current, directions = self._reader(features), self.W_dec[features]

        def edit(x: Tensor, values: Tensor) -> Tensor:
            delta = (values - current(x)) @ directions
            return delta * self._statistics(x.float())[1] if self.form.norm != "none" else delta

        return edit

    def _reader(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """What gives activations (..., m) of `features` (m,) alone, for x (..., D)."""
        if self.is_sparse and (self.form.activation != "topk" or len(features) > 4):
            return lambda x: self.encode(x)[..., features]
        columns, bias = self.W_enc[:, features], self.b_enc[features]
        if not self.is_sparse:
            return lambda x: self._activate(self.read(x) @ columns, features)

        def current(x: Tensor) -> Tensor:
            z = self.read(x)
            own = z @ columns + bias
            if own.device.type == "cpu" and own.max() <= 0:
                return torch.zeros_like(
                    own
                )  # as nearly always when one token is generated: no other feature need be looked at
            pre = z @ self.W_enc + self.b_enc
            own = pre[..., features]
            larger = torch.stack(
                [(pre > own[..., i, None]).sum(-1) for i in range(len(features))], -1
            )  # cheaper than finding the k largest
            return own.relu() * (larger < self.form.k)

        return current

    @property
    def per_token(self) -> bool:
        """Whether decoding needs the vectors that were encoded."""
        return self.form.norm != "none" or self.form.centred

    def _statistics(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """(what is added, what is multiplied) to bring a reconstruction back to the token it is of; each (..., 1)."""
        mean = (
            x.mean(-1, keepdim=True) if self.form.centred or self.form.norm == "layer_norm" else 0.0
        )
        if self.form.norm == "layer_norm":
            return mean, (x - mean).std(-1, keepdim=True)
        if self.form.norm == "constant_norm":
            return mean, (x - mean).norm(dim=-1, keepdim=True) / self.d_in**0.5
        return mean, 1.0

    def read(self, x: Tensor) -> Tensor:
        """What the encoder's matrix multiplies, (..., D), of raw vectors x (..., D)."""
        z = x.to(self.W_enc.dtype)
        if self.per_token:
            mean, scale = self._statistics(z)
            z = (z - mean) / (scale + EPSILON if self.form.norm == "layer_norm" else scale)
        return z - self.b_dec if self.form.subtract_b_dec else z

    def _activate(self, product: Tensor, features: Tensor | slice) -> Tensor:
        """Activations of `features` whose products with W_enc are given, for activations that look at one feature alone."""
        pre = product + self.b_enc[features]
        if self.form.activation == "jumprelu":
            return pre.relu() * (pre > self.threshold[features])
        if self.form.activation == "gated":
            return (product * self.gate_scale[features] + self.gate_bias[features]).relu() * (
                pre > 0
            )
        return pre.relu()

    # ------------------------------------------------------------ files

    def settings(self) -> dict:
        return asdict(self.form)

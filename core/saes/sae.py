"""A sparse autoencoder in use: one form for every SAE, trained or published.

    u = x - mean(x)          where `centred`: training centred the writing weights of GPT-2
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
    gated        ReLU(r (pre - b_enc) + b_mag) where pre > 0; r, b_mag: `gate_scale`, `gate_bias`

A transcoder (Dunefsky et al. 2024, arXiv 2406.11944) reads at one site and predicts another: its
x_hat (d_out) stands for the activations at `site_out`. With W_skip (d_in, d_out), x W_skip is added
to x_hat (Paulo et al. 2025, arXiv 2501.18823). With `norm` it scales what it reads alone. One layer
of a cross-layer transcoder (Ameisen et al. 2025, "Circuit Tracing") reads at one site and writes at
several: W_dec holds the sum of what a feature writes, and there is nothing that f alone decodes to.

Constant input scaling is folded into the weights, so f is in the SAE's own units on raw
activations. A scale that depends on the token cannot be folded, so `decode` then needs the vectors
that f came from. Directions are rows of W_dec (F, D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UsageError
from core.records import Site
from core.saes.selection import largest
from core.saes.shapes import check_shapes

ACTIVATIONS = ("relu", "topk", "topk_signed", "groupmax", "jumprelu", "gated")
NORMS = ("none", "layer_norm", "constant_norm")
LAYOUTS = ("own", "saelens")  # that `SAE.save` writes
EXTRAS = {  # tensors (F,) beside the four that every SAE has
    "jumprelu": ("threshold",),
    "gated": ("gate_scale", "gate_bias"),
}
EPSILON = 1e-5  # `layer_norm` adds it to the standard deviation when encoding, not when decoding


@dataclass(frozen=True)
class SAEConfig:
    """Everything that defines an SAE beside its tensors; the module's docstring has the formulas.

    `name` is the architecture as its authors call it.
    """

    name: str
    activation: str
    k: int = 0
    norm: str = "none"
    subtract_b_dec: bool = True
    centred: bool = False
    transcoder: bool = False  # it predicts another site than it reads
    cross_layer: bool = False  # a transcoder whose features write at several sites


@dataclass(frozen=True)
class ClampEdit:
    """An edit of the activations at `site` that sets SAE features; see `SAE.clamp`."""

    site: Site | None  # None where the SAE does not say which site it reads
    targets: Tensor  # (m,) activations, SAE units
    change: Callable[[Tensor, Tensor], Tensor]  # (x (..., D), activations) -> delta (..., D)

    def __call__(self, hidden: Tensor, editable: Tensor) -> Tensor:
        """Return hidden (R, T, D) in float32, changed where `editable` (R, T) is True."""
        x = hidden.float()
        return torch.where(editable[..., None], x + self.change(x, self.targets), x)


class SAE(nn.Module):
    """A sparse autoencoder without gradients: W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,).

    `site`, `subject` and `context` say what the SAE reads: a site of a subject (its name on the
    hub), in rows of `context` tokens. `source` says where it was loaded from. Each is None, "" or 0
    where that is not known. `bos` is False where the rows that it was trained on began without BOS.
    A transcoder reads at `site` and writes at `site_out`; for any other SAE the two are the same.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    gate_scale: Tensor
    gate_bias: Tensor
    W_skip: Tensor
    bos: bool = True

    def __init__(
        self,
        config: SAEConfig,
        tensors: dict[str, Tensor],
        site: Site | None = None,
        subject: str = "",
        context: int = 0,
        source: str = "",
        site_out: Site | None = None,
    ) -> None:
        """Raise UsageError for an unknown config and for tensors that do not fit it or each other.

        The tensors are converted to float32; float32 tensors share their memory with the SAE.
        """
        super().__init__()
        _check_config(config, tensors)
        self.config = config
        self.site, self.subject, self.context, self.source = site, subject, context, source
        self.site_out = site_out if config.transcoder else site
        self.n_features, self.d_out = tensors["W_dec"].shape
        self.d_in = len(tensors["W_enc"])
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float())

    @property
    def architecture(self) -> str:
        """The architecture as its authors call it."""
        return self.config.name

    @property
    def site_in(self) -> Site | None:
        """Where it reads; another name of `site`."""
        return self.site

    @property
    def has_skip(self) -> bool:
        """Whether part of what it decodes bypasses the features."""
        return "W_skip" in self._buffers

    @property
    def is_sparse(self) -> bool:
        """Whether at most k features fire on a token by construction; `encode_sparse` needs it."""
        return self.config.activation in ("topk", "topk_signed", "groupmax")

    @property
    def per_token(self) -> bool:
        """Whether decoding needs the vectors that were encoded."""
        return self.scales_output or self.config.centred or self.has_skip

    @property
    def scales_output(self) -> bool:
        """Whether what it decodes is scaled token by token."""
        return self.config.norm != "none" and not self.config.transcoder

    # ------------------------------------------------------------ files

    @classmethod
    def load(cls, spec: str | Path) -> SAE:
        """Load an SAE in float32 from any known layout, ours or a published one.

        `spec` is a file or a folder, or `hf:owner/repo[/folder][@revision]`. Raises UsageError for
        an unknown layout or an SAE that cannot be loaded as its authors meant it, and NotReady when
        the hub cannot be reached.
        """
        from core.saes.formats import load

        return load(spec)

    def save(self, folder: str | Path, layout: str = "own") -> None:
        """Write the SAE into `folder`, where `SAE.load` finds it again.

        `own` writes sae.safetensors; `saelens` writes cfg.json and sae_weights.safetensors as
        SAELens 6 reads them. Raises UsageError for an unknown layout and for an SAE that SAELens
        cannot describe.
        """
        from core.saes.checkpoint import save_own
        from core.saes.formats.saelens_save import save_saelens

        if layout not in LAYOUTS:
            raise UsageError(f"There is no layout {layout!r}.", f"Use {' or '.join(LAYOUTS)}.")
        (save_own if layout == "own" else save_saelens)(self, Path(folder))

    def with_origin(
        self, site: Site | None, subject: str, context: int, site_out: Site | None = None
    ) -> SAE:
        """Return an SAE on the same tensors that says it reads `site` of `subject`.

        A transcoder predicts `site_out`; None leaves the one that it says now.
        """
        tensors = dict(self.named_buffers())
        place = site_out or self.site_out
        made = SAE(self.config, tensors, site, subject, context, self.source, place)
        made.bos = self.bos
        return made

    # ------------------------------------------------------------ forward

    def encode(self, x: Tensor) -> Tensor:
        """Return activations f (..., F) of raw vectors x (..., D)."""
        if self.is_sparse:
            values, features = self.encode_sparse(x)
            shape = (*x.shape[:-1], self.n_features)
            f = torch.zeros(shape, dtype=values.dtype, device=x.device)
            return f.scatter_(-1, features, values)
        return self._activate(self.prepare(x) @ self.W_enc, slice(None))

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (activations (..., k), features (..., k)) of an SAE in which at most k fire.

        Some activations may be 0.
        """
        pre = self.prepare(x) @ self.W_enc + self.b_enc
        k = self.config.k
        if self.config.activation == "groupmax":
            values, place = pre.relu().view(*pre.shape[:-1], k, -1).max(-1)
            starts = torch.arange(0, self.n_features, self.n_features // k, device=x.device)
            return values, place + starts
        if self.config.activation == "topk_signed":
            features = pre.abs().topk(k, dim=-1, sorted=False).indices
            return pre.gather(-1, features), features
        values, features = largest(pre.reshape(-1, self.n_features), k)
        return values.reshape(*pre.shape[:-1], k), features.reshape(*pre.shape[:-1], k)

    def preactivate(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return (pre-activations (B, F), the floor that they must exceed to fire), or None.

        A firing's activation is then its pre-activation, so that no dense matrix of activations is
        needed. None where firing depends on more than such a floor.
        """
        if self.config.activation == "jumprelu":
            floor = self.threshold.clamp(min=0)
        elif self.config.activation == "relu":
            floor = self.b_enc.new_zeros(())
        else:
            return None
        return torch.addmm(self.b_enc, self.prepare(x), self.W_enc), floor

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Return raw reconstructions (..., d_out) of activations f (..., F).

        `x` (..., d_in) are the raw vectors that f came from. Only an SAE that scales or centres
        each token, or has a skip connection, needs them; it raises ValueError without them.
        """
        self.check_decodes()
        out = f @ self.W_dec + self.b_dec
        if not self.per_token:
            return out
        if x is None:
            raise ValueError(
                f"a {self.config.norm} SAE scales or centres every token, or has a skip: "
                "decode needs the encoded vectors"
            )
        if self.has_skip:
            out = out + x.to(out.dtype) @ self.W_skip
        if self.config.transcoder:
            return out
        mean, scale = self._statistics(x.float())
        return out * scale + mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstructions (..., D) of raw x (..., D)."""
        return self.decode(self.encode(x), x)

    def prepare(self, x: Tensor) -> Tensor:
        """Return what the encoder's matrix multiplies (..., D): raw x (..., D), normalised."""
        z = x.to(self.W_enc.dtype)
        if self.config.norm != "none" or self.config.centred:
            mean, scale = self._statistics(z)
            z = (z - mean) / (scale + EPSILON if self.config.norm == "layer_norm" else scale)
        return z - self.b_dec if self.config.subtract_b_dec else z

    def token_scale(self, x: Tensor) -> Tensor:
        """Return what the directions of each token of x (..., D) are multiplied by (..., 1)."""
        scale = self._statistics(x.float())[1] if self.scales_output else 1.0
        return torch.ones_like(x[..., :1], dtype=torch.float32) * scale

    def _statistics(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the (mean, scale) (..., 1) that bring a reconstruction back to its token."""
        centre = self.config.centred or self.config.norm == "layer_norm"
        mean = x.mean(-1, keepdim=True) if centre else 0.0
        if self.config.norm == "layer_norm":
            return mean, (x - mean).std(-1, keepdim=True)
        if self.config.norm == "constant_norm":
            norm: Tensor = (x - mean).norm(dim=-1, keepdim=True)
            return mean, norm / self.d_in**0.5
        return mean, 1.0

    def _activate(self, product: Tensor, features: Tensor | slice) -> Tensor:
        """Return activations of `features` from their products with W_enc.

        For activations that look at one feature alone.
        """
        pre = product + self.b_enc[features]
        if self.config.activation == "jumprelu":
            return pre.relu() * (pre > self.threshold[features])
        if self.config.activation == "gated":
            magnitude = product * self.gate_scale[features] + self.gate_bias[features]
            return magnitude.relu() * (pre > 0)
        return pre.relu()

    # ------------------------------------------------------------ edits

    def clamp(self, values: dict[int, float]) -> ClampEdit:
        """Return an edit that sets features to `values` (SAE units), for `Subject.generate`.

        The SAE's error is kept: only the difference that the features make is added. Raises
        UsageError for a feature that the SAE does not have, and for a transcoder, whose clamp needs
        two sites: `core.clamps.clamp.clamp_edit` makes it, and `Study.clamp` applies it.
        """
        self.check_one_site("this edit of one place")
        self.check_features(values)
        targets = torch.tensor(list(values.values()), dtype=torch.float32, device=self.b_dec.device)
        return ClampEdit(
            self.site, targets, self.editor(torch.tensor(list(values), dtype=torch.long))
        )

    def check_one_site(self, what: str) -> None:
        """Raise UsageError for a transcoder: `what` needs an SAE that writes where it reads."""
        if self.config.transcoder:
            raise UsageError(
                f"It is a transcoder: it reads {self.site or 'one site'} and writes at "
                f"{self.site_out or 'another'}; {what} needs one site.",
                "Make a run with --site and --site-out: its stages and clamps take both.",
            )

    def check_decodes(self) -> None:
        """Raise UsageError for one layer of a cross-layer transcoder."""
        if self.config.cross_layer:
            raise UsageError(
                "It is one layer of a cross-layer transcoder: its features write at several sites, "
                "and features of other layers write there too.",
                "index, effects, cluster, label, score and text take it; the others need a whole "
                "SAE or transcoder.",
            )

    def check_features(self, features: Any) -> None:
        """Raise UsageError where an iterable of feature numbers holds one that does not exist."""
        unknown = [feature for feature in features if not 0 <= feature < self.n_features]
        if unknown:
            raise UsageError(
                f"There is no feature {max(unknown)}.",
                f"The SAE has features 0 to {self.n_features - 1}.",
            )

    def edit(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """Return the delta (..., D) that gives `features` (m,) the activations `values` (..., m).

        Add it to raw x (..., D); it is float32. A transcoder takes x (..., d_in) from the site that
        it reads, and its delta is to be added at the site that it predicts. The SAE's error is
        kept: only the difference that the edited features make is added. Where every feature
        decides for itself whether it fires, only their own columns are read.
        """
        return self.editor(features)(x, values)

    def editor(self, features: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `edit` for fixed `features` (m,): their rows and columns are taken out once."""
        self.check_decodes()
        read, directions = self._reader(features), self.W_dec[features]

        def edit(x: Tensor, values: Tensor) -> Tensor:
            delta = (values - read(x)) @ directions
            return delta * self._statistics(x.float())[1] if self.scales_output else delta

        return edit

    def edit_each(self, x: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """Return the deltas (m, T, d_out) of x (T, D) that `edit` gives for each feature alone.

        Delta i gives features[i] (m,) the activation values[i] (m,).
        """
        change = values[:, None] - self.encode(x)[:, features].T  # (m, T)
        delta = change[..., None] * self.W_dec[features][:, None]
        return delta * self._statistics(x.float())[1] if self.scales_output else delta

    def _reader(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function from x (..., D) to the activations (..., m) of `features` (m,)."""
        if self.is_sparse and (self.config.activation != "topk" or len(features) > 4):
            return lambda x: self.encode(x)[..., features]
        columns, bias = self.W_enc[:, features], self.b_enc[features]
        if not self.is_sparse:
            return lambda x: self._activate(self.prepare(x) @ columns, features)

        def read(x: Tensor) -> Tensor:
            z = self.prepare(x)
            own = z @ columns + bias
            if own.device.type == "cpu" and not (own > 0).any():
                # nearly always so for one generated token: no other feature need be computed
                return torch.zeros_like(own)
            pre = z @ self.W_enc + self.b_enc
            own = pre[..., features]
            # counting the larger ones is cheaper than finding the k largest
            larger = [(pre > own[..., i, None]).sum(-1) for i in range(len(features))]
            return own.relu() * (torch.stack(larger, -1) < self.config.k)

        return read


def _check_config(config: SAEConfig, tensors: dict[str, Tensor]) -> None:
    wanted = {"W_enc", "b_enc", "W_dec", "b_dec", *EXTRAS.get(config.activation, ())}
    if config.activation not in ACTIVATIONS or config.norm not in NORMS:
        raise UsageError(
            f"There is no SAE with activation {config.activation!r} "
            f"and normalisation {config.norm!r}.",
            "Load another one.",
        )
    if tensors.keys() - {"W_skip"} != wanted:
        raise UsageError(
            f"A {config.activation} SAE has tensors {sorted(wanted)}; found {sorted(tensors)}.",
            "Load a whole SAE.",
        )
    check_shapes(tensors, config.transcoder)
    if config.transcoder and (
        config.subtract_b_dec or config.norm == "layer_norm" or config.centred
    ):
        raise UsageError(
            "A transcoder that centres what it reads is not known.", "Load another one."
        )
    if config.cross_layer and (not config.transcoder or "W_skip" in tensors):
        raise UsageError(
            "A cross-layer SAE that is no transcoder, or has a skip connection, is not known.",
            "Load another one.",
        )
    if "W_skip" in tensors and (config.norm != "none" or config.centred):
        raise UsageError(
            "A skip connection beside scaled or centred tokens is not known.", "Load another one."
        )
    n_features = len(tensors["W_dec"])
    sparse = config.activation in ("topk", "topk_signed", "groupmax")
    if (sparse and not 1 <= config.k <= n_features) or (
        config.activation == "groupmax" and n_features % config.k
    ):
        raise UsageError(
            f"k is {config.k} for {n_features} features.",
            "k must be between 1 and the number of features, and divide it for groupmax.",
        )

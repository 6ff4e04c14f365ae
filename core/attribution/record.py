"""The record of an attribution: what made a logit, part by part, and what ablation measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Firing:
    """One feature at one token, and what it does to the logit."""

    feature: int
    position: int  # among the prompt's tokens, the first of the row left out
    activation: float  # SAE units
    attribution: float  # logits: ablating it is predicted to change the logit by minus this
    change: float | None = None  # measured when it alone is ablated, logits; None: not ablated


@dataclass(frozen=True)
class Together:
    """Firings that were ablated together."""

    which: str  # strongest, random, all
    firings: int
    predicted: float  # change of the logit, logits: minus the sum of their attributions
    change: float  # measured


@dataclass(frozen=True)
class Likely:
    """One of the likeliest next tokens."""

    token: str
    probability: float


@dataclass(frozen=True)
class Edge:
    """What one firing adds to the attribution of another run's firing further on, to first order.

    `weight` (logits) is the upstream firing's activation times the gradient, along its direction,
    of what the downstream firing adds to the logit. `lower` and `upper` are runs.
    """

    lower: str
    lower_feature: int
    lower_position: int
    upper: str
    upper_feature: int
    upper_position: int
    weight: float


@dataclass(frozen=True)
class Attribution:
    """Why a prompt's next token is what it is, see `core.attribution.attribute.attribute`.

    `logit` is that of `token` at the prompt's end, minus that of `against` where there is one. It
    equals the attributions of all firings plus `errors`, `bias`, `skip`, `first` and `rest`.
    """

    prompt: str
    tokens: tuple[str, ...]  # (T - 1,) of the prompt, the first of the row left out
    token: str
    against: str  # "" where the logit is of one token
    logit: float
    probability: float  # of `token`
    site: str
    firings: tuple[Firing, ...]  # every one, largest attribution by absolute value first
    errors: tuple[float, ...]  # (T - 1,) what the SAE does not reconstruct at each token, logits
    bias: float  # the decoder's bias, and what is put back of a token's mean, over all tokens
    first: float  # the first position of the row
    rest: float  # constants behind the site, and what is not linear in the site's activations
    gap: float  # sum of the parts minus gradient times activations: rounding alone
    strongest: int  # the first firings so many were ablated
    random: tuple[int, ...]  # places in `firings` of the random ones that were ablated
    together: tuple[Together, ...]
    rank_correlation: float | None  # Spearman, predicted with measured, over the single ablations
    steps: int  # gradients averaged; 1: the gradient at the prompt itself
    labels: Mapping[int, str] = field(default_factory=dict)
    skip: float = 0.0  # what a transcoder's skip connection writes, over all tokens
    likeliest: tuple[Likely, ...] = ()  # of the next tokens, whatever was asked about
    run: str = ""  # whose SAE it is
    also: tuple[Attribution, ...] = ()  # of the same logit, to the features of other runs
    edges: tuple[Edge, ...] = ()  # between the strongest firings of the runs, largest first

    def label(self, feature: int) -> str:
        """Return the feature's label, or ""."""
        return self.labels.get(feature, "")

    @property
    def features(self) -> float:
        """The sum of all firings' attributions, logits."""
        return sum(f.attribution for f in self.firings)

    def to_dict(self) -> dict[str, Any]:
        """Return what --json prints."""
        table = asdict(self) | {"features": self.features}
        table["firings"] = [f | {"label": self.label(f["feature"])} for f in table["firings"]]
        table["also"] = [other.to_dict() for other in self.also]
        del table["labels"]
        return table

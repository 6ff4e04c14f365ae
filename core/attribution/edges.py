"""Edges between the features of SAEs at several sites of one subject.

A firing j at a later site adds a_j = f_j s_j (g . d_j) to the logit, with g the logit's gradient
where its SAE writes. To first order a firing i at an earlier site, which writes f_i s_i d_i there,
adds to that

    edge(i, j) = f_i s_i d_i . grad(f_j) s_j (g . d_j)

where grad(f_j) is the gradient of j's activation at the earlier site (Marks et al. 2024, arXiv
2403.19647, section 3.2: the product of an upstream feature's activation, the downstream feature's
gradient and the metric's). While j fires its activation is linear in what its SAE's encoder is
given, so which others are among the k largest does not enter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.attribution.attribute import Traced
from core.subject.next_token import last_logits
from core.subject.subject import Subject


def compute_edges(
    subject: Subject, lower: Traced, upper: Traced, n: int
) -> npt.NDArray[np.float64] | None:
    """Return edges (n upper, n lower) between the `n` strongest firings of two traced SAEs.

    A row is a firing of `upper`, a column one of `lower`. Fewer where fewer fire. None where what
    `lower` writes does not reach what `upper` reads.
    """
    slopes = differentiate(subject, lower, upper, upper.order[:n])
    if slopes is None:
        return None
    chosen = torch.from_numpy(lower.order[:n].copy())
    positions, written = lower.parts.where[0][chosen], lower.parts.written[chosen]
    edges = torch.stack([(slope[positions] * written).sum(-1) for slope in slopes])
    return edges.double().cpu().numpy()


def differentiate(
    subject: Subject, lower: Traced, upper: Traced, firings: npt.NDArray[np.int64]
) -> list[Tensor] | None:
    """Return, for each of `firings` of `upper`, the gradient (T, D) of what it adds to the logit.

    The gradient is at the site where `lower` writes. None where that is not in front of the site
    that `upper` reads.
    """
    added = torch.zeros_like(lower.parts.x)[None].requires_grad_()
    seen: list[Tensor] = []

    def add(hidden: Tensor) -> Tensor:
        return (hidden.float() + added).to(hidden.dtype)

    def see(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    with torch.enable_grad():
        last_logits(subject, torch.tensor([lower.ids]), [(lower.place, add), (upper.site, see)])
        if not firings.size or not seen[0].requires_grad:
            return None
        z = upper.sae.prepare(seen[0][0].float())
        slopes = []
        for firing in firings.tolist():
            t, feature = (int(index[firing]) for index in upper.parts.where)
            # the decoder's row with the token's scale, and what a unit of it adds to the logit
            unit = upper.parts.written[firing] / upper.parts.f[t, feature]
            gain = float(upper.gradient[t] @ unit) * _magnification(upper, feature)
            own = gain * (z[t] @ upper.sae.W_enc[:, feature])
            slopes.append(torch.autograd.grad(own, added, retain_graph=True)[0][0])
    return slopes


def _magnification(upper: Traced, feature: int) -> float:
    """Return the slope of a firing's activation in its product with the encoder."""
    return float(upper.sae.gate_scale[feature]) if upper.sae.config.activation == "gated" else 1.0

"""Clamp features while the subject runs, and measure what that does.

A clamp is a pure edit: x + sae.edit(x, ...), so the SAE's error at x stays and nothing else changes. The difference is computed in
float32 and added once. It holds at every position but the first of a row (an attention sink, where a clamp wrecks everything) and at
every generated token, through the KV cache. Clamping a feature to its own value changes nothing.

Baseline and clamped continuations use the same uniform numbers, so what differs is the clamp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Clamp, Site
from core.saes import SAE
from core.subject import Edit, Subject


def resolve(clamps: list[Clamp], maxima: dict[int, float]) -> list[Clamp]:
    """Clamps with values in SAE units; `maxima` holds each feature's largest activation. Raises UsageError for a relative clamp of a
    feature that never fired, and for two clamps of one feature."""
    if len({c.feature for c in clamps}) < len(clamps):
        raise UsageError("One feature is clamped twice.", "Give each feature one clamp.")
    out = []
    for clamp in clamps:
        if clamp.relative and not maxima.get(clamp.feature):
            raise UsageError(f"Feature {clamp.feature} never fired, so it has no maximum.", f"Give a value in SAE units: --set {clamp.feature}=3.0")
        out.append(replace(clamp, value=clamp.value * maxima[clamp.feature], relative=False) if clamp.relative else clamp)
    return out


def clamp_edit(sae: SAE, clamps: list[Clamp]) -> Edit:
    """The edit of resolved `clamps`: (hidden (R, T, D), editable (R, T)) -> hidden (R, T, D) float32."""
    features = torch.tensor([c.feature for c in clamps])

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        x = hidden.float()
        delta = sae.edit(x, features, target_values(sae, clamps, features, x))
        return torch.where(editable[..., None], x + delta, x)

    return edit


def target_values(sae: SAE, clamps: list[Clamp], features: Tensor, x: Tensor) -> Tensor:
    """Activations (..., m) that the clamps ask for at x (..., D)."""
    if all(c.mode in ("set", "ablate") for c in clamps):
        return torch.tensor([c.value if c.mode == "set" else 0.0 for c in clamps], device=x.device)
    current = sae.encode(x)[..., features]
    columns = []
    for i, clamp in enumerate(clamps):
        now = current[..., i]
        columns.append({
            "set": lambda now, v: torch.full_like(now, v), "ablate": lambda now, v: torch.zeros_like(now),
            "max": lambda now, v: now.clamp(min=v), "add": lambda now, v: now + v, "scale": lambda now, v: now * v,
        }[clamp.mode](now, clamp.value))  # fmt: skip
    return torch.stack(columns, -1)


def random_edit(sae: SAE, clamps: list[Clamp], seed: int) -> Edit:
    """A control: at each position a fixed random direction with the length of the difference that the clamps would make there."""
    inner = clamp_edit(sae, clamps)
    direction = torch.nn.functional.normalize(torch.randn(sae.d_in, generator=torch.Generator().manual_seed(seed)), dim=0)

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        length = (inner(hidden, editable) - hidden.float()).norm(dim=-1, keepdim=True)
        return hidden.float() + length * direction.to(hidden.device)

    return edit


# ---------------------------------------------------------------- paired texts


@dataclass(frozen=True)
class Pair:
    prompt: str
    seed: int
    baseline: str
    clamped: str


def paired(subject: Subject, site: Site, edit: Edit, prompts: list[str], n_new: int, temperature: float, seeds: list[int]) -> list[Pair]:
    """Each prompt under each seed, without and with the edit, both with the same luck."""
    every = [(p, s) for p in prompts for s in seeds]
    texts, numbers = [p for p, _ in every], [s for _, s in every]
    plain = subject.generate(texts, n_new, site, temperature=temperature, seeds=numbers)
    edited = subject.generate(texts, n_new, site, temperature=temperature, seeds=numbers, edit=edit)
    return [Pair(p, s, a.text, b.text) for (p, s), a, b in zip(every, plain, edited, strict=True)]


# ---------------------------------------------------------------- dose and response


@dataclass(frozen=True)
class Response:
    """What one dose does to the subject's predictions on fixed text, as means over positions."""

    dose: float  # multiples of the feature's maximum
    kl: float  # nats a token, KL(baseline || clamped)
    target: float  # change of the log-probability of the target tokens together, nats
    control_kl: float  # the same two for a random direction of the same length
    control_target: float


@torch.inference_mode()
def dose_response(
    subject: Subject, site: Site, sae: SAE, feature: int, maximum: float, doses: list[float], rows: Tensor, targets: list[int], seed: int
) -> list[Response]:
    """Responses to setting `feature` to each dose x `maximum`, on token ids rows (R, T) without padding; `targets` are token ids."""
    clean = subject.logits(rows).log_softmax(-1)[:, 1:]
    base = clean[..., targets].logsumexp(-1)

    def measure(edit: Edit) -> tuple[float, float]:
        new = subject.logits(rows, site, edit).log_softmax(-1)[:, 1:]
        kl = (clean.exp() * (clean - new)).sum(-1).mean()
        return float(kl), float((new[..., targets].logsumexp(-1) - base).mean())

    out = []
    for dose in doses:
        clamps = [Clamp(feature, "set", dose * maximum)]
        out.append(Response(dose, *measure(clamp_edit(sae, clamps)), *measure(random_edit(sae, clamps, seed))))
    return out

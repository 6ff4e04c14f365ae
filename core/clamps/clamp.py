"""Clamp features while the subject runs, and measure what that does.

A clamp is a pure edit: x + sae.edit(x, ...), so the SAE's error at x stays and nothing else changes. The difference is computed in
float32 and added once. It holds at every position but the first of a row (an attention sink, where a clamp wrecks everything) and at
every generated token, through the KV cache; or only in the prompt, on what is generated, or on tokens that a pattern matches. Clamping a feature to its own value changes nothing.

Baseline and clamped continuations use the same uniform numbers, so what differs is the clamp.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Clamp, Site
from core.saes import SAE
from core.subject.decoding import Edit, Generation, Where
from core.subject.subject import Subject

POSITIONS = ("all", "prompt", "generated")


def resolve(clamps: list[Clamp], maxima: dict[int, float]) -> list[Clamp]:
    """Clamps with values in SAE units; `maxima` holds each feature's largest activation. Raises UsageError for a relative clamp of a
    feature that never fired, and for two clamps of one feature."""
    if len({c.feature for c in clamps}) < len(clamps):
        raise UsageError("One feature is clamped twice.", "Give each feature one clamp.")
    out = []
    for clamp in clamps:
        if clamp.relative and not maxima.get(clamp.feature):
            raise UsageError(
                f"Feature {clamp.feature} never fired, so it has no maximum.",
                f"Give a value in SAE units: --set {clamp.feature}=3.0",
            )
        out.append(
            replace(clamp, value=clamp.value * maxima[clamp.feature], relative=False)
            if clamp.relative
            else clamp
        )
    return out


def clamp_edit(sae: SAE, clamps: list[Clamp]) -> Edit:
    """The edit of resolved `clamps`: (hidden (R, T, D), editable (R, T)) -> hidden (R, T, D) float32."""
    features, constant = (
        torch.tensor([c.feature for c in clamps]),
        all(c.mode in ("set", "ablate") for c in clamps),
    )
    difference, fixed = (
        sae.editor(features),
        target_values(sae, clamps, features, sae.b_dec) if constant else None,
    )

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        x = hidden.float()
        delta = difference(x, target_values(sae, clamps, features, x) if fixed is None else fixed)
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


def directed_edit(edit: Edit, directions: Tensor) -> Edit:
    """A control of equal norm: where `edit` would make a difference, one of its length along the row's own unit direction of (R, D)."""

    def control(hidden: Tensor, editable: Tensor) -> Tensor:
        length = (edit(hidden, editable) - hidden.float()).norm(dim=-1, keepdim=True)
        return hidden.float() + length * directions[:, None].to(hidden.device)

    return control


def random_directions(n: int, width: int, seed: int) -> Tensor:
    """Unit directions (n, width), float32."""
    return torch.nn.functional.normalize(
        torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def timed(edit: Edit | None, seconds: float) -> Edit:
    """`edit`, or none, that ends the work with a UsageError once `seconds` from now are over."""
    until = time.monotonic() + seconds

    def checked(hidden: Tensor, editable: Tensor) -> Tensor:
        if time.monotonic() > until:
            raise UsageError(
                f"It took longer than {seconds:g} seconds.", "Ask for fewer tokens or samples."
            )
        return hidden if edit is None else edit(hidden, editable)

    return checked


# ---------------------------------------------------------------- positions


def where_to_clamp(subject: Subject, positions: str = "all", pattern: str = "") -> Where | None:
    """Where a clamp holds: at `all` positions, in the `prompt`, or on `generated` tokens; with a `pattern`, only on tokens whose text
    it matches (a regular expression, anywhere in the token). None stands for everywhere."""
    if positions not in POSITIONS:
        raise UsageError(f"There are no positions {positions!r}.", f"Use {', '.join(POSITIONS)}.")
    if positions == "all" and not pattern:
        return None
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is not a regular expression: {error}.",
            "Give one that is matched against the text of each token, such as ^ def$.",
        ) from None
    matching = torch.tensor(
        [bool(found.search(text)) for text in subject.token_texts()], device=subject.device
    )
    if not matching.any():
        raise UsageError(
            f"No token of the subject matches {pattern!r}.",
            "A pattern is matched against one token at a time, leading space included.",
        )

    def where(tokens: Tensor, generated: bool) -> Tensor:
        here = positions == "all" or generated == (positions == "generated")
        return matching[tokens] & here

    return where


# ---------------------------------------------------------------- paired texts


@dataclass(frozen=True)
class Pair:
    prompt: str
    seed: int
    baseline: str
    clamped: str


@dataclass(frozen=True)
class Sampling:
    """What is written: each prompt under each seed, `tokens` long."""

    prompts: list[str]
    tokens: int = 40
    temperature: float = 0.7
    seeds: tuple[int, ...] = (0, 1)

    @property
    def every(self) -> list[tuple[str, int]]:
        return [(p, s) for p in self.prompts for s in self.seeds]


@dataclass(frozen=True)
class Edits:
    """An edit at the run's site, where it holds, and edits at other sites."""

    edit: Edit | None
    where: Where | None = None
    also: tuple[tuple[Site, Edit], ...] = ()


def written(
    subject: Subject, site: Site, writing: Sampling, edits: Edits = Edits(None)
) -> list[Generation]:  # noqa: B008 - frozen
    """A continuation of each prompt under each seed."""
    texts, numbers = [p for p, _ in writing.every], [s for _, s in writing.every]
    return subject.generate(
        texts,
        writing.tokens,
        site,
        temperature=writing.temperature,
        seeds=numbers,
        edit=edits.edit,
        where=edits.where,
        also=edits.also,
    )


def paired(
    subject: Subject, site: Site, edits: Edits, writing: Sampling, seconds: float = math.inf
) -> list[Pair]:
    """Each prompt under each seed, without and with the edits, both with the same luck; UsageError after `seconds`."""
    every = writing.every
    plain = written(subject, site, writing, Edits(timed(None, seconds)))
    edited = written(subject, site, writing, replace(edits, edit=timed(edits.edit, seconds)))
    return [Pair(p, s, a.text, b.text) for (p, s), a, b in zip(every, plain, edited, strict=True)]

"""Clamp features while the subject runs.

A clamp is a pure edit: x + sae.edit(x, ...), so the SAE's error at x stays and nothing else
changes. The difference is computed in float32 and added once. It holds at every position but the
first of a row (an attention sink, where a clamp wrecks everything) and at every generated token,
through the KV cache; or only in the prompt, on what is generated, or on tokens that a pattern
matches. Clamping a feature to its own value changes nothing.

Baseline and clamped continuations use the same random seeds, so they differ by the clamp alone.
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
from core.subject.tap import Tap

POSITIONS = ("all", "prompt", "generated")


def resolve(clamps: list[Clamp], maxima: dict[int, float]) -> list[Clamp]:
    """Return the clamps with values in SAE units; `maxima` are each feature's largest activation.

    Raises UsageError for a relative clamp of a feature that never fired, and for two clamps of one
    feature.
    """
    if len({c.feature for c in clamps}) < len(clamps):
        raise UsageError("One feature is clamped twice.", "Give each feature one clamp.")
    resolved = []
    for clamp in clamps:
        if clamp.relative and not maxima.get(clamp.feature):
            raise UsageError(
                f"Feature {clamp.feature} never fired, so it has no maximum.",
                f"Give a value in SAE units: --set {clamp.feature}=3.0",
            )
        if clamp.relative:
            clamp = replace(clamp, value=clamp.value * maxima[clamp.feature], relative=False)
        resolved.append(clamp)
    return resolved


def clamp_edit(sae: SAE, clamps: list[Clamp], tap: Tap | None = None) -> Edit:
    """Return the edit of resolved `clamps`.

    The edit maps (hidden (R, T, D), editable (R, T)) to hidden (R, T, D) float32. That of a
    transcoder holds at the site that it predicts, and `tap` sees what it reads; without one it
    raises UsageError.
    """
    if tap is None:
        sae.check_one_site("this edit of one place")
    if tap is None and _are_constant(clamps):
        return sae.clamp({c.feature: _constant_value(c) for c in clamps})
    features = torch.tensor([c.feature for c in clamps])
    change = sae.editor(features)

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        h = hidden.float()
        x = h if tap is None else tap.hidden.float()
        delta = change(x, target_values(sae, clamps, features, x))
        return torch.where(editable[..., None], h + delta, h)

    return edit


def target_values(sae: SAE, clamps: list[Clamp], features: Tensor, x: Tensor) -> Tensor:
    """Return the activations (..., m) that the clamps ask for at x (..., D)."""
    if _are_constant(clamps):
        return torch.tensor([_constant_value(c) for c in clamps], device=x.device)
    now = sae.encode(x)[..., features]
    return torch.stack([_target(clamp, now[..., i]) for i, clamp in enumerate(clamps)], -1)


def _are_constant(clamps: list[Clamp]) -> bool:
    """Return whether no clamp depends on the feature's own activation."""
    return all(clamp.mode in ("set", "ablate") for clamp in clamps)


def _constant_value(clamp: Clamp) -> float:
    return clamp.value if clamp.mode == "set" else 0.0


def _target(clamp: Clamp, now: Tensor) -> Tensor:
    """Return the activations that one clamp asks for where they are `now`."""
    if clamp.mode == "max":
        return now.clamp(min=clamp.value)
    if clamp.mode == "add":
        return now + clamp.value
    if clamp.mode == "scale":
        return now * clamp.value
    return torch.full_like(now, _constant_value(clamp))


def directed_edit(edit: Edit, directions: Tensor) -> Edit:
    """Return a norm-matched control of `edit`.

    It replaces the edit's change by a vector of the same length along a given unit direction, one
    for each row: `directions` (R, D).
    """

    def control(hidden: Tensor, editable: Tensor) -> Tensor:
        change = edit(hidden, editable) - hidden.float()
        length: Tensor = change.norm(dim=-1, keepdim=True)
        return hidden.float() + length * directions[:, None].to(hidden.device)

    return control


def random_directions(n: int, width: int, seed: int) -> Tensor:
    """Return random unit directions (n, width), float32."""
    drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def limit_time(edit: Edit | None, seconds: float) -> Edit:
    """Return `edit` (None: no change) that raises UsageError `seconds` from now or later."""
    until = time.monotonic() + seconds

    def check_and_edit(hidden: Tensor, editable: Tensor) -> Tensor:
        if time.monotonic() > until:
            raise UsageError(
                f"It took longer than {seconds:g} seconds.", "Ask for fewer tokens or samples."
            )
        return hidden if edit is None else edit(hidden, editable)

    return check_and_edit


# ---------------------------------------------------------------- positions


def where_to_clamp(subject: Subject, positions: str = "all", pattern: str = "") -> Where | None:
    """Return where a clamp holds; None means everywhere.

    `positions` are `all`, those of the `prompt`, or `generated` ones. With a `pattern`, only tokens
    whose text it matches (a regular expression, anywhere in the token). Raises UsageError for other
    positions, and for a pattern that cannot be read or matches no token.
    """
    if positions not in POSITIONS:
        raise UsageError(f"There are no positions {positions!r}.", f"Use {', '.join(POSITIONS)}.")
    if positions == "all" and not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{pattern!r} is not a regular expression: {error}.",
            "Give one that is matched against the text of each token, such as ^ def$.",
        ) from None
    matches = [bool(compiled.search(text)) for text in subject.token_texts()]
    matching = torch.tensor(matches, device=subject.device)
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
    """One prompt's generated text, without and with a clamp, from one seed."""

    prompt: str
    seed: int
    baseline: str
    clamped: str


@dataclass(frozen=True)
class Sampling:
    """What is generated: `tokens` tokens for each prompt and each seed."""

    prompts: list[str]
    tokens: int = 40
    temperature: float = 0.7
    seeds: tuple[int, ...] = (0, 1)

    @property
    def every(self) -> list[tuple[str, int]]:
        """Each prompt with each seed."""
        return [(p, s) for p in self.prompts for s in self.seeds]


@dataclass(frozen=True)
class Edits:
    """An edit at the run's site, where it holds, and edits at other sites."""

    edit: Edit | None
    where: Where | None = None
    also: tuple[tuple[Site, Edit], ...] = ()


NO_EDITS = Edits(None)


def generate_texts(
    subject: Subject, site: Site, sampling: Sampling, edits: Edits = NO_EDITS
) -> list[Generation]:
    """Generate a continuation of each prompt from each seed."""
    return subject.generate(
        [prompt for prompt, _ in sampling.every],
        sampling.tokens,
        site,
        temperature=sampling.temperature,
        seeds=[seed for _, seed in sampling.every],
        edit=edits.edit,
        where=edits.where,
        also=edits.also,
    )


def generate_pairs(
    subject: Subject, site: Site, edits: Edits, sampling: Sampling, seconds: float = math.inf
) -> list[Pair]:
    """Generate each prompt's texts without and with the edits, from the same random seeds.

    Raises UsageError after `seconds`.
    """
    plain = generate_texts(subject, site, sampling, Edits(limit_time(None, seconds)))
    limited = replace(edits, edit=limit_time(edits.edit, seconds))
    edited = generate_texts(subject, site, sampling, limited)
    return [
        Pair(prompt, seed, a.text, b.text)
        for (prompt, seed), a, b in zip(sampling.every, plain, edited, strict=True)
    ]

"""Attribute the logit of a prompt's next token to features at tokens, and check it by ablation.

Let L be the logit, or the difference of two, and g (T, D) its gradient at the site. A feature that
fires at a token with activation f and writes f s d there (d its decoder direction, s the scale of
the token) has the attribution f s (g . d): activation times the gradient along its direction
(Templeton et al. 2024, "Scaling Monosemanticity", attributions; Marks et al. 2024,
arXiv 2403.19647, eq. 2, the indirect effect of a feature to first order). The activations at the
site are the sum of what features write, the decoder's bias and the SAE's error, so that

    g . x = features + bias + errors + first position        and        L = g . x + rest

where the rest holds constants behind the site and all that is not linear. A transcoder reads x at
one site and writes at another: x is then what the subject computes where it writes, and with a skip
connection what that writes is a part of its own. With `steps` above 1, g
is the mean of gradients on the straight line from all firings ablated to the prompt as it is
(integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365, which Marks et al. also use), and
the attributions of all firings add up to what ablating them all changes, however curved L is.

An ablation takes f s d away at its token and leaves all else at the site as it was, other features
and the SAE's error included; `sae.edit` to 0 does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor

from core.activations.tokenize import spell_prompt
from core.attribution.record import Attribution, Firing, Likely, Together
from core.errors import UsageError
from core.records import Site
from core.saes import SAE
from core.subject.next_token import find_token, last_logits
from core.subject.subject import Subject
from core.subject.texts import known_site

BATCH_TOKENS = 2048  # of the rows that are read in one pass
N_LIKELIEST = 6  # next tokens that a record names
LIKE = 10  # firings of nearest size among which a random one is drawn


@dataclass(frozen=True)
class Question:
    """What is asked of a prompt's end.

    `token` "" is the most probable token; with `against` the logit's difference is attributed.
    `top` firings are ablated, and as many random ones. `at` asks about what follows one token of
    the prompt, counted without the first of the row: `token` "" is then the token that stands
    there, and nothing behind it is read.
    """

    token: str = ""
    against: str = ""
    top: int = 10
    steps: int = 1
    seed: int = 0
    at: int | None = None


class Ending:
    """The logit of one token at a prompt's end, or a difference of two, as a function of what is
    added at a site.
    """

    def __init__(self, subject: Subject, site: Site, ids: list[int], token: int, against: int):
        """`against` is -1 where nothing is subtracted."""
        self.subject, self.site, self.tokens = subject, site, torch.tensor([ids])
        self.token, self.against = token, against

    def logit(self, added: Tensor) -> Tensor:
        """Return the logit (R,) where `added` (R, T, D) is added to the site's activations."""
        logits = last_logits(
            self.subject,
            self.tokens.expand(len(added), -1),
            [(self.site, lambda hidden: (hidden.float() + added).to(hidden.dtype))],
        )
        chosen = logits[:, self.token]
        return chosen if self.against < 0 else chosen - logits[:, self.against]

    def gradient(self, added: Tensor) -> Tensor:
        """Return the gradient (T, D) of the logit, a mean over the rows of `added` (R, T, D)."""
        total = torch.zeros_like(added[0])
        for part in added.split(self._rows(added)):
            part = part.clone().requires_grad_()
            with torch.enable_grad():
                slope = torch.autograd.grad(self.logit(part).sum(), part)[0]
            total += slope.sum(0)
        return total / len(added)

    @torch.no_grad()
    def measure(self, added: Tensor) -> Tensor:
        """Return `logit` (R,) on the CPU, some rows at a time."""
        return torch.cat([self.logit(part) for part in added.split(self._rows(added))]).cpu()

    def _rows(self, added: Tensor) -> int:
        return max(1, BATCH_TOKENS // added.shape[1])


class Beginning(NamedTuple):
    """What is read before the token that is asked about, and that token; -1: the likeliest."""

    ids: list[int]
    text: str
    token: int


@dataclass(frozen=True)
class Parts:
    """The activations where an SAE writes, taken apart: m firings, bias and error of each token.

    The first position of the row is in `x` alone.
    """

    x: Tensor  # (T, D)
    f: Tensor  # (T, F), 0 at the first position
    where: tuple[Tensor, Tensor]  # (m,) position in the row, (m,) feature of each firing
    written: Tensor  # (m, D) what each firing adds to x
    bias: Tensor  # (T, D), 0 at the first position
    error: Tensor  # (T, D), 0 at the first position
    skip: Tensor  # (T, D), 0 without a skip connection and at the first position

    def removal(self, firings: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Return what ablates these firings together (T, D)."""
        chosen = torch.as_tensor(firings, dtype=torch.long, device=self.x.device)
        out = torch.zeros_like(self.x)
        return out.index_add_(0, self.where[0][chosen], -self.written[chosen])


@dataclass(frozen=True)
class Traced:
    """An attribution as tensors."""

    site: Site  # where the SAE reads
    place: Site  # where it writes
    sae: SAE
    ids: list[int]  # (T,)
    parts: Parts
    gradient: Tensor  # (T, D) of the logit where it writes
    order: npt.NDArray[np.int64]  # (m,) firings of `parts`, largest attribution first


@torch.no_grad()
def take_apart(sae: SAE, x: Tensor, written_at: Tensor | None = None) -> Parts:
    """Take the activations x (T, D) of one row apart.

    A transcoder reads x and writes at another site, whose activations are `written_at` (T, d_out).
    """
    f = sae.encode(x)
    f[0] = 0
    bias = sae.decode(torch.zeros_like(f), x)
    skip = x @ sae.W_skip if sae.has_skip else torch.zeros_like(bias)
    bias = bias - skip
    y = x if written_at is None else written_at
    rows, columns = f.nonzero(as_tuple=True)
    where = (rows, columns)
    written = f[where][:, None] * sae.token_scale(x)[where[0]] * sae.W_dec[where[1]]
    features = torch.zeros_like(y).index_add_(0, where[0], written)
    error = y - features - bias - skip
    bias[0], error[0], skip[0] = 0, 0, 0
    return Parts(y, f, where, written, bias, error, skip)


def read_parts(subject: Subject, site: Site, sae: SAE, ids: list[int]) -> tuple[Site, Parts]:
    """Return (where the SAE writes, the activations there taken apart) for one row of tokens.

    `site` is the one that it reads. Raises UsageError for a transcoder that does not say where it
    writes.
    """
    tokens = torch.tensor([ids])
    if not sae.config.transcoder:
        return site, take_apart(sae, subject.read(site, tokens)[0].clone().float())
    place = known_site(sae.site_out)
    x, y = (h[0].clone().float() for h in subject.read_sites([site, place], tokens))
    return place, take_apart(sae, x, y)


def attribute(
    subject: Subject, site: Site, sae: SAE, prompt: str, question: Question
) -> Attribution:
    """Attribute the logit that `question` asks about, and ablate what it is attributed to.

    `site` is where the SAE reads. Raises UsageError for a prompt shorter than two tokens or longer
    than the subject's context, and for a `token` or `against` that is not one token, or the same
    one.
    """
    return trace(subject, site, sae, prompt, question)[0]


def trace(
    subject: Subject, site: Site, sae: SAE, prompt: str, question: Question
) -> tuple[Attribution, Traced]:
    """Return what `attribute` returns, and what edges to other sites are computed from."""
    begun = read_prompt(subject, prompt, question)
    ids = begun.ids
    place, parts = read_parts(subject, site, sae, ids)
    ending, next_probabilities = _ask(subject, place, begun, question)
    x, gradient = parts.x, _gradient(ending, parts, question.steps)
    attributions = (gradient[parts.where[0]] * parts.written).sum(-1).double().cpu().numpy()
    order = np.argsort(-np.abs(attributions), kind="stable")
    errors = (gradient * parts.error).sum(-1).double()
    bias = float((gradient * parts.bias).sum(-1).double().sum())
    first = float((gradient[0] * x[0]).double().sum())
    skip = float((gradient * parts.skip).sum(-1).double().sum())
    total = float(attributions.sum() + errors.sum()) + bias + skip + first
    logit = float(ending.measure(torch.zeros_like(x)[None])[0])
    texts = subject.token_texts()
    found = Attribution(
        prompt=begun.text,
        tokens=tuple(spell_prompt(subject, prompt)[1 : len(ids)]),
        token=texts[ending.token],
        against=texts[ending.against] if ending.against >= 0 else "",
        logit=logit,
        probability=float(next_probabilities[ending.token]),
        site=str(place),
        firings=_firings(parts, attributions, order),
        errors=tuple(errors[1:].tolist()),
        bias=bias,
        skip=skip,
        first=first,
        rest=logit - total,
        gap=total - float((gradient.double() * x.double()).sum()),
        strongest=min(question.top, len(order)),
        random=(),
        together=(),
        rank_correlation=None,
        steps=question.steps,
        likeliest=_likeliest(next_probabilities, texts),
    )
    found = _ablate(found, ending, parts, order, question.seed)
    return found, Traced(site, place, sae, ids, parts, gradient, order)


def read_prompt(subject: Subject, prompt: str, question: Question) -> Beginning:
    """Return what is read of the prompt; raises UsageError for a question that cannot be asked."""
    begun = Beginning(subject.prompt_tokens(prompt), prompt, -1)
    if question.at is not None:
        begun = _cut_behind(subject, begun.ids, question.at)
    ids = begun.ids
    if len(ids) < 2:
        raise UsageError(
            "The prompt is shorter than two tokens, and the first position of a row never fires.",
            "Give a longer prompt.",
        )
    if len(ids) > subject.context:
        raise UsageError(
            f"The prompt has {len(ids)} tokens; the subject reads {subject.context}.",
            "Give a shorter prompt.",
        )
    if question.top < 1 or question.steps < 1:
        raise UsageError(
            f"{question.top} ablations and {question.steps} steps cannot be made.",
            "Give 1 or more of each.",
        )
    return begun


def _cut_behind(subject: Subject, ids: list[int], at: int) -> Beginning:
    """Return the row (T,) up to its token `at`, the first of the row left out, and what follows."""
    if not 0 <= at < len(ids) - 1:
        raise UsageError(
            f"There is no token {at}: the prompt has {len(ids) - 1} behind the first of its row.",
            f"Give 0 to {len(ids) - 2}." if len(ids) > 1 else "Give a longer prompt.",
        )
    front = 1 if ids[0] == subject.bos else 0
    text = subject.text_after([], ids[front : at + 2])
    return Beginning(ids[: at + 2], text, ids[at + 2] if at + 2 < len(ids) else -1)


@torch.no_grad()
def _ask(
    subject: Subject, site: Site, begun: Beginning, question: Question
) -> tuple[Ending, Tensor]:
    """Return the logit to attribute as a function, and the next tokens' probabilities (V,)."""
    logits = last_logits(subject, torch.tensor([begun.ids]))[0]
    token = begun.token if begun.token >= 0 else int(logits.argmax())
    if question.token:
        token = find_token(subject, begun.text, question.token)
    against = find_token(subject, begun.text, question.against) if question.against else -1
    if token == against:
        raise UsageError(
            f"The difference of {question.against!r} to itself is 0.",
            "Give --against another token than the one that is asked about.",
        )
    return Ending(subject, site, begun.ids, token, against), logits.softmax(0)


def _likeliest(probabilities: Tensor, texts: Sequence[str]) -> tuple[Likely, ...]:
    top = probabilities.topk(min(N_LIKELIEST, len(probabilities)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(Likely(texts[i], value) for i, value in pairs)


def _gradient(ending: Ending, parts: Parts, steps: int) -> Tensor:
    """Return the gradient (T, D) at the prompt, or the mean of `steps` gradients on the way there.

    The way begins where every firing is ablated; the steps lie in the middle of equal parts of it.
    """
    if steps == 1:
        return ending.gradient(torch.zeros_like(parts.x)[None])
    ablated = parts.removal(range(len(parts.written)))
    shares = 1 - (torch.arange(steps, device=ablated.device) + 0.5) / steps
    rows = max(1, BATCH_TOKENS // len(ablated))
    means = [ending.gradient(s[:, None, None] * ablated) * len(s) for s in shares.split(rows)]
    return torch.stack(means).sum(0) / steps


def _firings(
    parts: Parts, attributions: npt.NDArray[np.float64], order: npt.NDArray[np.int64]
) -> tuple[Firing, ...]:
    positions, features = (index.tolist() for index in parts.where)
    values = parts.f[parts.where].tolist()
    return tuple(
        Firing(features[i], positions[i] - 1, values[i], float(attributions[i]))
        for i in order.tolist()
    )


# ---------------------------------------------------------------- the truth


def choose_controls(sizes: npt.NDArray[np.float64], n: int, seed: int) -> list[int]:
    """Choose, for each of the first `n` of `sizes`, a random one of the others of like size.

    It is drawn from the ten nearest in size that are not chosen yet. Fewer than `n` come back where
    there are not so many others.
    """
    rng = np.random.default_rng(seed)
    others = list(range(n, len(sizes)))
    chosen: list[int] = []
    for size in sizes[:n]:
        if not others:
            break
        others.sort(key=lambda i, size=size: abs(sizes[i] - size))  # type: ignore[misc]
        chosen.append(others.pop(int(rng.integers(min(LIKE, len(others))))))
    return chosen


def _ablate(
    found: Attribution,
    ending: Ending,
    parts: Parts,
    order: npt.NDArray[np.int64],
    seed: int,
) -> Attribution:
    """Return the attribution with what ablation measured: single ones, then groups together."""
    if not found.firings:
        return found
    n = found.strongest
    sizes = parts.written.norm(dim=-1).double().cpu().numpy()[order]
    random = choose_controls(sizes, n, seed)
    single = [*range(n), *random]
    groups = {"strongest": list(range(n)), "random": random, "all": list(range(len(order)))}
    sets = [[i] for i in single] + list(groups.values())
    measured = measure_ablations(ending, parts, [order[chosen] for chosen in sets])
    changes = (measured.double() - found.logit).tolist()
    firings = list(found.firings)
    for i, change in zip(single, changes[: len(single)], strict=True):
        firings[i] = replace(firings[i], change=change)
    predicted = [-firings[i].attribution for i in single]
    return replace(
        found,
        firings=tuple(firings),
        random=tuple(random),
        together=tuple(
            Together(which, len(chosen), -sum(firings[i].attribution for i in chosen), change)
            for (which, chosen), change in zip(groups.items(), changes[len(single) :], strict=True)
        ),
        rank_correlation=correlate_ranks(predicted, changes[: len(single)]),
    )


def measure_ablations(
    ending: Ending, parts: Parts, sets: Sequence[npt.NDArray[np.int64]]
) -> Tensor:
    """Return the logit (len(sets),) with each set of firings ablated, some at a time."""
    rows = max(1, BATCH_TOKENS // len(parts.x))
    batches = [sets[start : start + rows] for start in range(0, len(sets), rows)]
    return torch.cat([ending.measure(torch.stack([parts.removal(c) for c in b])) for b in batches])


def correlate_ranks(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None for fewer than three pairs or a constant."""
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(spearmanr(a, b).statistic)

"""Dose and response of a clamp, or of several together: what larger and larger values do, beside controls of equal norm.

A dose multiplies the value that each clamp has at dose 1: a feature's maximum where it is clamped alone (`dosed`).

Every measure is a mean over units with a 95 % t-interval over them: rows of held-out text, or prompts (their seeds averaged first).

    kl          KL(unclamped || clamped), nats a token, on held-out text
    target      change of the log-probability of the features' own tokens together, nats, on held-out text
    loss        change of the loss on those held-out tokens on which the features are silent by themselves, nats a token
    own         share of the generated tokens that are the features' own
    perplexity  of the generated text, under the unclamped subject
    distinct    distinct pairs of neighbouring tokens in the generated text, as a share of all
    found       how strongly the unclamped subject, reading the generated text, has the features: mean share of their maxima

Controls: `random_` a random direction, `feature_` the direction of a random feature of like density, both of the clamp's own length at
each position and another one in each row, so that the intervals hold the controls' variety too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from core.clamps.clamp import (
    Edits,
    Sampling,
    clamp_edit,
    directed_edit,
    random_directions,
    resolve,
    written,
)
from core.errors import UsageError
from core.records import Clamp, Site
from core.saes.architectures.protocol import SAE
from core.subject.decoding import Edit, Generation, Where
from core.subject.subject import Subject

NAMES = {"nll": "perplexity"}
SHARES = ("own", "distinct")  # an interval cannot leave 0 to 1
LEAST_DISTINCT = (
    0.5  # of the unclamped text's distinct pairs: below that a text only repeats itself
)

Units = dict[str, np.ndarray]  # of each measure, its value on every unit


@dataclass(frozen=True)
class DoseData:
    """What a dose is measured on: `rows` (R, T) token ids of held-out text behind BOS, `targets` token ids of the features' own
    tokens, `writing` of prompts from other held-out text, `others` features of like density."""

    rows: Tensor
    targets: list[int]
    writing: Sampling
    others: list[int]
    seed: int = 0


def at_dose_one(clamps: list[Clamp], maxima: dict[int, float]) -> list[Clamp]:
    """The clamps at dose 1, in SAE units: of a feature alone its maximum (of `scale` the factor 1), whatever value is given; of several features the
    values that are given. Raises UsageError for a feature that never fired, and for an ablation, which has no dose."""
    if any(clamp.mode == "ablate" for clamp in clamps):
        raise UsageError(
            "An ablation has no dose.",
            "Leave --doses out, or clamp with --set, --max, --add or --scale.",
        )
    for clamp in clamps:
        if maxima[clamp.feature] <= 0:
            raise UsageError(
                f"Feature {clamp.feature} never fired, so a dose has no unit.",
                "Choose a feature that fires.",
            )
    if len(clamps) > 1:
        return resolve(clamps, maxima)
    [clamp] = clamps
    return [
        replace(
            clamp, value=1.0 if clamp.mode == "scale" else maxima[clamp.feature], relative=False
        )
    ]


class Doses:
    """Clamps of one SAE, as they are at dose 1, on one bench; `maxima` of their features."""

    def __init__(
        self,
        subject: Subject,
        site: Site,
        sae: SAE,
        clamps: list[Clamp],
        maxima: dict[int, float],
        bench: DoseData,
        where: Where | None = None,
    ):
        self.subject, self.site, self.sae, self.bench, self.where = subject, site, sae, bench, where
        self.clamps, self.maxima = clamps, maxima
        with torch.inference_mode():
            self.clean = subject.logits(bench.rows).log_softmax(-1)
            active = (
                sae.encode(subject.read(site, bench.rows).float())[..., [c.feature for c in clamps]]
                > 0
            )
        self.silent = ~active.any(-1)[:, 1:-1].cpu()
        self.real_loss = float(
            -self.clean[:, :-1].gather(-1, bench.rows[:, 1:, None].to(self.clean.device)).mean()
        )

    def edits(self, dose: float, n: int) -> dict[str, Edit]:
        """The clamps at a dose, and their two controls for n rows."""
        own = clamp_edit(self.sae, [replace(c, value=dose * c.value) for c in self.clamps])
        others = np.random.default_rng(self.bench.seed).choice(self.bench.others, n)
        directions = torch.nn.functional.normalize(
            self.sae.W_dec.detach()[torch.from_numpy(others)].float(), dim=1
        )
        return {
            "": own,
            "random_": directed_edit(own, random_directions(n, self.sae.d_in, self.bench.seed)),
            "feature_": directed_edit(own, directions),
        }

    # ------------------------------------------------------------ measures

    @torch.inference_mode()
    def on_text(self, edit: Edit) -> Units:
        """kl, target and loss of each row (R,)."""
        new = self.subject.logits(self.bench.rows, self.site, edit, self.where).log_softmax(-1)
        behind = slice(1, None)
        kl = (self.clean.exp() * (self.clean - new))[:, behind].sum(-1).mean(1)
        moved = new[:, behind, self.bench.targets].logsumexp(-1) - self.clean[
            :, behind, self.bench.targets
        ].logsumexp(-1)
        following = self.bench.rows[:, 2:, None].to(new.device)
        loss = (self.clean - new)[:, 1:-1].gather(-1, following)[..., 0].cpu()
        neutral = torch.where(self.silent, loss, torch.zeros(())).sum(1) / self.silent.sum(
            1
        )  # 0 / 0 where it fires everywhere: NaN
        return {
            "kl": kl.cpu().numpy(),
            "target": moved.mean(1).cpu().numpy(),
            "loss": neutral.numpy(),
        }

    def on_writing(self, edit: Edit | None) -> Units:
        """nll, distinct and found of each continuation, in the order of `writing.every`; NaN for one without a token."""
        made = written(self.subject, self.site, self.bench.writing, Edits(edit, self.where))
        found = read_back(self.subject, self.site, self.sae, self.maxima, made)
        new = [g.tokens[g.n_prompt :] for g in made]
        return found | {
            "own": np.array(
                [np.isin(tokens, self.bench.targets).mean() if tokens else np.nan for tokens in new]
            )
        }

    def measure(self, doses: list[float]) -> dict:
        """{doses: a table row for each dose, unclamped: the generated text's measures without a clamp, useful and useful_found: see
        `useful_dose`, by own tokens and by what is found again}."""
        n = len(self.bench.writing.every)
        rows, raw = [], []
        plain = self.on_writing(None)
        for dose in doses:
            row, units = {"dose": dose}, {}
            for name, edit in self.edits(dose, len(self.bench.rows)).items():
                row |= summarised(self.on_text(edit), name)
            for name, edit in self.edits(dose, n).items():
                units[name] = self.on_writing(edit)
                row |= summarised(self.by_prompt(units[name]), name)
            rows.append(row)
            raw.append({name: self.by_prompt(u) for name, u in units.items()})
        plain = self.by_prompt(plain)
        useful = {
            f"useful{end}": useful_dose(doses, raw, plain, self.real_loss, by)
            for end, by in (("", "own"), ("_found", "found"))
        }
        return {"doses": rows, "unclamped": summarised(plain, ""), **useful}

    def by_prompt(self, units: Units) -> Units:
        """Means over the seeds of each prompt."""
        n = len(self.bench.writing.prompts)
        return {name: nan_mean(values.reshape(n, -1), 1) for name, values in units.items()}


@torch.inference_mode()
def read_back(
    subject: Subject, site: Site, sae: SAE, maxima: dict[int, float], made: list[Generation]
) -> Units:
    """What the unclamped subject makes of generated text: loss a token, distinct pairs, mean activation / maximum (of the features in `maxima`), of each."""
    width = max(len(g.tokens) for g in made)
    ids = torch.tensor(
        [g.tokens + [0] * (width - len(g.tokens)) for g in made]
    )  # behind a row's end nothing is looked at
    losses = subject.losses(ids).cpu()
    activations = (
        sae.encode(subject.read(site, ids).float())[..., list(maxima)].cpu()
        / torch.tensor(list(maxima.values()))
    ).mean(-1)
    out: Units = {name: np.full(len(made), np.nan) for name in ("nll", "distinct", "found")}
    for i, g in enumerate(made):
        start, end = g.n_prompt, len(g.tokens)
        if end > start:
            out["nll"][i] = float(losses[i, max(0, start - 1) : end - 1].mean())
            out["found"][i] = float(activations[i, start:end].mean())
        if end > start + 1:
            pairs = list(zip(g.tokens[start:], g.tokens[start + 1 :], strict=False))
            out["distinct"][i] = len(set(pairs)) / len(pairs)
    return out


# ---------------------------------------------------------------- statistics


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is known; NaN, without a warning, where nothing is."""
    known = ~np.isnan(values)
    return np.where(
        known.any(axis),
        np.where(known, values, 0).sum(axis) / np.maximum(known.sum(axis), 1),
        np.nan,
    )


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): a 95 % t-interval over units; NaN ends with fewer than three of them."""
    known = values[~np.isnan(values)]
    if len(known) < 3:
        return float(known.mean()) if len(known) else math.nan, math.nan, math.nan
    half = float(student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return float(known.mean()), float(known.mean()) - half, float(known.mean()) + half


def summarised(units: Units, prefix: str) -> dict:
    """PREFIX_measure, _low and _high of each; a loss becomes a perplexity by its exponential, ends included. NaN
    becomes None."""
    out = {}
    for name, values in units.items():
        change = math.exp if name == "nll" else float
        key = prefix + NAMES.get(name, name)
        for end, value in zip(("", "_low", "_high"), mean_interval(values), strict=True):
            held = min(max(value, 0.0), 1.0) if name in SHARES else min(value, 700.0)
            out[key + end] = None if math.isnan(value) else change(held)
    return out


def useful_dose(
    doses: list[float], raw: list[dict[str, Units]], plain: Units, real_loss: float, by: str = "own"
) -> dict:
    """The dose at which every other prompt's text has most of a measure beyond that of a random direction's and of the unclamped text, among the
    doses that leave it readable: no more surprising to the unclamped subject than real text is (`real_loss`, nats a token), and with at
    least half of the unclamped text's distinct pairs. And what that dose does on the prompts between them.

    `by` own: the features' own tokens, for a feature that reads one thing and writes another. `by` found: what the unclamped subject finds of
    them in the text, for a feature of a meaning, which no ten tokens tell.
    """
    seek, report = slice(0, None, 2), slice(1, None, 2)
    n = len(plain["own"])
    counts = {"sought_on": len(range(n)[seek]), "reported_on": len(range(n)[report])}
    average = lambda units, name, part: float(nan_mean(units[name][part], 0))
    readable = [
        average(r[""], "nll", seek) <= real_loss
        and average(r[""], "distinct", seek) >= LEAST_DISTINCT * average(plain, "distinct", seek)
        for r in raw
    ]
    gain = [
        average(r[""], by, seek) - max(average(r["random_"], by, seek), average(plain, by, seek))
        for r in raw
    ]
    best = max(
        (i for i, ok in enumerate(readable) if ok and gain[i] > 0),
        key=gain.__getitem__,
        default=None,
    )
    if best is None:
        return {"dose": None, **counts}
    held = {
        name: {k: v[report] for k, v in units.items()}
        for name, units in (*raw[best].items(), ("unclamped_", plain))
    }
    found = {
        key: value for name, units in held.items() for key, value in summarised(units, name).items()
    }
    return {"dose": doses[best], **counts, **found}

"""Dose and response of clamps: the effect of larger and larger values, beside controls.

A dose multiplies the value that each clamp has at dose 1: a feature's maximum where it is clamped
alone (`at_dose_one`).

Every measure is a mean over units with a 95 % t-interval over them. Units are rows of held-out
text, or prompts (their seeds averaged first).

    kl          KL(unclamped || clamped), nats per token, on held-out text
    target      change of the log-probability of the features' own tokens together, nats, on
                held-out text
    loss        change of the loss on those held-out tokens on which the features do not fire by
                themselves, nats per token
    own         share of the generated tokens that are the features' own
    perplexity  of the generated text, under the unclamped subject
    distinct    distinct pairs of neighbouring tokens in the generated text, as a share of all
    found       mean activation of the features, as a share of their maxima, when the unclamped
                subject reads the generated text

Controls: `random_` is a random direction, `feature_` the direction of a random feature of similar
density. Both have the clamp's own length at each position, and each row has another one, so that
the intervals hold the controls' variety too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t as student
from torch import Tensor

from core.clamps.clamp import (
    Edits,
    Sampling,
    clamp_edit,
    directed_edit,
    generate_texts,
    random_directions,
    resolve,
)
from core.errors import UsageError
from core.progress import progress
from core.records import Clamp, Site
from core.saes import SAE
from core.subject.decoding import Edit, Generation, Where
from core.subject.subject import Subject

NAMES = {"nll": "perplexity"}
SHARES = ("own", "distinct")  # an interval cannot leave 0 to 1
# of the unclamped text's distinct pairs: a text with fewer only repeats itself
LEAST_DISTINCT = 0.5
KEPT_PROMPTS = 3  # of those that report, whose texts at each dose are kept

Array = npt.NDArray[Any]
Units = dict[str, Array]  # each measure's value on every unit
Row = dict[str, Any]  # measures, with _low and _high


@dataclass(frozen=True)
class DoseData:
    """What a dose is measured on."""

    rows: Tensor  # (R, T) token ids of held-out text after BOS
    targets: list[int]  # token ids of the features' own tokens
    sampling: Sampling  # prompts from other held-out text
    others: list[int]  # features of similar density
    seed: int = 0


def at_dose_one(clamps: list[Clamp], maxima: dict[int, float]) -> list[Clamp]:
    """Return the clamps at dose 1, in SAE units.

    A single clamp is set to its feature's maximum (or factor 1 for `scale`), ignoring its value;
    several clamps keep their values. Raises UsageError for a feature that never fired, and for an
    ablation, which has no dose.
    """
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
    value = 1.0 if clamp.mode == "scale" else maxima[clamp.feature]
    return [replace(clamp, value=value, relative=False)]


class Doses:
    """Clamps of one SAE, as they are at dose 1, measured on `data`; `maxima` of their features."""

    def __init__(
        self,
        subject: Subject,
        site: Site,
        sae: SAE,
        clamps: list[Clamp],
        maxima: dict[int, float],
        data: DoseData,
        where: Where | None = None,
    ) -> None:
        self.subject, self.site, self.sae, self.data, self.where = subject, site, sae, data, where
        self.clamps, self.maxima = clamps, maxima
        features = [clamp.feature for clamp in clamps]
        with torch.inference_mode():
            self.clean = subject.logits(data.rows).log_softmax(-1)
            fires = sae.encode(subject.read(site, data.rows).float())[..., features] > 0
        self.silent = ~fires.any(-1)[:, 1:-1].cpu()
        following = data.rows[:, 1:, None].to(self.clean.device)
        self.real_loss = float(-self.clean[:, :-1].gather(-1, following).mean())

    def edits(self, dose: float, n: int) -> dict[str, Edit]:
        """Return the clamps at a dose, and their two controls for n rows."""
        own = clamp_edit(self.sae, [replace(c, value=dose * c.value) for c in self.clamps])
        others = np.random.default_rng(self.data.seed).choice(self.data.others, n)
        rows = self.sae.W_dec.detach()[torch.from_numpy(others)].float()
        directions = torch.nn.functional.normalize(rows, dim=1)
        return {
            "": own,
            "random_": directed_edit(own, random_directions(n, self.sae.d_in, self.data.seed)),
            "feature_": directed_edit(own, directions),
        }

    # ------------------------------------------------------------ measures

    @torch.inference_mode()
    def measure_on_text(self, edit: Edit) -> Units:
        """Return kl, target and loss of each row (R,)."""
        new = self.subject.logits(self.data.rows, self.site, edit, self.where).log_softmax(-1)
        behind, targets = slice(1, None), self.data.targets
        kl = (self.clean.exp() * (self.clean - new))[:, behind].sum(-1).mean(1)
        before = self.clean[:, behind, targets].logsumexp(-1)
        change = new[:, behind, targets].logsumexp(-1) - before
        following = self.data.rows[:, 2:, None].to(new.device)
        loss = (self.clean - new)[:, 1:-1].gather(-1, following)[..., 0].cpu()
        # 0 / 0 where the features fire everywhere: NaN
        neutral = torch.where(self.silent, loss, torch.zeros(())).sum(1) / self.silent.sum(1)
        return {
            "kl": kl.cpu().numpy(),
            "target": change.mean(1).cpu().numpy(),
            "loss": neutral.numpy(),
        }

    def generate(self, edit: Edit | None) -> list[Generation]:
        """Continue each prompt from each seed, in the order of `every`."""
        edits = Edits(edit, self.where)
        return generate_texts(self.subject, self.site, self.data.sampling, edits)

    def measure_on_generations(self, generations: list[Generation]) -> Units:
        """Return nll, distinct, found and own of each continuation.

        NaN for one without a token.
        """
        units = read_back(self.subject, self.site, self.sae, self.maxima, generations)
        new = [g.tokens[g.n_prompt :] for g in generations]
        own = [np.isin(t, self.data.targets).mean() if t else np.nan for t in new]
        return units | {"own": np.array(own)}

    def measure(self, doses: list[float]) -> dict[str, Any]:
        """Measure the clamps at each dose, beside controls.

        Returns `doses`, a table row for each dose; `dose_texts`, see `keep_texts`; `unclamped`, the
        generated text's measures without a clamp; `useful` and `useful_found`, see `useful_dose`,
        by own tokens and by what is found again.
        """
        n = len(self.data.sampling.every)
        rows: list[Row] = []
        raw: list[dict[str, Units]] = []
        written: list[dict[str, list[Generation]]] = []
        unclamped = self.generate(None)
        plain = self.average_seeds(self.measure_on_generations(unclamped))
        for dose in progress(doses, "doses", unit="dose"):
            row: Row = {"dose": dose}
            for name, edit in self.edits(dose, len(self.data.rows)).items():
                row |= summarise(self.measure_on_text(edit), name)
            units, texts = {}, {}
            for name, edit in self.edits(dose, n).items():
                texts[name] = self.generate(edit)
                units[name] = self.average_seeds(self.measure_on_generations(texts[name]))
                row |= summarise(units[name], name)
            rows.append(row)
            raw.append(units)
            written.append(texts)
        useful = {
            f"useful{end}": useful_dose(doses, raw, plain, self.real_loss, by)
            for end, by in (("", "own"), ("_found", "found"))
        }
        return {
            "doses": rows,
            "dose_texts": self.keep_texts(doses, unclamped, written),
            "unclamped": summarise(plain, ""),
            **useful,
        }

    def keep_texts(
        self,
        doses: list[float],
        unclamped: list[Generation],
        written: list[dict[str, list[Generation]]],
    ) -> list[Row]:
        """What was written from the first seed after KEPT_PROMPTS of the prompts that report.

        Each entry has prompt, baseline, and `doses`, a list of dose, clamped and random (along the
        random direction). The prompts that chose a useful dose are not shown.
        """
        every = self.data.sampling.every
        seeds = max(1, len(self.data.sampling.seeds))
        firsts = range(0, len(every), seeds)
        kept = list(firsts[1::2] or firsts)[:KEPT_PROMPTS]
        return [
            {
                "prompt": every[i][0],
                "baseline": unclamped[i].text,
                "doses": [
                    {"dose": dose, "clamped": texts[""][i].text, "random": texts["random_"][i].text}
                    for dose, texts in zip(doses, written, strict=True)
                ],
            }
            for i in kept
        ]

    def average_seeds(self, units: Units) -> Units:
        """Return the means over the seeds of each prompt."""
        n = len(self.data.sampling.prompts)
        return {name: nan_mean(values.reshape(n, -1), 1) for name, values in units.items()}


@torch.inference_mode()
def read_back(
    subject: Subject,
    site: Site,
    sae: SAE,
    maxima: dict[int, float],
    generations: list[Generation],
) -> Units:
    """Let the unclamped subject read each generated text.

    Returns the loss per token (nll), the share of distinct pairs (distinct), and the mean
    activation of the features in `maxima` as a share of their maximum (found).
    """
    width = max(len(g.tokens) for g in generations)
    # the padding behind a row's end is not looked at
    ids = torch.tensor([g.tokens + [0] * (width - len(g.tokens)) for g in generations])
    losses = subject.losses(ids).cpu()
    f = sae.encode(subject.read(site, ids).float())[..., list(maxima)].cpu()
    shares = (f / torch.tensor(list(maxima.values()))).mean(-1)
    units = {name: np.full(len(generations), np.nan) for name in ("nll", "distinct", "found")}
    for i, g in enumerate(generations):
        start, end = g.n_prompt, len(g.tokens)
        if end > start:
            units["nll"][i] = float(losses[i, max(0, start - 1) : end - 1].mean())
            units["found"][i] = float(shares[i, start:end].mean())
        if end > start + 1:
            pairs = list(zip(g.tokens[start:], g.tokens[start + 1 :], strict=False))
            units["distinct"][i] = len(set(pairs)) / len(pairs)
    return units


# ---------------------------------------------------------------- statistics


def nan_mean(values: Array, axis: int) -> Array:
    """Return the mean over what is known; NaN, without a warning, where nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis)
    mean: Array = np.where(known.any(axis), total / np.maximum(known.sum(axis), 1), np.nan)
    return mean


def mean_interval(values: Array) -> tuple[float, float, float]:
    """Return (mean, low, high): a 95 % t-interval over units.

    Its ends are NaN with fewer than three of them.
    """
    known = values[~np.isnan(values)]
    if len(known) < 3:
        return float(known.mean()) if len(known) else math.nan, math.nan, math.nan
    half = float(student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return float(known.mean()), float(known.mean()) - half, float(known.mean()) + half


def summarise(units: Units, prefix: str) -> Row:
    """Return PREFIX_measure, _low and _high of each measure.

    A loss becomes a perplexity by its exponential, ends included. NaN becomes None.
    """
    row: Row = {}
    for name, values in units.items():
        key = prefix + NAMES.get(name, name)
        for end, value in zip(("", "_low", "_high"), mean_interval(values), strict=True):
            held = min(max(value, 0.0), 1.0) if name in SHARES else min(value, 700.0)
            shown = math.exp(held) if name == "nll" else float(held)
            row[key + end] = None if math.isnan(value) else shown
    return row


def useful_dose(
    doses: list[float], raw: list[dict[str, Units]], plain: Units, real_loss: float, by: str = "own"
) -> Row:
    """Choose the dose on the even-numbered prompts and report it on the odd ones.

    The best dose maximises the measure `by`, less the larger of its two baselines (random
    direction, unclamped), among doses whose text is still fluent: no more surprising to the
    unclamped subject than real text is (`real_loss`, nats per token), and with at least half of the
    unclamped text's distinct pairs. `dose` is None where no dose beats the baselines.

    `by` own: the features' own tokens, for a feature that reads one thing and writes another. `by`
    found: what the unclamped subject finds again in the text, for a feature of a meaning, which no
    ten tokens tell.
    """
    seek, report = slice(0, None, 2), slice(1, None, 2)
    n = len(plain["own"])
    counts = {"sought_on": len(range(n)[seek]), "reported_on": len(range(n)[report])}

    def average(units: Units, name: str) -> float:
        return float(nan_mean(units[name][seek], 0))

    def gain(units: dict[str, Units]) -> float:
        baseline = max(average(units["random_"], by), average(plain, by))
        return average(units[""], by) - baseline

    def is_fluent(units: Units) -> bool:
        least = LEAST_DISTINCT * average(plain, "distinct")
        return average(units, "nll") <= real_loss and average(units, "distinct") >= least

    gains = {i: gain(units) for i, units in enumerate(raw) if is_fluent(units[""])}
    best = max((i for i in gains if gains[i] > 0), key=gains.__getitem__, default=None)
    if best is None:
        return {"dose": None, **counts}
    chosen: Row = {"dose": doses[best], **counts}
    for prefix, units in (*raw[best].items(), ("unclamped_", plain)):
        chosen |= summarise({name: values[report] for name, values in units.items()}, prefix)
    return chosen

"""Verb `compare`: did another run's SAE, on the same site, find the same features?

    match      for a feature of one run, the largest cosine of its direction with a direction of
               the other run. Their mean is the mean maximum cosine similarity of Sharkey et al.
               2022. Matches depend on how many directions there are to match with; so a null stands
               beside them: as many random directions with the other's mean and covariance.
    fidelity   each autoencoder on the held-out text of the other run, beside the other's own

Matches are computed both ways, because a larger dictionary holds a smaller one more easily than the
reverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.errors import UsageError
from core.files import write_array
from core.records import Manifest
from core.run import Run
from core.saes import SAE
from core.training.evaluate import measure_sae
from core.training.sample import draw_sample
from core.training.unit import matches_name

VERSION, BLOCK, CLOSE = 1, 4096, 0.7
TOKENS = 60_000  # held-out vectors on which fidelity is measured


def compare(run: Run, other: Run, redo: bool = False) -> Manifest:
    """Commit the unit `compare/OTHER` of `run`.

    match_there.npy (F,) holds matches of the run's features in the other, match_here.npy (G,) those
    of the other's in the run, NaN for a direction of length 0; null_there.npy and null_here.npy the
    same against random directions. Raises UsageError when the two do not read the same site of the
    same subject.
    """
    if identity_of(run) != identity_of(other):
        raise UsageError(
            f"{run.name} and {other.name} read different sites or subjects.",
            "Compare runs on one site of one subject.",
        )
    unit = f"compare/{other.name.replace('/', '-')}"
    settings = {
        "other": other.name,
        "train": other.manifest("train").key,
        "capture": other.manifest("capture").key,
    }
    work = run.begin(unit, VERSION, settings, ["capture", "train"], redo)
    if work is None:
        return run.manifest(unit)
    ours, theirs = SAE.load(run.folder("train")), SAE.load(other.folder("train"))
    summary: dict[str, Any] = {"close_at": CLOSE}
    for name, a, b in (("there", ours, theirs), ("here", theirs, ours)):
        matches = best_cosines(a.W_dec, b.W_dec)
        null = best_cosines(a.W_dec, matched_noise(b.W_dec, run.settings.seed))
        write_array(work.folder / matches_name("match", name), matches.numpy())
        write_array(work.folder / matches_name("null", name), null.numpy())
        summary[name] = summarise_cosines(matches) | {"null": summarise_cosines(null)}
    summary["fidelity"] = {
        "here": measure_both(run, ours, theirs),
        "there": measure_both(other, theirs, ours),
    }
    return work.commit(summary)


def identity_of(run: Run) -> tuple[str, ...]:
    """Return what two runs must share to be compared: subject, revision, weights and sites."""
    s = run.settings
    return s.subject, s.revision, s.weights, s.site, s.site_out


@torch.no_grad()
def best_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest cosine of each row of a (F, D) with a row of b (G, D): (F,) float32."""
    b = normalize(b.float(), dim=1)
    blocks = torch.split(a, BLOCK)
    parts = [(normalize(block.float(), dim=1) @ b.T).amax(1) for block in blocks]
    return torch.where(a.norm(dim=1) > 0, torch.cat(parts), torch.nan)


def matched_noise(directions: Tensor, seed: int) -> Tensor:
    """Return as many random directions (G, D) as `directions`.

    They are Gaussian, with the mean and covariance of `directions` at unit length.
    """
    unit = normalize(directions.float(), dim=1).double()
    values, vectors = torch.linalg.eigh(torch.cov(unit.T))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(unit.shape, dtype=torch.float64, generator=generator)
    spread: Tensor = noise * values.clamp(min=0).sqrt() @ vectors.T
    return (unit.mean(0) + spread).float()


def summarise_cosines(cosines: Tensor) -> dict[str, Any]:
    """Return mean, median and count of the cosines that are known, and the share >= CLOSE."""
    known = cosines[~cosines.isnan()].numpy().astype(np.float64)
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "close": float((known >= CLOSE).mean()),
        "n": len(known),
    }


def measure_both(run: Run, own: SAE, guest: SAE) -> dict[str, dict[str, Any]]:
    """Measure FVU, L0 and dead share of two autoencoders on a run's held-out vectors."""
    sample = draw_sample(run, TOKENS, None)
    kept = ("fvu", "l0", "dead_share")
    return {
        name: {key: value for key, value in measure_sae(sae, sample).items() if key in kept}
        for name, sae in (("own", own), ("guest", guest))
    }

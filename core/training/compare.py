"""Verb `compare`: did another run's autoencoder, on the same site of the same subject, find the same features?

    match      of a feature of one run: the largest cosine of its direction with a direction of the other run. Their mean is the mean
               maximum cosine similarity of Sharkey et al. 2022, and matches depend on how many directions there are to match with; so a
               null stands beside them: as many random directions with the other's mean and covariance.
    fidelity   each autoencoder on the held-out text of the other run, beside the other's own

Matches are made both ways, because a larger dictionary holds a smaller one more easily than the reverse.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.errors import UsageError
from core.files import write_array
from core.records import Manifest
from core.run import Run
from core.saes import SAE, load_sae
from core.training.evaluate import draw_sample, measured

VERSION, BLOCK, CLOSE = 1, 4096, 0.7
TOKENS = 60_000  # of held-out vectors on which fidelity is measured


def compare(run: Run, other: Run, redo: bool = False) -> Manifest:
    """Commit the unit `compare/OTHER` of `run`: match_there.npy (F,) of the run's features in the other and match_here.npy (G,) of the
    other's in the run, NaN for a direction of length 0, and null_there.npy, null_here.npy, the same against random directions.

    Raises UsageError when the two do not read the same site of the same subject.
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
    ours, theirs = load_sae(run.folder("train")), load_sae(other.folder("train"))
    summary = {"close_at": CLOSE}
    for name, a, b in (("there", ours, theirs), ("here", theirs, ours)):
        found, null = (
            best_cosines(a.W_dec, b.W_dec),
            best_cosines(a.W_dec, matched_noise(b.W_dec, run.settings.seed)),
        )
        write_array(work.folder / f"match_{name}.npy", found.numpy())
        write_array(work.folder / f"null_{name}.npy", null.numpy())
        summary[name] = shares(found) | {"null": shares(null)}
    summary["fidelity"] = {
        "here": pairwise(run, ours, theirs),
        "there": pairwise(other, theirs, ours),
    }
    return work.commit(summary)


def identity_of(run: Run) -> tuple:
    s = run.settings
    return s.subject, s.revision, s.weights, s.site


@torch.no_grad()
def best_cosines(a: Tensor, b: Tensor) -> Tensor:
    """The largest cosine of each row of a (F, D) with a row of b (G, D): (F,) float32."""
    b = normalize(b.float(), dim=1)
    parts = [(normalize(block.float(), dim=1) @ b.T).amax(1) for block in a.split(BLOCK)]
    return torch.where(a.norm(dim=1) > 0, torch.cat(parts), torch.nan)


def matched_noise(directions: Tensor, seed: int) -> Tensor:
    """As many random directions (G, D), Gaussian with the same mean and covariance as `directions` of unit length."""
    unit = normalize(directions.float(), dim=1).double()
    values, vectors = torch.linalg.eigh(torch.cov(unit.T))
    noise = torch.randn(
        unit.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return (unit.mean(0) + noise * values.clamp(min=0).sqrt() @ vectors.T).float()


def shares(found: Tensor) -> dict:
    known = found[~found.isnan()].numpy().astype(np.float64)
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "close": float((known >= CLOSE).mean()),
        "n": len(known),
    }


def pairwise(run: Run, own: SAE, guest: SAE) -> dict:
    """FVU and L0 of a run's own autoencoder and of a guest on the run's held-out vectors."""
    sample = draw_sample(run, TOKENS, None)
    return {
        name: {k: v for k, v in measured(sae, sample).items() if k in ("fvu", "l0", "dead_share")}
        for name, sae in (("own", own), ("guest", guest))
    }

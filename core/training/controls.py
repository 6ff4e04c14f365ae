"""Verb `control`: untrained directions over the same activations of the same subject.

    random   MOST random unit directions, or as many as the run's autoencoder has
    pca      both signs of every principal direction of the activations

They are wrapped as a TopK autoencoder around the data's mean, whose k keeps the density of the
run's own features, so that everything that follows (index, label, score) is the same code. What
labels score here is what tokens and positions explain in any basis. A few hundred random directions
say that as well as many thousands, and their index is as many times smaller.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import torch

from core.activations.store import open_activations
from core.errors import UsageError
from core.run import Run
from core.saes import SAE, SAEConfig
from core.text.tokens import Tokens
from core.training.basis import Basis
from core.training.published import save_unit

KINDS = ("random", "pca")
VECTORS = 300_000  # of the train split, for mean and covariance
MOST = 512  # random directions, at most
DEFAULT_K = 32  # where the run's autoencoder has no k, and no index yet


def make_control(run: Run, kind: str) -> Run:
    """Make the run NAME-KIND beside `run`, or open it where it exists.

    It has the capture of `run` (hard links, no copies) and a `train` unit of untrained directions.
    Raises UsageError for an unknown kind, and NotReady before `capture` or `train`.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no control {kind!r}.", f"Controls: {', '.join(KINDS)}.")
    if run.settings.site_out:
        raise UsageError(
            f"{run.name} is a transcoder's, and untrained directions predict nothing.",
            f"Make a control of a run that has one site, {run.settings.site_out}.",
        )
    source = run.folder("capture")
    control = Run.create(str(run.path.with_name(f"{run.path.name}-{kind}")), replace(run.settings))
    if control.find("capture") is None:
        shutil.copytree(source, control.path / "capture", copy_function=_link)
    trained = run.manifest("train")
    n_features = trained.summary["features"]
    k = find_k(run)
    if kind == "random" and n_features > MOST:
        n_features, k = MOST, max(1, round(k * MOST / n_features))
    settings = {"directions": kind, "k": k}
    work = control.begin("train", trained.version, settings, ["capture"])
    if work is not None:
        k = work.settings["k"]
        sae = make_untrained(control, kind, n_features, k, run.settings.seed)
        save_unit(work.folder, sae, control)
        work.commit(
            {
                "architecture": "topk",
                "features": sae.n_features,
                "width": sae.d_in,
                "untrained": kind,
            }
        )
    return control


def make_basis_run(run: Run, kind: str) -> Run:
    """Make the run NAME-KIND beside `run`, or open it where it exists: neurons or heads.

    It has the subject, the text and the layer of `run`, and as many features fire on a token as
    the run's autoencoder has by its k. Raises UsageError for a site without a layer, and NotReady
    before `train`.
    """
    k = find_k(run)
    basis = Basis(kind, k)
    site, site_out = basis.sites(run.settings.site)
    settings = replace(run.settings, sae=f"{kind}:{k}", site=site, site_out=site_out)
    return Run.create(str(run.path.with_name(f"{run.path.name}-{kind}")), settings)


def find_k(run: Run) -> int:
    """How many features of the run fire on a token: its k, or by its index."""
    trained, index = run.manifest("train"), run.find("index")
    if "k" in trained.settings and trained.summary.get("architecture") == "topk":
        return int(trained.settings["k"])
    mean = index.summary.get("firings_per_token") if index else None
    return max(1, round(mean)) if mean else DEFAULT_K


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@torch.no_grad()
def make_untrained(run: Run, kind: str, n_features: int, k: int, seed: int) -> SAE:
    """Return a TopK autoencoder around the mean of the train split.

    Its directions are `n_features` random ones, or the principal ones with both signs.
    """
    x = read_train_vectors(run)
    mean = x.mean(0)
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(n_features, x.shape[1], generator=generator)
        directions = torch.nn.functional.normalize(drawn, dim=1)
    else:
        _, vectors = torch.linalg.eigh(torch.cov((x - mean).T))  # columns, ascending
        directions = torch.cat([vectors.T.flip(0), -vectors.T.flip(0)])
    tensors = {
        "W_enc": directions.T.contiguous(),
        "b_enc": torch.zeros(len(directions)),
        "W_dec": directions,
        "b_dec": mean,
    }
    return SAE(SAEConfig("topk", "topk", min(k, len(directions))), tensors)


def read_train_vectors(run: Run) -> torch.Tensor:
    """Read up to VECTORS activations (n, D) float32 of the train split, whole shards in order."""
    source, inside = open_activations(run), Tokens(run.folder("capture")).in_split("train")
    parts, count = [], 0
    for shard in range(source.n_shards):
        if count >= VECTORS:
            break
        rows = inside[int(source.bounds[shard]) : int(source.bounds[shard + 1])]
        parts.append(source.shard(shard)[torch.from_numpy(np.flatnonzero(rows))].float())
        count += len(parts[-1])
    return torch.cat(parts)[:VECTORS]

"""Controls: the same pipeline on directions that nobody trained, over the same activations of the same subject.

    random   as many unit directions at random as the run's autoencoder has
    pca      both signs of every principal direction of the activations

They are wrapped as a TopK autoencoder around the data's mean with the run's own k, so that as many features fire on a token, and everything that
follows (index, label, score) is the same code. What labels score here is what tokens and positions explain in any basis.
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
from core.training.published import save_unit

KINDS = ("random", "pca")
VECTORS = 300_000  # of train, from which mean and covariance are taken
DEFAULT_K = 32  # where the run's autoencoder has no k


def make_control(run: Run, kind: str) -> Run:
    """The run NAME-KIND beside `run`: its capture (hard links, no copies) and a `train` unit of untrained directions. One that is there is opened."""
    if kind not in KINDS:
        raise UsageError(f"There is no control {kind!r}.", f"Controls: {', '.join(KINDS)}.")
    source = run.folder("capture")
    control = Run.create(str(run.path.with_name(f"{run.path.name}-{kind}")), replace(run.settings))
    if control.find("capture") is None:
        shutil.copytree(source, control.path / "capture", copy_function=_link)
    trained = run.manifest("train")
    work = control.begin(
        "train",
        trained.version,
        {"directions": kind, "k": trained.settings.get("k", DEFAULT_K)},
        ["capture"],
    )
    if work is not None:
        sae = untrained(
            control, kind, trained.summary["features"], work.settings["k"], run.settings.seed
        )
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


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@torch.no_grad()
def untrained(run: Run, kind: str, n_features: int, k: int, seed: int) -> SAE:
    """A TopK autoencoder whose directions are random, or the principal ones with both signs, around the mean of train."""
    x = train_vectors(run)
    mean = x.mean(0)
    if kind == "random":
        directions = torch.nn.functional.normalize(
            torch.randn(n_features, x.shape[1], generator=torch.Generator().manual_seed(seed)),
            dim=1,
        )
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


def train_vectors(run: Run) -> torch.Tensor:
    """Up to VECTORS activations (n, D) float32 of the train split, whole shards in order."""
    source, inside = open_activations(run), Tokens(run.folder("capture")).in_split("train")
    parts, count = [], 0
    for shard in range(source.n_shards):
        if count >= VECTORS:
            break
        rows = inside[int(source.bounds[shard]) : int(source.bounds[shard + 1])]
        parts.append(source.shard(shard)[torch.from_numpy(np.flatnonzero(rows))].float())
        count += len(parts[-1])
    return torch.cat(parts)[:VECTORS]

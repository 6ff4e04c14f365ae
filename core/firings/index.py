"""Stage `index`: every firing of every feature, inverted as a search engine's posting lists are.

`core/firings/postings.py` names the files. A shard is made from its own activations alone, so
shards can be made in any order and are never merged; a killed index continues with the first
shard that is missing.

The SAE encodes in float32: with bfloat16 products, the hardware would decide which features are
among the k largest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.activations.layout import read_layout
from core.activations.store import Activations, open_activations
from core.firings.postings import count_firings, has_shard, write_shard, write_token_postings
from core.parallel import make_shards, share_cores
from core.progress import progress, say
from core.run import Run
from core.saes import SAE
from core.saes.prefilter import Prefilter, TopKPrefilter, make_prefilter
from core.settings import IndexSettings
from core.text.tokens import Tokens
from core.workers import Engine

BATCH = 2048  # vectors encoded at once
AT_ONCE = 2  # batches that go through the prefilter at once
SAMPLE, STRETCH = 4096, 128  # tokens from which the size is estimated; tokens in a stretch of them

Inputs = tuple[SAE, Activations, np.ndarray]  # and bool (n,): the tokens that are counted


def index(run: Run, settings: IndexSettings, folder: Path) -> dict[str, Any]:
    """Write the unit `index` into `folder`."""
    tokens, n_features = Tokens(run.folder("capture")), SAE.load(run.folder("train")).n_features
    layout = read_layout(run.folder("capture"))
    n_shards = layout.n_shards
    missing = [number for number in range(n_shards) if not has_shard(folder, number)]
    engine = Engine.choose(settings, run, uses_gpu=not layout.stored)  # the SAE is on the CPU
    if engine.kind != "ray":  # the driver of a cluster does without a subject that does not fit it
        inputs = open_inputs(run.path)
        say_size(inputs)
    with progress(total=len(tokens), label="index", unit="tok") as bar:
        make = partial(index_shard, folder=folder, batch=BATCH)
        if engine.kind != "inline":
            make_shards(missing, partial(open_inputs, run.path), make, engine, bar.update)
        else:
            make = partial(make, advance=bar.update)  # the bar moves within a shard
            make_shards(missing, lambda: inputs, make, engine, int)
    write_token_postings(folder, tokens.ids, len(tokens.vocabulary))
    counts = count_firings(folder, n_shards)
    return summarise(counts, int(tokens.counted.sum()), n_features)


def open_inputs(path: Path) -> Inputs:
    """The SAE, the activations and the counted tokens (n,) of the run at `path`."""
    run = Run.open(str(path))
    return (
        SAE.load(run.folder("train")),
        open_activations(run),
        Tokens(run.folder("capture")).counted,
    )


def say_size(inputs: Inputs) -> None:
    """Print an estimate of what will be written, from stretches of tokens all over the capture."""
    sae, source, counted = inputs
    starts = np.linspace(0, max(0, len(counted) - STRETCH), SAMPLE // STRETCH).astype(np.int64)
    sample = np.unique(starts[:, None] + np.arange(min(STRETCH, len(counted))))
    row = encode_firings(sae, source.read(sample).float())[0]
    firings = float(np.asarray(counted)[sample][row].sum()) / len(sample) * len(counted)
    fixed = 4 * len(counted) + 8 * (sae.n_features + 1) * source.n_shards
    say(f"index: about {firings:,.0f} firings; {(8 * firings + fixed) / 1e6:,.0f} MB on disk")


def index_shard(
    inputs: Inputs, number: int, folder: Path, batch: int, advance: Callable[[int], Any] = int
) -> int:
    """Write shard `number` into `folder`; returns the number of its tokens.

    `advance` is called with the number of tokens of each batch.
    """
    sae, source, counted = inputs
    start, end = (int(bound) for bound in source.bounds[number : number + 2])
    write_shard(
        folder,
        number,
        *invert_shard(sae, source.shard(number), batch, np.asarray(counted[start:end]), advance),
    )
    return end - start


def invert_shard(
    sae: SAE,
    activations: Tensor,
    batch: int,
    counted: np.ndarray,
    advance: Callable[[int], Any] = int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets (F + 1,), positions (m,), firings (m,)) of one shard's activations (n, D).

    Only firings on tokens that are `counted` (n,) are kept.
    """
    features, positions, values = [], [], []
    prefilter = make_prefilter(sae)
    at_once = AT_ONCE if prefilter else 1  # a dense product uses every core, and much memory
    starts = range(0, len(activations), max(1, batch // at_once))
    with share_cores(at_once) as pool:
        firings = pool.map(
            lambda start: encode_firings(
                sae, activations[start : start + starts.step].float(), prefilter
            ),
            starts,
        )
        for start, (row, feature, value) in zip(starts, firings, strict=True):
            kept = counted[row + start]
            positions.append(row[kept] + start)
            features.append(feature[kept])
            values.append(value[kept])
            advance(min(starts.step, len(activations) - start))
    feature = np.concatenate(features)
    # numpy sorts 16-bit keys by radix, which is 7 times faster
    keys = feature.astype(np.uint16) if sae.n_features <= 2**16 else feature
    order = np.argsort(keys, kind="stable")  # stable: positions stay in order within a feature
    offsets = np.r_[0, np.cumsum(np.bincount(feature, minlength=sae.n_features))].astype(np.int64)
    return (
        offsets,
        np.concatenate(positions)[order].astype(np.uint32),
        np.concatenate(values)[order],
    )


@torch.inference_mode()
def encode_firings(
    sae: SAE, x: Tensor, prefilter: Prefilter | TopKPrefilter | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, feature, activation) of every firing on vectors x (B, D), sorted by row.

    A firing is an activation above zero.
    """
    if prefilter is not None and (firings := prefilter.find_firings(x)) is not None:
        return firings
    if sae.is_sparse:
        values, features = sae.encode_sparse(x)  # (B, k)
        fires = values > 0
        return (
            fires.nonzero()[:, 0].numpy(),
            features[fires].numpy().astype(np.int32),
            values[fires].numpy(),
        )
    if (preactivated := sae.preactivate(x)) is not None:
        pre, floor = preactivated
        at = np.flatnonzero((pre > floor).numpy())  # many times faster than torch's nonzero
        rows, columns = np.divmod(at, sae.n_features)
        return rows, columns.astype(np.int32), pre.numpy().ravel()[at]
    f = sae.encode(x)
    row, feature = (f > 0).nonzero(as_tuple=True)
    return row.numpy(), feature.numpy().astype(np.int32), f[row, feature].numpy()


def summarise(counts: np.ndarray, n_tokens: int, n_features: int) -> dict[str, Any]:
    """The summary of an index from the number of firings (F,) of each feature."""
    density = counts / n_tokens
    return {
        "features": n_features,
        "tokens": n_tokens,
        "firings": int(counts.sum()),
        "firings_per_token": round(float(counts.sum() / n_tokens), 3),
        "dead": int((counts == 0).sum()),
        "dense": int((density > 0.1).sum()),
        "median_density": float(np.median(density)),
    }

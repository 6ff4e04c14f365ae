"""Stage `index`: every firing of every feature, inverted like a search engine's posting lists.

Per shard of the capture: `offsets-00000.npy` (F + 1,) int64, `positions-00000.npy` uint32 (token within the shard) and
`firings-00000.npy` float32 (activation), sorted by feature and then by position: 8 bytes a firing. Tokens get the same structure for
the whole corpus: `token_offsets.npy` (V + 1,) and `token_ordinals.npy` (n,). A shard is made from its own activations alone, so shards
can be made in any order and are never merged; a killed index goes on with the first shard that is missing.

The SAE encodes in float32: with bfloat16 products, which features are among the k largest would depend on the hardware.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.activations.store import Activations, open_activations
from core.files import read_json, write_array
from core.parallel import each_shard, own_cores
from core.progress import progress, say
from core.records import Manifest
from core.run import Run
from core.saes import SAE, load_sae
from core.saes.sieve import Sieve, TopKSieve, sieve_of
from core.settings import IndexSettings
from core.text.tokens import Tokens

UNIT, VERSION = "index", 2
PARTS = ("offsets", "positions", "firings")
AT_ONCE = 2  # batches that are sieved at a time
SAMPLE, STRETCH = 4096, 128  # tokens from which the size is foretold; tokens in a stretch of them


def index(run: Run, settings: IndexSettings, redo: bool = False) -> Manifest:
    work = run.begin(UNIT, VERSION, settings, ["capture", "train"], redo)
    if work is None:
        return run.manifest(UNIT)
    tokens, n_features = Tokens(run.folder("capture")), load_sae(run.folder("train")).n_features
    n_shards = len(read_json(run.folder("capture") / "shards.json")["bounds"]) - 1
    done = {
        number for number in range(n_shards) if (work.folder / f"firings-{number:05d}.npy").exists()
    }  # written last of the three
    found = inputs(run.path)
    say_size(found)
    with progress(total=len(tokens), label="index", unit="tok") as bar:
        make = partial(index_shard, folder=work.folder, batch=settings.batch)
        opened = partial(inputs, run.path) if settings.workers > 1 else lambda: found
        each_shard(sorted(set(range(n_shards)) - done), opened, make, settings.workers, bar.update)
    offsets, ordinals = invert_tokens(np.asarray(tokens.ids), len(tokens.vocabulary))
    write_array(work.folder / "token_offsets.npy", offsets)
    write_array(work.folder / "token_ordinals.npy", ordinals)
    return work.commit(summary(work.folder, n_shards, int(tokens.counted.sum()), n_features))


def inputs(path: Path) -> tuple[SAE, Activations, np.ndarray]:
    """The SAE, the activations and the counted tokens (n,) of the run at `path`."""
    run = Run.open(str(path))
    return (
        load_sae(run.folder("train")),
        open_activations(run),
        Tokens(run.folder("capture")).counted,
    )


def say_size(found: tuple[SAE, Activations, np.ndarray]) -> None:
    """Say how much will be written before it is, from the firings on some stretches of tokens all over the capture."""
    sae, source, counted = found
    starts = np.linspace(0, max(0, len(counted) - STRETCH), SAMPLE // STRETCH).astype(np.int64)
    sample = np.unique(starts[:, None] + np.arange(min(STRETCH, len(counted))))
    row = encode_firings(sae, source.read(sample).float())[0]
    firings = float(np.asarray(counted)[sample][row].sum()) / len(sample) * len(counted)
    fixed = 4 * len(counted) + 8 * (sae.n_features + 1) * source.n_shards
    say(f"index: about {firings:,.0f} firings; {(8 * firings + fixed) / 1e6:,.0f} MB on disk")


def index_shard(
    found: tuple[SAE, Activations, np.ndarray], number: int, folder: Path, batch: int
) -> int:
    """Write shard `number` into `folder`; the number of its tokens."""
    sae, source, counted = found
    start, end = source.bounds[number : number + 2].tolist()
    write_shard(
        folder,
        number,
        *invert_shard(sae, source.shard(number), batch, np.asarray(counted[start:end])),
    )
    return end - start


def invert_shard(
    sae: SAE, activations: Tensor, batch: int, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets (F + 1,), positions (m,), firings (m,)) of the activations (n, D) of one shard, on tokens that are `counted` (n,)."""
    features, positions, values = [], [], []
    sieve = sieve_of(sae)
    at_once = AT_ONCE if sieve else 1  # a dense product uses every core, and much memory
    starts = range(0, len(activations), max(1, batch // at_once))
    with own_cores(at_once) as pool:
        found = pool.map(
            lambda start: encode_firings(
                sae, activations[start : start + starts.step].float(), sieve
            ),
            starts,
        )
        for start, (row, feature, value) in zip(starts, found, strict=True):
            kept = counted[row + start]
            positions.append(row[kept] + start)
            features.append(feature[kept])
            values.append(value[kept])
    feature = np.concatenate(features)
    keys = (
        feature.astype(np.uint16) if sae.n_features <= 2**16 else feature
    )  # numpy sorts 16-bit keys by radix: 7 times faster
    order = np.argsort(keys, kind="stable")  # stable: positions stay in order within a feature
    offsets = np.r_[0, np.cumsum(np.bincount(feature, minlength=sae.n_features))].astype(np.int64)
    return (
        offsets,
        np.concatenate(positions)[order].astype(np.uint32),
        np.concatenate(values)[order],
    )


@torch.inference_mode()
def encode_firings(
    sae: SAE, x: Tensor, sieve: Sieve | TopKSieve | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, feature, activation) of every firing, an activation above zero, on vectors x (B, D), sorted by row."""
    if sieve is not None and (firings := sieve.firings(x)) is not None:
        return firings
    if sae.is_sparse:
        values, features = sae.encode_sparse(x)  # (B, k)
        fires = values > 0
        return (
            fires.nonzero()[:, 0].numpy(),
            features[fires].numpy().astype(np.int32),
            values[fires].numpy(),
        )
    if (found := sae.above(x)) is not None:
        pre, floor = found
        at = np.flatnonzero((pre > floor).numpy())  # many times faster than torch's nonzero
        row, feature = np.divmod(at, sae.n_features)
        return row, feature.astype(np.int32), pre.numpy().ravel()[at]
    f = sae.encode(x)
    row, feature = (f > 0).nonzero(as_tuple=True)
    return row.numpy(), feature.numpy().astype(np.int32), f[row, feature].numpy()


def invert_tokens(ids: np.ndarray, n_vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """(offsets (V + 1,), ordinals (n,)) such that ordinals[offsets[v] : offsets[v + 1]] is where token v stands."""
    offsets = np.r_[0, np.cumsum(np.bincount(ids, minlength=n_vocabulary))].astype(np.int64)
    return offsets, np.argsort(ids, kind="stable").astype(np.uint32)


def write_shard(folder: Path, number: int, *arrays: np.ndarray) -> None:
    for name, array in zip(PARTS, arrays, strict=True):
        write_array(folder / f"{name}-{number:05d}.npy", array)


def summary(folder: Path, n_shards: int, n_tokens: int, n_features: int) -> dict:
    counts = sum(np.diff(np.load(folder / f"offsets-{i:05d}.npy")) for i in range(n_shards))
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

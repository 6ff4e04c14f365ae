"""Stage `train`: fit a sparse autoencoder to the activations of the train split.

Activations are divided by one constant, so that a dimension has unit variance on average; the
constant is folded into the weights at the end. Batches are drawn in a random order across the whole
store. Several trainers (`core.training.sweep`) may share each batch.

Where the run has a second site, a transcoder is trained: it reads at the one and predicts the
other, each divided by a constant of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from core.activations.layout import OUT
from core.activations.store import ActivationStore
from core.errors import UsageError
from core.progress import progress, say
from core.run import Run
from core.saes import SAE
from core.settings import TrainSettings
from core.text.tokens import Tokens
from core.training.published import convert_published, save_unit
from core.training.trainer import Data, Target, Trainer
from core.training.unit import METRICS

T = TypeVar("T")

# vectors that mean and scale, the val measurements and the start are computed from
MEAN_VECTORS, VAL_VECTORS, START_VECTORS = 65_536, 16_384, 4096
OUTLIER = 10.0  # median norms


def check(run: Run, settings: TrainSettings) -> None:
    """Raises UsageError for settings that do not fit a published SAE, or an SAE that no sweep
    holds.
    """
    if run.settings.sae and settings != TrainSettings():
        raise UsageError(
            f"{run.name} loads a published SAE, so there is nothing to train.",
            f"Type: python main.py train {run.name}",
        )
    if settings.take:
        find_swept(run, settings)


def train(run: Run, settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Write the unit `train`: sae.safetensors, directions.npy (F, D) and metrics.jsonl.

    The SAE is trained, copied from a sweep (--take), or converted from the published SAE that the
    run names. Raises UsageError for settings that do not fit the run or the data.
    """
    if run.settings.sae:
        return convert_published(run, folder)
    if settings.take:
        return take(run, settings, folder)
    data = load_data(run.folder("capture"), settings.batch_size, run.settings.seed)
    trainer = Trainer(settings, data, run.settings.seed, folder)
    fit([trainer], data, settings.batch_size, run.settings.seed)
    save_unit(folder, trainer.finish(), run)
    return trainer.summarise()


def find_swept(run: Run, settings: TrainSettings) -> dict[str, Any]:
    """The row of the sweep's table that `--take` names.

    Raises UsageError, naming those that there are, when the run holds no such SAE.
    """
    unit, _, name = settings.take.rpartition("/")
    table = run.manifest(unit).summary.get("table", []) if unit.startswith("sweep/") else []
    row = next((row for row in table if row["sae"] == name), None)
    if row is None:
        sweeps = [unit for unit in run.committed() if unit.startswith("sweep/")]
        known = ", ".join(
            f"{u}/{r['sae']}" for u in sweeps for r in run.manifest(u).summary["table"]
        )
        raise UsageError(
            f"There is no SAE {settings.take!r} to take.",
            f"There are: {known}." if known else f"Run: python main.py sweep {run.name}",
        )
    return dict(row)


def take(run: Run, settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Write the unit `train` from an SAE of a sweep; the summary of its training."""
    source = run.path / settings.take
    save_unit(folder, SAE.load(source), run)
    (folder / METRICS).write_bytes((source / METRICS).read_bytes())
    return dict(find_swept(run, settings)["training"])


def drop_outliers(
    store: ActivationStore, train: np.ndarray, val: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """(train, val, how many were dropped): ordinals without vectors of outlying norm.

    A norm outlies where it is over OUTLIER times the median norm of the train split. A few tokens
    of such a norm (attention sinks, rare tokens) would decide the scale, the loss and the FVU.
    """
    norms = np.concatenate(
        [store.shard(i).float().norm(dim=1).numpy() for i in range(store.n_shards)]
    )
    limit = OUTLIER * float(np.median(norms[train]))
    kept = [ordinals[norms[ordinals] <= limit] for ordinals in (train, val)]
    dropped = len(train) + len(val) - len(kept[0]) - len(kept[1])
    if dropped:
        say(
            f"{dropped:,} vectors of over {OUTLIER:g} times the median norm are left out of the "
            "training and of its figures."
        )
    return kept[0], kept[1], dropped


def load_data(capture: Path, batch_size: int, seed: int) -> Data:
    """Read what training needs of the folder of a capture.

    Raises UsageError when the train split has less than one batch or the val split is empty.
    """
    store, tokens = ActivationStore(capture), Tokens(capture)
    predicted = ActivationStore(capture / OUT) if (capture / OUT).exists() else None
    train_ordinals = np.flatnonzero(tokens.in_split("train"))
    val_ordinals = np.flatnonzero(tokens.in_split("val"))
    if len(train_ordinals) < batch_size:
        raise UsageError(
            f"The train split has {len(train_ordinals)} tokens, "
            f"less than one batch of {batch_size}.",
            "Capture more text, or use a smaller --batch-size.",
        )
    if not len(val_ordinals):
        raise UsageError(
            "No document fell into the val split.",
            "Capture more documents: the splits are 60 / 10 / 30 of them.",
        )
    outliers = 0
    for source in (store, predicted):
        if source is not None:
            train_ordinals, val_ordinals, n = drop_outliers(source, train_ordinals, val_ordinals)
            outliers += n
    rng = np.random.default_rng(seed)
    n_sample, n_val = min(len(train_ordinals), MEAN_VECTORS), min(len(val_ordinals), VAL_VECTORS)
    some = np.sort(rng.choice(train_ordinals, n_sample, replace=False))
    some_val = np.sort(rng.choice(val_ordinals, n_val, replace=False))
    sample, val = store.read(some).double(), store.read(some_val).float()
    mean, scale = measure_scale(sample)
    start = (sample[:: max(1, len(sample) // START_VECTORS)][:START_VECTORS] / scale).float()
    unit_mean = (mean / scale).float()
    target = None
    if predicted is not None:
        ys = predicted.read(some).double()
        own = measure_scale(ys)[1]
        target = Target(
            predicted,
            predicted.read(some_val).float() / own,
            own,
            (ys / own).float(),
            (sample / scale).float(),
        )
    return Data(store, train_ordinals, val / scale, unit_mean, scale, start, outliers, target)


def measure_scale(sample: Tensor) -> tuple[Tensor, float]:
    """Return (the mean (D,), the constant that brings vectors (n, D) to unit variance).

    Raises UsageError where they are all the same.
    """
    mean = sample.mean(0)
    scale = float((sample - mean).square().mean().sqrt())
    if scale == 0:
        raise UsageError(
            "All activations are the same vector: there is nothing to learn.",
            "Capture another site or other text.",
        )
    return mean, scale


def fit(trainers: list[Trainer], data: Data, batch_size: int, seed: int) -> None:
    """Advance all trainers over the same batches to their ends, each from its checkpoint.

    Each sees what it would see alone.
    """
    for trainer in trainers:
        trainer.resume()
    with progress(total=sum(t.steps for t in trainers), label="train", unit="step") as bar:
        bar.update(sum(t.cursor.step for t in trainers))
        while waiting := [t for t in trainers if not t.ended]:
            step = min(t.cursor.step for t in waiting)
            epoch, done = divmod(step, waiting[0].per_epoch)
            for x, y in prefetch(read_batches(data, batch_size, seed, epoch, done)):
                # a kill may have left some trainers a checkpoint ahead
                now = [t for t in waiting if t.cursor.step == step and not t.ended]
                x = x.to(trainers[0].device).float() / data.scale
                if y is not None and data.target is not None:
                    y = y.to(trainers[0].device).float() / data.target.scale
                for trainer in now:
                    trainer.advance(x, y)
                bar.update(len(now))
                step += 1
                if all(t.ended for t in waiting):
                    break


def read_batches(
    data: Data, batch_size: int, seed: int, epoch: int, skip: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the batches of one epoch: vectors (B, D), and those to predict (B, d_out) or None."""
    where = (data.train, batch_size, seed, epoch, skip)
    if data.target is None:
        yield from ((x, None) for x in data.store.shuffled(*where))
        return
    yield from zip(data.store.shuffled(*where), data.target.store.shuffled(*where), strict=True)


def prefetch(batches: Iterable[T]) -> Iterator[T]:
    """Yield `batches`; each is read while the one before it is worked on."""
    source = iter(batches)

    def read_next() -> list[T]:
        return list(islice(source, 1))

    with ThreadPoolExecutor(1) as pool:
        pending: Future[list[T]] = pool.submit(read_next)
        while batch := pending.result():
            pending = pool.submit(read_next)
            yield batch[0]

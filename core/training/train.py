"""Stage `train`: activations of the train split -> a sparse autoencoder.

Activations are divided by one constant, so that a dimension has unit variance on average, and the constant is folded into the
weights at the end. Batches are drawn in a random order across the whole store; several trainers (`core.sweep`) may share each batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from core.activations.store import ActivationStore
from core.errors import UsageError
from core.progress import progress
from core.records import Manifest
from core.run import Run
from core.saes import load_sae
from core.settings import TrainSettings
from core.text.tokens import Tokens
from core.training.published import adopt, save_unit
from core.training.trainer import Data, Trainer

UNIT, VERSION = "train", 5
VAL_VECTORS, START_VECTORS = 16_384, 4096


def train(run: Run, settings: TrainSettings, redo: bool = False) -> Manifest:
    if run.settings.sae:
        return adopt(run, settings, VERSION, redo)
    if settings.take:
        return take(run, settings, redo)
    work = run.begin(UNIT, VERSION, settings, ["capture"], redo)
    if work is None:
        return run.manifest(UNIT)
    data = load_data(run.folder("capture"), settings.batch, run.settings.seed)
    trainer = Trainer(settings, data, run.settings.seed, work.folder)
    fit([trainer], data, settings.batch, run.settings.seed)
    save_unit(work.folder, trainer.finished(), run)
    manifest = work.commit(trainer.summary())
    (run.path / UNIT / Trainer.CHECKPOINT).unlink(
        missing_ok=True
    )  # not before: a kill while files are hashed must not cost the training
    return manifest


def take(run: Run, settings: TrainSettings, redo: bool) -> Manifest:
    """The unit `train` from an SAE of a sweep; raises UsageError, naming those that there are, when it holds no such one."""
    unit, _, name = settings.take.rpartition("/")
    table = run.manifest(unit).summary.get("table", []) if unit.startswith("sweep/") else []
    found = next((row for row in table if row["sae"] == name), None)
    if found is None:
        known = [u for u in run.committed() if u.startswith("sweep/")]
        there = ", ".join(
            f"{u}/{row['sae']}" for u in known for row in run.manifest(u).summary["table"]
        )
        raise UsageError(
            f"There is no SAE {settings.take!r} to take.",
            f"There are: {there}." if there else f"Run: python main.py sweep {run.name}",
        )
    work = run.begin(UNIT, VERSION, TrainSettings(take=settings.take), ["capture", unit], redo)
    if work is None:
        return run.manifest(UNIT)
    source = run.folder(unit) / name
    save_unit(work.folder, load_sae(source), run)
    (work.folder / "metrics.jsonl").write_bytes((source / "metrics.jsonl").read_bytes())
    return work.commit(found["training"])


def load_data(capture: Path, batch: int, seed: int) -> Data:
    """Raises UsageError when the train split has less than one batch or the val split is empty."""
    store, tokens = ActivationStore(capture), Tokens(capture)
    train_ordinals, val = (
        np.flatnonzero(tokens.in_split("train")),
        np.flatnonzero(tokens.in_split("val")),
    )
    if len(train_ordinals) < batch:
        raise UsageError(
            f"The train split has {len(train_ordinals)} tokens, less than one batch of {batch}.",
            "Capture more text, or use a smaller --batch.",
        )
    if not len(val):
        raise UsageError(
            "No document fell into the val split.",
            "Capture more documents: the splits are 60 / 10 / 30 of them.",
        )
    rng = np.random.default_rng(seed)
    sample = store.read(
        np.sort(rng.choice(train_ordinals, min(len(train_ordinals), 65_536), replace=False))
    ).double()
    held = store.read(np.sort(rng.choice(val, min(len(val), VAL_VECTORS), replace=False))).float()
    mean = sample.mean(0)
    scale = float((sample - mean).square().mean().sqrt())
    if scale == 0:
        raise UsageError(
            "All activations are the same vector: there is nothing to learn.",
            "Capture another site or other text.",
        )
    few = sample[:: max(1, len(sample) // START_VECTORS)][:START_VECTORS]
    return Data(
        store, train_ordinals, held / scale, (mean / scale).float(), scale, (few / scale).float()
    )


def fit(trainers: list[Trainer], data: Data, batch: int, seed: int) -> None:
    """Advance all trainers over the same batches to their ends, from where each one's checkpoint stands. Each sees what it would see alone."""
    for trainer in trainers:
        trainer.resume()
    with progress(total=sum(t.steps for t in trainers), label="train", unit="step") as bar:
        bar.update(sum(t.cursor.step for t in trainers))
        while waiting := [t for t in trainers if not t.ended]:
            step = min(t.cursor.step for t in waiting)
            epoch, done = divmod(step, waiting[0].per_epoch)
            for x in prefetch(data.store.shuffled(data.train, batch, seed, epoch, skip=done)):
                now = [
                    t for t in waiting if t.cursor.step == step and not t.ended
                ]  # a kill may have left some a checkpoint ahead
                x = x.to(trainers[0].device).float() / data.scale
                for trainer in now:
                    trainer.advance(x)
                bar.update(len(now))
                step += 1
                if all(t.ended for t in waiting):
                    break


def prefetch(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """`batches`, each read while the one before it is worked on."""
    source = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        following = lambda: pool.submit(lambda: list(islice(source, 1)))
        pending = following()
        while batch := pending.result():
            pending = following()
            yield batch[0]

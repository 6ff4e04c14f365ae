"""Stage `train`: activations of the explain split -> a sparse autoencoder.

Activations are divided by one constant, so that a dimension has unit variance on average, and the constant is folded into the
weights at the end. Batches are drawn in a random order across the whole store. The objective is measured on the calibrate split, at
the final penalty, from the end of warm-up on; the weights with the best one are kept, and `patience` measurements without a better
one end the training. Everything that the next step depends on is in .checkpoint.safetensors, so a killed training goes on to the
same bits (on the same machine).
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from core.activations import ActivationStore
from core.adopt import adopt
from core.corpus import Tokens
from core.errors import UsageError
from core.files import read_lines, replacing, write_array, write_tensors
from core.loading import pick_device, pick_dtype
from core.progress import progress, say
from core.records import Manifest
from core.run import Run
from core.saes import SAE, save_sae
from core.saes.protocol import Trainable
from core.saes.tied import TiedL1
from core.saes.topk import TopK
from core.settings import TrainSettings

UNIT, VERSION = "train", 2
CALIBRATE_VECTORS = 16_384
ADAPT_UNTIL = 0.85  # share of all steps in which the penalty follows --l0; then it stands still and early stopping begins
PROPORTIONAL, INTEGRAL, SMOOTHING = 1.0, 0.006, 0.1  # gains a step of the penalty's control by --l0, on the log of L0 over its target


@dataclass
class Cursor:
    """The scalars that the next step depends on."""

    step: int = 0
    penalty: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    bad: int = 0  # measurements since the best one
    l0_error: float = 0.0  # smoothed log of L0 over --l0, at most 1 either way
    l0_sum: float = 0.0  # what the integral part has added to the log of the penalty


@dataclass(frozen=True)
class Data:
    """Where training reads: the store, the ordinals of the explain split, vectors of the calibrate split (m, D), mean and scale."""

    store: ActivationStore
    explain: np.ndarray
    calibrate: Tensor
    mean: Tensor
    scale: float


def train(run: Run, settings: TrainSettings, redo: bool = False) -> Manifest:
    if run.settings.sae:
        return adopt(run, settings, VERSION, redo)
    work = run.begin(UNIT, VERSION, settings, ["capture"], redo)
    if work is None:
        return run.manifest(UNIT)
    data = load_data(run.folder("capture"), settings.batch, run.settings.seed)
    trainer = Trainer(settings, data, run.settings.seed, work.folder)
    trainer.resume()
    trainer.fit()
    sae = trainer.finished()
    about = {"site": run.settings.site, "subject": run.settings.subject, "context": run.manifest("capture").settings["context"]}
    save_sae(sae, work.folder, about)
    write_array(work.folder / "directions.npy", sae.W_dec.numpy())
    manifest = work.commit(trainer.summary())
    (run.path / UNIT / Trainer.CHECKPOINT).unlink(missing_ok=True)  # not before: a kill while files are hashed must not cost the training
    return manifest


def load_data(capture: Path, batch: int, seed: int) -> Data:
    """Raises UsageError when the explain split has less than one batch or the calibrate split is empty."""
    store, tokens = ActivationStore(capture), Tokens(capture)
    explain, calibrate = np.flatnonzero(tokens.in_split("explain")), np.flatnonzero(tokens.in_split("calibrate"))
    if len(explain) < batch:
        raise UsageError(f"The explain split has {len(explain)} tokens, less than one batch of {batch}.", "Capture more text, or use a smaller --batch.")
    if not len(calibrate):
        raise UsageError("No document fell into the calibrate split.", "Capture more documents: the splits are 60 / 10 / 30 of them.")
    rng = np.random.default_rng(seed)
    sample = store.read(np.sort(rng.choice(explain, min(len(explain), 65_536), replace=False))).double()
    held = store.read(np.sort(rng.choice(calibrate, min(len(calibrate), CALIBRATE_VECTORS), replace=False))).float()
    mean = sample.mean(0)
    scale = float((sample - mean).square().mean().sqrt())
    if scale == 0:
        raise UsageError("All activations are the same vector: there is nothing to learn.", "Capture another site or other text.")
    return Data(store, explain, held / scale, (mean / scale).float(), scale)


class Trainer:
    """The state of one training: SAE, optimiser, cursor, the best weights so far, and when each feature last fired."""

    CHECKPOINT = ".checkpoint.safetensors"  # hidden: not a part of the unit

    def __init__(self, settings: TrainSettings, data: Data, seed: int, folder: Path):
        self.settings, self.data, self.seed, self.folder = settings, data, seed, folder
        self.device = pick_device("auto") if torch.cuda.is_available() else torch.device("cpu")
        self.bfloat16 = pick_dtype("auto", self.device) == torch.bfloat16
        self.sae = make_sae(settings, data.calibrate.shape[1])
        self.sae.initialise(data.mean, torch.Generator().manual_seed(seed))
        self.sae.to(self.device)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), betas=(0.9, 0.999), eps=1e-8, fused=True)
        self.best_weights = {name: t.clone() for name, t in self.sae.state_dict().items()}
        self.silent = torch.zeros(self.sae.n_features, dtype=torch.int64, device=self.device)  # vectors since it last fired
        self.cursor = Cursor(penalty=settings.l1 if settings.architecture == "tied_l1" else 0.0)
        self.per_epoch = len(data.explain) // settings.batch
        self.steps = max(1, round(settings.epochs * self.per_epoch))
        self.variance = float((data.calibrate - data.calibrate.mean(0)).square().mean())
        self.stopped_early = False

    # -------------------------------------------------------- steps

    def fit(self) -> None:
        """Step until the end or until patience runs out, writing a line of metrics.jsonl a step."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as metrics, self._bar() as bar:
            while self.cursor.step < self.steps and not self.stopped_early:
                epoch, done = divmod(self.cursor.step, self.per_epoch)
                for x in self.data.store.shuffled(self.data.explain, self.settings.batch, self.seed, epoch, skip=done):
                    metrics.write(json.dumps(self.step(x.to(self.device).float() / self.data.scale)) + "\n")
                    bar.update()
                    self.look(metrics)
                    if self.stopped_early or self.cursor.step >= self.steps:
                        break

    def _bar(self):
        bar = progress(total=self.steps, label="train", unit="step")
        bar.update(self.cursor.step)
        return bar

    def step(self, x: Tensor) -> dict:
        """One optimiser step on vectors x (B, D), scaled; returns its metrics."""
        c, s = self.cursor, self.settings
        dead = self.silent > s.dead_after
        for group in self.optimiser.param_groups:
            group["lr"] = (s.rate or self.sae.default_rate) * self._schedule(c.step)
        with self._autocast():
            loss = self.sae.training_loss(x, c.penalty * self._warmth(c.step), dead)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)
        self.sae.before_step()
        self.optimiser.step()
        self.sae.after_step()
        self.optimiser.zero_grad(set_to_none=True)
        self.silent = torch.where(loss.fired, 0, self.silent + len(x))
        c.step += 1
        l0 = float(loss.l0)
        if self._adapting:
            self._adapt(l0)
        return {
            "step": c.step, "loss": loss.total.item(), "reconstruction": loss.reconstruction.item(), "fvu": loss.reconstruction.item() / self.variance,
            "l0": l0, "l1": c.penalty * loss.l1.item(), "penalty": c.penalty, "dead": float((self.silent > s.dead_after).float().mean()),
        }  # fmt: skip

    @property
    def _adapting(self) -> bool:
        """Whether the penalty still follows --l0: from the end of warm-up on, and into the fall of the learning rate, which moves L0."""
        s = self.settings
        return bool(s.l0) and s.warmup < self.cursor.step < ADAPT_UNTIL * self.steps

    def _adapt(self, l0: float) -> None:
        """Move the penalty towards the one with `settings.l0` features a token.

        L0 answers to the penalty over some hundred steps, so an integral alone swings (it ended at 103 for a target of 32); the
        error is smoothed and limited, and a proportional part damps.
        """
        c = self.cursor
        error = float(np.clip(np.log(max(l0, 1e-3) / self.settings.l0), -1.0, 1.0))
        c.l0_error += SMOOTHING * (error - c.l0_error)
        c.l0_sum += INTEGRAL * c.l0_error
        c.penalty = self.settings.l1 * float(np.exp(c.l0_sum + PROPORTIONAL * c.l0_error))

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()

    def _schedule(self, step: int) -> float:
        """Share of the peak rate: linear warm-up, constant, linear to 0 over the last `decay` of all steps."""
        s = self.settings
        down = (self.steps - step) / max(1.0, s.decay * self.steps)
        return min(self._warmth(step), down)

    def _warmth(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.settings.warmup))

    # -------------------------------------------------------- measuring, reviving, saving

    def look(self, metrics) -> None:
        """What happens between steps: measure on calibrate, revive dead features, write a checkpoint."""
        c, s = self.cursor, self.settings
        if c.step % s.check_every == 0 or c.step == self.steps:
            if isinstance(self.sae, TiedL1) and c.step < (1 - s.decay) * self.steps:
                self._revive()
            if c.step == self.steps or c.step >= s.warmup and not self._adapting:
                self._measure(metrics)
        if c.step % s.checkpoint_every == 0:
            metrics.flush()
            self._save()

    @torch.no_grad()
    def _measure(self, metrics) -> None:
        c = self.cursor
        parts = [self.sae.training_loss(x.to(self.device), c.penalty, torch.zeros_like(self.silent, dtype=torch.bool)) for x in self.data.calibrate.split(4096)]
        objective = float(np.mean([p.total.item() for p in parts]))
        fvu = float(np.mean([p.reconstruction.item() for p in parts])) / self.variance
        metrics.write(json.dumps({"step": c.step, "calibrate_objective": objective, "calibrate_fvu": fvu}) + "\n")
        if not np.isfinite(objective):
            raise UsageError(f"The objective became {objective} at step {c.step}.", "Train with a lower --rate.")
        if objective < c.best:
            c.best, c.best_step, c.bad = objective, c.step, 0
            self.best_weights = {name: t.clone() for name, t in self.sae.state_dict().items()}
        else:
            c.bad += 1
            self.stopped_early = c.bad >= self.settings.patience

    def _revive(self) -> None:
        """Re-point the tied SAE's dead features at what it cannot reconstruct yet, and forget their moments."""
        dead = self.silent > self.settings.dead_after
        if not bool(dead.any()):
            return
        rng = np.random.default_rng([self.seed, 1, self.cursor.step])
        x = self.data.store.read(np.sort(rng.choice(self.data.explain, 4096))).to(self.device).float() / self.data.scale
        self.sae.revive(dead, x, torch.Generator(self.device).manual_seed(self.seed + self.cursor.step))
        for parameter in self.sae.parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[parameter][moment][dead] = 0.0
        self.silent[dead] = 0

    def _save(self) -> None:
        tensors = {f"sae.{n}": t for n, t in self.sae.state_dict().items()} | {f"best.{n}": t for n, t in self.best_weights.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
        tensors["silent"] = self.silent
        header = {"cursor": json.dumps(asdict(self.cursor))}
        write_tensors(self.folder / self.CHECKPOINT, {n: t.clone() for n, t in tensors.items()}, header)

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, where there is one; metrics behind it are dropped."""
        path = self.folder / self.CHECKPOINT
        if not path.exists():
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.cursor = Cursor(**json.loads(file.metadata()["cursor"]))
        self.stopped_early = self.cursor.bad >= self.settings.patience
        part = lambda prefix: {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        self.sae.load_state_dict(part("sae."))
        self.best_weights, self.silent = part("best."), tensors["silent"]
        table = self.optimiser.state_dict()
        indices = {int(n.split(".")[1]) for n in tensors if n.startswith("adam.")}
        table["state"] = {i: part(f"adam.{i}.") for i in sorted(indices)}
        self.optimiser.load_state_dict(table)
        kept = [m for m in read_lines(self.folder / "metrics.jsonl") if m["step"] <= self.cursor.step]
        with replacing(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        say(f"train goes on from step {self.cursor.step} of {self.steps}")

    # -------------------------------------------------------- result

    def finished(self) -> SAE:
        """The SAE with the best weights, reading raw activations, on the CPU."""
        if self.cursor.best < float("inf"):
            self.sae.load_state_dict(self.best_weights)
        return self.sae.finished(self.data.scale)

    def summary(self) -> dict:
        c = self.cursor
        measured = read_lines(self.folder / "metrics.jsonl")
        best = next((m for m in measured if m["step"] == c.best_step and "calibrate_fvu" in m), {})
        last = [m for m in measured if "l0" in m][-1]
        return {
            "architecture": self.sae.architecture, "features": self.sae.n_features, "width": self.sae.d_in, "steps": c.step, "steps_at_most": self.steps,
            "best_step": c.best_step, "stopped_early": self.stopped_early, "vectors": c.step * self.settings.batch, "scale": self.data.scale,
            "calibrate_fvu": best.get("calibrate_fvu"), "l0": last["l0"], "dead": last["dead"], "penalty": c.penalty,
            "arithmetic": "bfloat16" if self.bfloat16 else "float32",
        }  # fmt: skip


def make_sae(settings: TrainSettings, width: int) -> Trainable:
    n_features = max(1, round(settings.expansion * width))
    return TopK(width, n_features, settings.k) if settings.architecture == "topk" else TiedL1(width, n_features)

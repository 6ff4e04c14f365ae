"""Train one autoencoder: its weights, optimiser and cursor, its checkpoint and its metrics.

The objective is measured on the val split, at the final penalty, from the end of warm-up on. The
weights with the best objective are kept, and `patience` measurements without a better one end the
training. Everything that the next step depends on is in .checkpoint.safetensors, so a killed
training ends in the same bits (on the same machine). A step reads nothing back from the device,
unless --target-l0 needs the L0: metrics stay there until `FLUSH` of them are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from core.activations.store import ActivationStore
from core.devices import pick_device, pick_dtype
from core.errors import UsageError
from core.files import replace_file, write_tensors
from core.progress import say
from core.saes import SAE
from core.saes.architectures.batch_topk import BatchTopK
from core.saes.architectures.gated import Gated
from core.saes.architectures.jumprelu import JumpReLU
from core.saes.architectures.l1 import L1
from core.saes.architectures.matryoshka import Matryoshka
from core.saes.architectures.protocol import Trainable
from core.saes.architectures.tied import TiedL1
from core.saes.architectures.topk import TopK
from core.saes.architectures.untied import Untied
from core.settings import WITH_K, TrainSettings
from core.training.unit import METRICS, read_metrics

KINDS: dict[str, Any] = {
    kind.architecture: kind for kind in (TopK, BatchTopK, Matryoshka, L1, JumpReLU, Gated, TiedL1)
}
CHECKPOINT_EVERY = 200  # steps
DEAD_AFTER = 500_000  # vectors on which a feature did not fire before it counts as dead
DEAD_EVERY = 10  # steps between looks at which features are dead
FLUSH = 50  # steps whose metrics stay on the device
CLIP = 1.0  # norm of all gradients, for a squared error summed over dimensions as in the papers

# The penalty follows --target-l0 for this share of all steps; then it is constant, and early
# stopping begins.
ADAPT_UNTIL = 0.85
# Gains per step of the penalty's control by --target-l0, on the log of L0 over its target.
PROPORTIONAL, INTEGRAL, SMOOTHING = 1.0, 0.006, 0.1

Metrics = dict[str, Any]


@dataclass
class Cursor:
    """The scalars that the next step depends on."""

    step: int = 0
    penalty: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    bad: int = 0  # measurements since the best one
    l0_error: float = 0.0  # smoothed log of L0 over --target-l0, at most 1 either way
    l0_sum: float = 0.0  # what the integral part has added to the log of the penalty


@dataclass(frozen=True)
class Data:
    """What training reads. Vectors are activations divided by `scale`, norm outliers left out."""

    store: ActivationStore
    train: npt.NDArray[np.int64]  # ordinals of the train split
    val: Tensor  # (m, D) vectors of the val split
    mean: Tensor  # (D,) of the train split, scaled
    scale: float
    sample: Tensor  # (n, D) some vectors of the train split
    outliers: int = 0  # vectors of the train and val splits that were left out
    target: Target | None = None  # what a transcoder predicts


@dataclass(frozen=True)
class Target:
    """What a transcoder predicts, aligned with what it reads; divided by `scale` of its own."""

    store: ActivationStore
    val: Tensor  # (m, d_out)
    scale: float
    sample: Tensor  # (n, d_out) of the tokens of `of`
    of: Tensor  # (n, D) vectors that are read there, scaled


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return pick_device("auto") if torch.cuda.is_available() else torch.device("cpu")


class Trainer:
    """The state of one training.

    SAE, optimiser, cursor, the best weights so far, and when each feature last fired.
    """

    CHECKPOINT = ".checkpoint.safetensors"  # hidden: not a part of the unit

    def __init__(self, settings: TrainSettings, data: Data, seed: int, folder: Path) -> None:
        self.settings, self.data, self.seed, self.folder = settings, data, seed, folder
        self.device = choose_device()
        self.sae = make_sae(settings, data.val.shape[1])
        shape = (self.sae.d_in, self.sae.n_features)
        self.dtype = pick_dtype("auto", self.device, shape)
        predicted = data.val if data.target is None else data.target.val
        self.variance = float((predicted - predicted.mean(0)).square().mean())
        self._initialise(torch.Generator().manual_seed(seed))
        self.sae.start(data.sample)
        self.sae.to(self.device)
        self.optimiser = torch.optim.Adam(
            self.sae.parameters(), betas=(0.9, 0.999), eps=1e-8, fused=True
        )
        self.best_weights = {name: t.clone() for name, t in self.sae.state_dict().items()}
        # vectors since each feature last fired (F,), and the features dead at the last look
        self.silent = torch.zeros(self.sae.n_features, dtype=torch.int64, device=self.device)
        self.dead = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.cursor = Cursor(penalty=settings.penalty or self.sae.default_penalty)
        self.per_epoch = len(data.train) // settings.batch_size
        self.steps = max(1, round(settings.epochs * self.per_epoch))
        self.stopped_early = False
        # (step, penalty, measures) of steps that are not yet written
        self.waiting: list[tuple[int, float, Tensor]] = []

    def _initialise(self, generator: torch.Generator) -> None:
        """Set the weights; make a transcoder of the SAE where the data has a target.

        Raises UsageError for an architecture that cannot be one, and for --skip without a target.
        """
        target, skip = self.data.target, self.settings.skip
        if target is None and skip:
            raise UsageError(
                "A skip connection of an autoencoder would be the identity.",
                "Leave --skip out, or make a run with --site-out.",
            )
        if target is None:
            self.sae.initialise(self.data.mean, generator)
            return
        if not isinstance(self.sae, Untied):
            raise UsageError(
                f"{self.sae.architecture} has one matrix to read and to write with, and a "
                "transcoder reads and writes at two sites.",
                "Use another --architecture.",
            )
        self.sae.make_transcoder(target.val.shape[1], skip, target.scale / self.data.scale)
        self.sae.initialise_transcoder(target.of, target.sample, generator)

    @property
    def ended(self) -> bool:
        """Whether no step is left."""
        return self.stopped_early or self.cursor.step >= self.steps

    # -------------------------------------------------------- steps

    def advance(self, x: Tensor, target: Tensor | None = None) -> None:
        """Do one step on vectors x (B, D), scaled, and what is due after it.

        A transcoder predicts `target` (B, d_out), scaled. Due is: measure on val, revive dead
        features, write a checkpoint.
        """
        self.step(x, target)
        c, s = self.cursor, self.settings
        if c.step % s.check_every == 0 or c.step == self.steps:
            if isinstance(self.sae, TiedL1) and c.step < (1 - s.decay) * self.steps:
                self._revive()
            first = ADAPT_UNTIL * self.steps if s.target_l0 else s.warmup
            if c.step == self.steps or c.step >= first:
                self._measure()
        if c.step % CHECKPOINT_EVERY == 0:
            self._save()
        elif len(self.waiting) >= FLUSH or self.ended:
            self._flush()

    def step(self, x: Tensor, target: Tensor | None = None) -> None:
        """Do one optimiser step on vectors x (B, D), scaled."""
        c, s = self.cursor, self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = (s.lr or self.sae.default_lr) * self._schedule(c.step)
        penalty = c.penalty * self._warmth(c.step)
        loss = self.sae.training_loss(x, penalty, self.dead, self.dtype, target)
        torch.autograd.backward(loss.total)
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), CLIP / self.sae.d_out)
        self.sae.before_step()
        self.optimiser.step()
        self.sae.after_step()
        self.optimiser.zero_grad(set_to_none=True)
        self.silent = torch.where(loss.fired, 0, self.silent + len(x))
        dead = self.silent > DEAD_AFTER
        c.step += 1
        if c.step % DEAD_EVERY == 0:
            self.dead = dead.nonzero()[:, 0]
        measures = (loss.total.detach(), loss.reconstruction, loss.l0, loss.sparsity, dead.sum())
        row = torch.stack([m.to(torch.float32) for m in measures])
        self.waiting.append((c.step, c.penalty, row))
        if self._adapting:
            self._adapt(float(loss.l0))

    @property
    def _adapting(self) -> bool:
        """Whether the penalty still follows --target-l0.

        It does from the end of warm-up into the fall of the learning rate, which changes L0.
        """
        s = self.settings
        return bool(s.target_l0) and s.warmup < self.cursor.step < ADAPT_UNTIL * self.steps

    def _adapt(self, l0: float) -> None:
        """Move the penalty towards the one with `settings.target_l0` features per token.

        L0 answers to the penalty over some hundred steps, so an integral part alone swings (it
        ended at 103 for a target of 32). The error is smoothed and limited, and a proportional part
        damps.
        """
        c = self.cursor
        error = float(np.clip(np.log(max(l0, 1e-3) / self.settings.target_l0), -1.0, 1.0))
        c.l0_error += SMOOTHING * (error - c.l0_error)
        c.l0_sum += INTEGRAL * c.l0_error
        factor = float(np.exp(c.l0_sum + PROPORTIONAL * c.l0_error))
        c.penalty = (self.settings.penalty or self.sae.default_penalty) * factor

    def _schedule(self, step: int) -> float:
        """Return the share of the peak learning rate.

        Linear warm-up, constant, linear to 0 over the last `decay` of all steps.
        """
        s = self.settings
        down = (self.steps - step) / max(1.0, s.decay * self.steps)
        return min(self._warmth(step), down)

    def _warmth(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.settings.warmup))

    # -------------------------------------------------------- measuring and reviving

    @torch.no_grad()
    def _measure(self) -> None:
        """Measure loss and FVU on val, in float32, of the SAE as it would be used."""
        c = self.cursor
        self.sae.eval()
        target = self.data.target
        pairs = zip(
            torch.split(self.data.val, 4096),
            repeat(None) if target is None else torch.split(target.val, 4096),
            strict=False,
        )
        parts = [
            self.sae.training_loss(
                x.to(self.device),
                c.penalty,
                self.dead[:0],
                torch.float32,
                None if y is None else y.to(self.device),
            )
            for x, y in pairs
        ]
        self.sae.train()
        objective = float(np.mean([p.total.item() for p in parts]))
        fvu = float(np.mean([p.reconstruction.item() for p in parts])) / self.variance
        self._flush({"step": c.step, "val_objective": objective, "val_fvu": fvu})
        if not np.isfinite(objective):
            raise UsageError(
                f"The objective became {objective} at step {c.step}.", "Train with a lower --lr."
            )
        if objective < c.best:
            c.best, c.best_step, c.bad = objective, c.step, 0
            self.best_weights = {name: t.clone() for name, t in self.sae.state_dict().items()}
        else:
            c.bad += 1
            self.stopped_early = c.bad >= self.settings.patience

    def _revive(self) -> None:
        """Point the tied SAE's dead features at errors and reset their moments in Adam."""
        dead = (self.silent > DEAD_AFTER).nonzero()[:, 0]
        if not len(dead) or not isinstance(self.sae, TiedL1):
            return
        rng = np.random.default_rng([self.seed, 1, self.cursor.step])
        x = self.data.store.read(np.sort(rng.choice(self.data.train, 4096)))
        x = x.to(self.device).float() / self.data.scale
        generator = torch.Generator(self.device).manual_seed(self.seed + self.cursor.step)
        self.sae.revive(dead, x, generator)
        for parameter in self.sae.parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[parameter][moment][dead] = 0.0
        self.silent[dead] = 0

    # -------------------------------------------------------- files

    def _flush(self, *lines: Metrics) -> None:
        """Write the metrics of steps that wait, then `lines`."""
        waiting, self.waiting = self.waiting, []
        table = torch.stack([row for _, _, row in waiting]).tolist() if waiting else []
        steps = [
            self._line(step, penalty, row)
            for (step, penalty, _), row in zip(waiting, table, strict=True)
        ]
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in (*steps, *lines))

    def _line(self, step: int, penalty: float, row: list[float]) -> Metrics:
        total, reconstruction, l0, sparsity, dead = row
        return {
            "step": step,
            "loss": total,
            "reconstruction": reconstruction,
            "fvu": reconstruction / self.variance,
            "l0": l0,
            "sparsity": sparsity,
            "penalty": penalty,
            "dead": dead / self.sae.n_features,
        }

    def _save(self) -> None:
        self._flush()
        tensors = {f"sae.{n}": t for n, t in self.sae.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in self.best_weights.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
        tensors |= {"silent": self.silent, "dead": self.dead}
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        header = {"cursor": json.dumps(asdict(self.cursor)), "dtype": self._arithmetic}
        write_tensors(self.folder / self.CHECKPOINT, copies, header)

    def resume(self) -> None:
        """Continue from the checkpoint in the folder, if there is one; drop later metrics."""
        path = self.folder / self.CHECKPOINT
        if not path.exists():
            (self.folder / METRICS).unlink(missing_ok=True)
            return
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata()
        self.cursor = Cursor(**json.loads(header["cursor"]))
        self.dtype = getattr(torch, header.get("dtype", self._arithmetic))
        self.stopped_early = self.cursor.bad >= self.settings.patience
        self.sae.load_state_dict(strip_prefix(tensors, "sae."))
        self.best_weights = strip_prefix(tensors, "best.")
        self.silent, self.dead = tensors["silent"], tensors["dead"]
        table = self.optimiser.state_dict()
        indices = {int(n.split(".")[1]) for n in tensors if n.startswith("adam.")}
        table["state"] = {i: strip_prefix(tensors, f"adam.{i}.") for i in sorted(indices)}
        self.optimiser.load_state_dict(table)
        lines = read_metrics(self.folder)
        kept = [line for line in lines if line["step"] <= self.cursor.step]
        with replace_file(self.folder / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        say(f"{self.sae.architecture} continues from step {self.cursor.step} of {self.steps}")

    @property
    def _arithmetic(self) -> str:
        """Return the name of the type in which the large products are made."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    # -------------------------------------------------------- result

    def finish(self) -> SAE:
        """Return the SAE with the best weights, reading raw activations, on the CPU."""
        if self.cursor.best < float("inf"):
            self.sae.load_state_dict(self.best_weights)
        target = self.data.target
        return self.sae.finish(self.data.scale if target is None else target.scale)

    def summarise(self) -> Metrics:
        """Return the manifest's summary of the training."""
        c = self.cursor
        lines = read_metrics(self.folder)
        best = next((m for m in lines if m["step"] == c.best_step and "val_fvu" in m), {})
        last = [m for m in lines if "l0" in m][-1]
        return {
            "architecture": self.sae.architecture,
            "features": self.sae.n_features,
            "width": self.sae.d_in,
            **self._describe_target(),
            "steps": c.step,
            "steps_at_most": self.steps,
            "best_step": c.best_step,
            "stopped_early": self.stopped_early,
            "vectors": c.step * self.settings.batch_size,
            "scale": self.data.scale,
            "norm_outliers": self.data.outliers,
            "val_fvu": best.get("val_fvu"),
            "l0": last["l0"],
            "dead": last["dead"],
            "penalty": c.penalty,
            "arithmetic": self._arithmetic,
        }

    def _describe_target(self) -> Metrics:
        """Return what the summary of a transcoder says beside that of an autoencoder."""
        target = self.data.target
        if target is None:
            return {}
        return {"width_out": self.sae.d_out, "scale_out": target.scale, "skip": self.settings.skip}


def make_sae(settings: TrainSettings, width: int) -> Trainable:
    """Return a new autoencoder in training for vectors of `width` numbers.

    Raises UsageError for a k that does not fit, and for --target-l0 where there is no penalty.
    """
    n_features = max(1, round(settings.expansion * width))
    kind: Callable[..., Trainable] = KINDS[settings.architecture]
    if settings.architecture not in WITH_K:
        return kind(width, n_features)
    if settings.target_l0:
        raise UsageError(
            f"{settings.architecture} has no penalty to adapt to "
            f"--target-l0 {settings.target_l0:g}.",
            f"Use --k {settings.target_l0:g}.",
        )
    return kind(width, n_features, settings.k)


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

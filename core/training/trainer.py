"""One autoencoder in training: its weights, optimiser and cursor, its checkpoint and its metrics.

The objective is measured on the val split, at the final penalty, from the end of warm-up on; the weights with the best one are
kept, and `patience` measurements without a better one end the training. Everything that the next step depends on is in
.checkpoint.safetensors, so a killed training goes on to the same bits (on the same machine). Nothing is read back from the device in a
step but for `l0`: metrics wait there until `FLUSH` of them are written.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from core.activations.store import ActivationStore
from core.devices import pick_device, pick_dtype
from core.errors import UsageError
from core.files import read_lines, replacing, write_tensors
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
from core.settings import WITH_K, TrainSettings

KINDS = {
    kind.architecture: kind for kind in (TopK, BatchTopK, Matryoshka, L1, JumpReLU, Gated, TiedL1)
}
ADAPT_UNTIL = 0.85  # share of all steps in which the penalty follows --l0; then it stands still and early stopping begins
PROPORTIONAL, INTEGRAL, SMOOTHING = (
    1.0,
    0.006,
    0.1,
)  # gains a step of the penalty's control by --l0, on the log of L0 over its target
CLIP = 1.0  # norm of all gradients, were the squared error summed over dimensions as in the papers, and not their mean
FLUSH = 50  # steps whose metrics wait on the device
DEAD_EVERY = 10  # steps between looks at which features are dead


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
    """Where training reads: the store, the ordinals of the train split, scaled vectors of the val split (m, D), mean and scale, and some scaled
    vectors (n, D) of the train split."""

    store: ActivationStore
    train: np.ndarray
    val: Tensor
    mean: Tensor
    scale: float
    sample: Tensor


class Trainer:
    """The state of one training: SAE, optimiser, cursor, the best weights so far, and when each feature last fired."""

    CHECKPOINT = ".checkpoint.safetensors"  # hidden: not a part of the unit

    def __init__(self, settings: TrainSettings, data: Data, seed: int, folder: Path):
        self.settings, self.data, self.seed, self.folder = settings, data, seed, folder
        self.device = pick_device("auto") if torch.cuda.is_available() else torch.device("cpu")
        self.dtype = pick_dtype("auto", self.device)
        self.sae = make_sae(settings, data.val.shape[1])
        self.sae.initialise(data.mean, torch.Generator().manual_seed(seed))
        self.sae.start(data.sample)
        self.sae.to(self.device)
        self.optimiser = torch.optim.Adam(
            self.sae.parameters(), betas=(0.9, 0.999), eps=1e-8, fused=True
        )
        self.best_weights = {name: t.clone() for name, t in self.sae.state_dict().items()}
        self.silent = torch.zeros(
            self.sae.n_features, dtype=torch.int64, device=self.device
        )  # vectors since it last fired
        self.dead = torch.zeros(
            0, dtype=torch.int64, device=self.device
        )  # features (n,), as of the last look
        self.cursor = Cursor(penalty=settings.l1 or self.sae.default_penalty)
        self.per_epoch = len(data.train) // settings.batch
        self.steps = max(1, round(settings.epochs * self.per_epoch))
        self.variance = float((data.val - data.val.mean(0)).square().mean())
        self.stopped_early = False
        self.waiting: list[
            tuple[int, float, Tensor]
        ] = []  # (step, penalty, what was measured) of steps not yet written

    @property
    def ended(self) -> bool:
        return self.stopped_early or self.cursor.step >= self.steps

    # -------------------------------------------------------- steps

    def advance(self, x: Tensor) -> None:
        """One step on vectors x (B, D), scaled, and what is due behind it: measure on val, revive dead features, write a checkpoint."""
        self.step(x)
        c, s = self.cursor, self.settings
        if c.step % s.check_every == 0 or c.step == self.steps:
            if isinstance(self.sae, TiedL1) and c.step < (1 - s.decay) * self.steps:
                self._revive()
            if c.step == self.steps or c.step >= (ADAPT_UNTIL * self.steps if s.l0 else s.warmup):
                self._measure()
        if c.step % s.checkpoint_every == 0:
            self._save()
        elif len(self.waiting) >= FLUSH or self.ended:
            self._flush()

    def step(self, x: Tensor) -> None:
        """One optimiser step on vectors x (B, D), scaled."""
        c, s = self.cursor, self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = (s.rate or self.sae.default_rate) * self._schedule(c.step)
        loss = self.sae.training_loss(x, c.penalty * self._warmth(c.step), self.dead, self.dtype)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), CLIP / self.sae.d_in)
        self.sae.before_step()
        self.optimiser.step()
        self.sae.after_step()
        self.optimiser.zero_grad(set_to_none=True)
        self.silent = torch.where(loss.fired, 0, self.silent + len(x))
        dead = self.silent > s.dead_after
        c.step += 1
        if c.step % DEAD_EVERY == 0:
            self.dead = dead.nonzero()[:, 0]
        measured = (loss.total.detach(), loss.reconstruction, loss.l0, loss.sparsity, dead.sum())
        self.waiting.append(
            (c.step, c.penalty, torch.stack([m.to(torch.float32) for m in measured]))
        )
        if self._adapting:
            self._adapt(float(loss.l0))

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
        c.penalty = (self.settings.l1 or self.sae.default_penalty) * float(
            np.exp(c.l0_sum + PROPORTIONAL * c.l0_error)
        )

    def _schedule(self, step: int) -> float:
        """Share of the peak rate: linear warm-up, constant, linear to 0 over the last `decay` of all steps."""
        s = self.settings
        down = (self.steps - step) / max(1.0, s.decay * self.steps)
        return min(self._warmth(step), down)

    def _warmth(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.settings.warmup))

    # -------------------------------------------------------- measuring and reviving

    @torch.no_grad()
    def _measure(self) -> None:
        """Loss and FVU on val, in float32, of the SAE as it would be used."""
        c = self.cursor
        self.sae.eval()
        parts = [
            self.sae.training_loss(x.to(self.device), c.penalty, self.dead[:0], torch.float32)
            for x in self.data.val.split(4096)
        ]
        self.sae.train()
        objective = float(np.mean([p.total.item() for p in parts]))
        fvu = float(np.mean([p.reconstruction.item() for p in parts])) / self.variance
        self._flush({"step": c.step, "val_objective": objective, "val_fvu": fvu})
        if not np.isfinite(objective):
            raise UsageError(
                f"The objective became {objective} at step {c.step}.", "Train with a lower --rate."
            )
        if objective < c.best:
            c.best, c.best_step, c.bad = objective, c.step, 0
            self.best_weights = {name: t.clone() for name, t in self.sae.state_dict().items()}
        else:
            c.bad += 1
            self.stopped_early = c.bad >= self.settings.patience

    def _revive(self) -> None:
        """Re-point the tied SAE's dead features at what it cannot reconstruct yet, and forget their moments."""
        dead = (self.silent > self.settings.dead_after).nonzero()[:, 0]
        if not len(dead):
            return
        rng = np.random.default_rng([self.seed, 1, self.cursor.step])
        x = (
            self.data.store.read(np.sort(rng.choice(self.data.train, 4096))).to(self.device).float()
            / self.data.scale
        )
        self.sae.revive(
            dead, x, torch.Generator(self.device).manual_seed(self.seed + self.cursor.step)
        )
        for parameter in self.sae.parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[parameter][moment][dead] = 0.0
        self.silent[dead] = 0

    # -------------------------------------------------------- files

    def _flush(self, *lines: dict) -> None:
        """Write the metrics of steps that wait, then `lines`."""
        if self.waiting:
            table = torch.stack([measured for _, _, measured in self.waiting]).tolist()
            lines = (
                *(
                    self._line(step, penalty, *row)
                    for (step, penalty, _), row in zip(self.waiting, table, strict=True)
                ),
                *lines,
            )
            self.waiting = []
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def _line(
        self,
        step: int,
        penalty: float,
        total: float,
        reconstruction: float,
        l0: float,
        sparsity: float,
        dead: float,
    ) -> dict:
        return {
            "step": step, "loss": total, "reconstruction": reconstruction, "fvu": reconstruction / self.variance, "l0": l0,
            "sparsity": sparsity, "penalty": penalty, "dead": dead / self.sae.n_features,
        }  # fmt: skip

    def _save(self) -> None:
        self._flush()
        tensors = {f"sae.{n}": t for n, t in self.sae.state_dict().items()} | {
            f"best.{n}": t for n, t in self.best_weights.items()
        }
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
        tensors |= {"silent": self.silent, "dead": self.dead}
        header = {"cursor": json.dumps(asdict(self.cursor))}
        write_tensors(
            self.folder / self.CHECKPOINT, {n: t.clone() for n, t in tensors.items()}, header
        )

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
        part = lambda prefix: {
            n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)
        }
        self.sae.load_state_dict(part("sae."))
        self.best_weights, self.silent, self.dead = (
            part("best."),
            tensors["silent"],
            tensors["dead"],
        )
        table = self.optimiser.state_dict()
        indices = {int(n.split(".")[1]) for n in tensors if n.startswith("adam.")}
        table["state"] = {i: part(f"adam.{i}.") for i in sorted(indices)}
        self.optimiser.load_state_dict(table)
        kept = [
            m for m in read_lines(self.folder / "metrics.jsonl") if m["step"] <= self.cursor.step
        ]
        with replacing(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        say(f"{self.sae.architecture} goes on from step {self.cursor.step} of {self.steps}")

    # -------------------------------------------------------- result

    def finished(self) -> SAE:
        """The SAE with the best weights, reading raw activations, on the CPU."""
        if self.cursor.best < float("inf"):
            self.sae.load_state_dict(self.best_weights)
        return self.sae.finished(self.data.scale)

    def summary(self) -> dict:
        c = self.cursor
        measured = read_lines(self.folder / "metrics.jsonl")
        best = next((m for m in measured if m["step"] == c.best_step and "val_fvu" in m), {})
        last = [m for m in measured if "l0" in m][-1]
        return {
            "architecture": self.sae.architecture, "features": self.sae.n_features, "width": self.sae.d_in, "steps": c.step, "steps_at_most": self.steps,
            "best_step": c.best_step, "stopped_early": self.stopped_early, "vectors": c.step * self.settings.batch, "scale": self.data.scale,
            "val_fvu": best.get("val_fvu"), "l0": last["l0"], "dead": last["dead"], "penalty": c.penalty,
            "arithmetic": "bfloat16" if self.dtype == torch.bfloat16 else "float32",
        }  # fmt: skip


def make_sae(settings: TrainSettings, width: int) -> Trainable:
    """Raises UsageError for a k that does not fit, and for --l0 where there is no penalty to adapt."""
    n_features = max(1, round(settings.expansion * width))
    kind = KINDS[settings.architecture]
    if settings.architecture not in WITH_K:
        return kind(width, n_features)
    if settings.l0:
        raise UsageError(
            f"{settings.architecture} has no penalty that could be adapted to --l0 {settings.l0:g}.",
            f"Use --k {settings.l0:g}.",
        )
    return kind(width, n_features, settings.k)

"""Trainings by other libraries, for `peers.py`: batches of scaled vectors in, a folder in the
library's own layout out, for raw vectors.

A trainer gets `data`, an iterable of (B, D) float32 batches with `steps` and the `scale` that they
were divided by; `asked` holds the width, rate and penalty. It returns what the library itself
reconstructs from `probe(data)`, or None where that looks at a batch. Where a default is made for
long trainings (when a feature counts as dead, how fast a running threshold moves, warm-up), it is
set to ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

BATCH, EXPANSION, K = 4096, 8, 32
DEAD_AFTER, THRESHOLD_RATE = 500_000, 0.1  # vectors; share of the way a step
SHARES = (
    1 / 16,
    1 / 16,
    1 / 8,
    1 / 4,
    1 / 2,
)  # of the features that each prefix of a Matryoshka SAE adds, as ours


@dataclass(frozen=True)
class Asked:
    """What to train: width D, learning rate (0: the library's default), weight of the penalty,
    steps of warm-up.
    """

    architecture: str
    d: int
    rate: float
    penalty: float
    warmup: int = 100

    @property
    def features(self) -> int:
        return EXPANSION * self.d


def probe(data):
    """(256, D): vectors on which loading is checked."""
    return next(iter(data))[:256]


def dictlearn_trainer(asked, steps):
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {
        "steps": steps,
        "activation_dim": asked.d,
        "dict_size": asked.features,
        "layer": 0,
        "lm_name": "none",
        "device": "cpu",
    }
    common |= {"warmup_steps": asked.warmup, "seed": 0, "decay_start": int(0.7 * steps)} | (
        {"lr": asked.rate} if asked.rate else {}
    )
    with_k = {"k": K, "threshold_start_step": 100, "threshold_beta": 1 - THRESHOLD_RATE}
    match asked.architecture:
        case "l1":
            return StandardTrainer(
                **common, l1_penalty=asked.penalty, sparsity_warmup_steps=asked.warmup
            )
        case "gated":
            return GatedSAETrainer(
                **common, l1_penalty=asked.penalty, sparsity_warmup_steps=asked.warmup
            )
        case "jumprelu":  # its penalty is a target for L0, not a weight
            return JumpReluTrainer(
                **common, target_l0=asked.penalty, sparsity_warmup_steps=asked.warmup
            )
        case "topk":
            return TopKTrainer(**common, **with_k)
        case "batch_topk":
            return BatchTopKTrainer(**common, **with_k)
        case "matryoshka":
            return MatryoshkaBatchTopKTrainer(**common, **with_k, group_fractions=list(SHARES))
    raise SystemExit(f"dictionary_learning has no {asked.architecture}")


def dictlearn(asked, data, folder):
    """Vectors have unit length on average, as its own demo makes them.

    Saved as its backup with the factor of the scale, which its end of training would take in.
    """
    trainer, shrink = dictlearn_trainer(asked, data.steps), asked.d**0.5
    trainer.dead_feature_threshold = DEAD_AFTER
    for step, x in enumerate(data):
        trainer.update(step, x / shrink)
    config = trainer.config | {"dict_class": type(trainer.ae).__name__}
    torch.save(
        {"ae": trainer.ae.state_dict(), "config": config, "norm_factor": data.scale * shrink},
        folder / "ae.pt",
    )
    (folder / "config.json").write_text(json.dumps({"trainer": config}, default=float))
    return trainer.ae(probe(data) / shrink).detach() * shrink


SAELENS = {
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "l1": "Standard",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "matryoshka": "MatryoshkaBatchTopK",
}


def saelens(asked, data, folder):
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name, ends = SAELENS[asked.architecture], torch.tensor(SHARES).cumsum(0)
    options = {
        "l1": {"l1_coefficient": asked.penalty, "l1_warm_up_steps": asked.warmup},
        "gated": {"l1_coefficient": asked.penalty, "l1_warm_up_steps": asked.warmup},
        "jumprelu": {"l0_coefficient": asked.penalty, "l0_warm_up_steps": asked.warmup},
        "batch_topk": {"k": K, "topk_threshold_lr": THRESHOLD_RATE},
        "matryoshka": {
            "k": K,
            "topk_threshold_lr": THRESHOLD_RATE,
            "matryoshka_widths": [round(float(end) * asked.features) for end in ends],
        },
    }.get(asked.architecture, {"k": K})
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=asked.d, d_sae=asked.features, device="cpu", apply_b_dec_to_input=True, **options
    )
    sae, rate = getattr(sae_lens, f"{name}TrainingSAE")(config), asked.rate or 3e-4
    config = SAETrainerConfig(
        total_training_samples=data.steps * BATCH, train_batch_size_samples=BATCH, lr=rate, lr_end=rate / 10, lr_warm_up_steps=asked.warmup,
        lr_decay_steps=int(0.3 * data.steps), device="cpu", autocast=True, dead_feature_window=DEAD_AFTER // BATCH,
    )  # fmt: skip
    SAETrainer(cfg=config, sae=sae, data_provider=iter(data)).fit()
    known = (
        None if asked.architecture in ("batch_topk", "matryoshka") else sae(probe(data)).detach()
    )
    sae.fold_activation_norm_scaling_factor(1 / data.scale)
    sae.save_inference_model(folder)
    return known

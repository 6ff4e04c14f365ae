"""Trainings by other libraries, for `peers.py`: batches of scaled vectors in, the tensors of an SAE in our orientation out.

A trainer gets `data`, an iterable of (B, D) float32 batches with `steps` and `warmup`; `asked` holds the width, rate and penalty. It returns (tensors,
what the library itself reconstructs from x, or None where that looks at a batch, the factor by which it shrank its vectors).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BATCH, EXPANSION, K = 4096, 8, 32
SHARES = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the features that each prefix of a Matryoshka SAE adds, as ours


@dataclass(frozen=True)
class Asked:
    """What to train: width D, learning rate (0: the library's default), weight of the penalty, steps of warm-up."""

    architecture: str
    d: int
    rate: float
    penalty: float
    warmup: int = 100

    @property
    def features(self) -> int:
        return EXPANSION * self.d


def dictlearn_trainer(asked, steps):
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {"steps": steps, "activation_dim": asked.d, "dict_size": asked.features, "layer": 0, "lm_name": "none", "device": "cpu"}
    common |= {"warmup_steps": asked.warmup, "seed": 0, "decay_start": int(0.7 * steps)} | ({"lr": asked.rate} if asked.rate else {})
    with_k = {"k": K, "threshold_start_step": 100}
    match asked.architecture:
        case "l1":
            return StandardTrainer(**common, l1_penalty=asked.penalty, sparsity_warmup_steps=asked.warmup)
        case "gated":
            return GatedSAETrainer(**common, l1_penalty=asked.penalty, sparsity_warmup_steps=asked.warmup)
        case "jumprelu":  # its penalty is a target for L0, not a weight
            return JumpReluTrainer(**common, target_l0=asked.penalty, sparsity_warmup_steps=asked.warmup)
        case "topk":
            return TopKTrainer(**common, **with_k)
        case "batch_topk":
            return BatchTopKTrainer(**common, **with_k)
        case "matryoshka":
            return MatryoshkaBatchTopKTrainer(**common, **with_k, group_fractions=list(SHARES))
    raise SystemExit(f"dictionary_learning has no {asked.architecture}")


def dictlearn(asked, data):
    """Vectors have unit length on average, as its own demo makes them; what is not given here are its defaults."""
    trainer, shrink = dictlearn_trainer(asked, data.steps), asked.d**0.5
    for step, x in enumerate(data):
        trainer.update(step, x / shrink)
    ae = trainer.ae
    if asked.architecture in ("jumprelu", "matryoshka"):
        tensors = {name: getattr(ae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    else:
        b_dec = {"l1": "bias", "gated": "decoder_bias"}.get(asked.architecture, "b_dec")
        b_enc = ae.gate_bias if asked.architecture == "gated" else ae.encoder.bias
        tensors = {"W_enc": ae.encoder.weight.T, "b_enc": b_enc, "W_dec": ae.decoder.weight.T, "b_dec": getattr(ae, b_dec)}
    if asked.architecture == "jumprelu":  # reads x itself, not x - b_dec
        tensors |= {"b_enc": ae.b_enc + ae.b_dec @ ae.W_enc, "threshold": ae.threshold}
    elif asked.architecture == "gated":
        tensors |= {"gate_scale": ae.r_mag.exp(), "gate_bias": ae.mag_bias}
    elif asked.architecture in ("batch_topk", "matryoshka"):
        tensors["threshold"] = ae.threshold.detach().clamp(min=0).repeat(asked.features)
    return tensors, lambda x: ae(x / shrink) * shrink, shrink


SAELENS = {"topk": "TopK", "batch_topk": "BatchTopK", "l1": "Standard", "jumprelu": "JumpReLU", "gated": "Gated", "matryoshka": "MatryoshkaBatchTopK"}


def saelens(asked, data):
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name, ends = SAELENS[asked.architecture], torch.tensor(SHARES).cumsum(0)
    options = {
        "l1": {"l1_coefficient": asked.penalty, "l1_warm_up_steps": asked.warmup},
        "gated": {"l1_coefficient": asked.penalty, "l1_warm_up_steps": asked.warmup},
        "jumprelu": {"l0_coefficient": asked.penalty, "l0_warm_up_steps": asked.warmup},
        "matryoshka": {"k": K, "matryoshka_widths": [round(float(end) * asked.features) for end in ends]},
    }.get(asked.architecture, {"k": K})
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=asked.d, d_sae=asked.features, device="cpu", apply_b_dec_to_input=True, **options)
    sae, rate = getattr(sae_lens, f"{name}TrainingSAE")(config), asked.rate or 3e-4
    config = SAETrainerConfig(
        total_training_samples=data.steps * BATCH, train_batch_size_samples=BATCH, lr=rate, lr_end=rate / 10, lr_warm_up_steps=asked.warmup,
        lr_decay_steps=int(0.3 * data.steps), device="cpu", autocast=True,
    )  # fmt: skip
    SAETrainer(cfg=config, sae=sae, data_provider=iter(data)).fit()
    with_k = asked.architecture in ("topk", "batch_topk", "matryoshka")
    length = sae.W_dec.norm(dim=1) if with_k and sae.cfg.rescale_acts_by_decoder_norm else torch.ones(asked.features)
    b_enc = sae.b_gate if asked.architecture == "gated" else sae.b_enc
    tensors = {"W_enc": sae.W_enc * length, "b_enc": b_enc * length, "W_dec": sae.W_dec / length[:, None], "b_dec": sae.b_dec}
    if asked.architecture in ("batch_topk", "matryoshka"):
        return tensors | {"threshold": sae.topk_threshold.float().repeat(asked.features)}, None, 1.0
    if asked.architecture == "jumprelu":
        tensors["threshold"] = sae.threshold
    elif asked.architecture == "gated":
        tensors |= {"gate_scale": sae.r_mag.exp(), "gate_bias": sae.b_mag}
    return tensors, lambda x: sae.decode(sae.encode(x)), 1.0

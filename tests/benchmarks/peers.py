"""Our training beside that of SAELens and dictionary_learning: the same stored vectors in the same order, batch 4,096, width, L0.

    PEER/bin/python tests/benchmarks/peers.py train RUN OUT PEER-ARCHITECTURE [--rate R] [--penalty P]     PEER: saelens, dictlearn
    python          tests/benchmarks/peers.py train RUN OUT ours-ARCHITECTURE [--penalty P | --l0 L]
    python          tests/benchmarks/peers.py table RUN OUT

RUN needs a capture. ARCHITECTURE is topk, batch_topk or l1. Each training writes its SAE, in our form, to a folder under OUT; a peer's is
checked against what the peer itself reconstructs. `table` measures all of OUT on the score split with this program's own FVU and cross-entropy.
Penalties weigh the same when ours is P, that of dictionary_learning sqrt(D) P and that of SAELens D P: their vectors have other lengths.
Peers run in environments of their own (`pip install sae-lens==6.54.12`, `dictionary-learning==0.1.0`, beside the same torch).
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from core.activations import ActivationStore  # noqa: E402
from core.files import read_json  # noqa: E402
from core.saes import SAE, Form, load_sae, save_sae  # noqa: E402

BATCH, EXPANSION, K = 4096, 8, 32


class Stored:
    """Batches of RUN's explain split divided by one constant (unit variance a dimension), in the order in which `train` reads them."""

    def __init__(self, run, steps):
        capture = pathlib.Path(run) / "capture"
        split, offsets, documents = (np.load(capture / f"{name}.npy") for name in ("split", "row_offsets", "row_document"))
        self.explain = np.flatnonzero(np.repeat(split[documents] == 0, np.diff(offsets)))
        self.store, self.steps = ActivationStore(capture), steps
        sample = self.store.read(self.explain[:: max(1, len(self.explain) // 65_536)]).double()
        self.scale = float((sample - sample.mean(0)).square().mean().sqrt())
        self.seed = read_json(pathlib.Path(run) / "run.json")["seed"]

    def __iter__(self):
        epochs = itertools.chain.from_iterable(self.store.shuffled(self.explain, BATCH, self.seed, epoch) for epoch in itertools.count())
        return (x.float() / self.scale for x in itertools.islice(epochs, self.steps))


def unscaled(form, tensors, scale):
    """The SAE for raw vectors from one for vectors over `scale`, with unit decoder rows."""
    length = tensors["W_dec"].norm(dim=1)
    tensors = {name: t.detach().clone() for name, t in tensors.items()}
    tensors |= {"W_dec": tensors["W_dec"] / length[:, None], "W_enc": tensors["W_enc"] * length, "b_enc": tensors["b_enc"] * length * scale}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"] * length * scale
    return SAE(form, tensors | {"b_dec": tensors["b_dec"] * scale})


def dictlearn(architecture, data, d, rate, penalty):
    """Vectors have unit length on average, as its own demo makes them; the rest are its defaults."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {"steps": data.steps, "activation_dim": d, "dict_size": EXPANSION * d, "layer": 0, "lm_name": "none", "device": "cpu"}
    common |= {"warmup_steps": 100, "seed": 0} | ({"lr": rate} if rate else {})
    if architecture == "l1":
        trainer = StandardTrainer(**common, l1_penalty=penalty, sparsity_warmup_steps=100)
    else:
        kind = {"topk": TopKTrainer, "batch_topk": BatchTopKTrainer}[architecture]
        trainer = kind(**common, k=K, decay_start=int(0.7 * data.steps), threshold_start_step=100)
    shrink = d**0.5
    for step, x in enumerate(data):
        trainer.update(step, x / shrink)
    ae = trainer.ae
    b_dec = ae.bias if architecture == "l1" else ae.b_dec
    tensors = {"W_enc": ae.encoder.weight.T, "b_enc": ae.encoder.bias, "W_dec": ae.decoder.weight.T, "b_dec": b_dec}
    if architecture == "batch_topk":
        tensors["threshold"] = ae.threshold.detach().repeat(EXPANSION * d)
    return tensors, lambda x: ae(x / shrink) * shrink, shrink


def saelens(architecture, data, d, rate, penalty):
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name = {"topk": "TopK", "batch_topk": "BatchTopK", "l1": "Standard"}[architecture]
    options = {"l1_coefficient": penalty, "l1_warm_up_steps": 100, "apply_b_dec_to_input": True} if architecture == "l1" else {"k": K}
    sae = getattr(sae_lens, f"{name}TrainingSAE")(getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=d, d_sae=EXPANSION * d, device="cpu", **options))
    rate = rate or 3e-4
    config = SAETrainerConfig(
        total_training_samples=data.steps * BATCH, train_batch_size_samples=BATCH, lr=rate, lr_end=rate / 10, lr_warm_up_steps=100,
        lr_decay_steps=int(0.3 * data.steps), device="cpu", autocast=True,
    )  # fmt: skip
    SAETrainer(cfg=config, sae=sae, data_provider=iter(data)).fit()
    length = sae.W_dec.norm(dim=1) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else torch.ones(EXPANSION * d)
    tensors = {"W_enc": sae.W_enc * length, "b_enc": sae.b_enc * length, "W_dec": sae.W_dec / length[:, None], "b_dec": sae.b_dec}
    if architecture == "batch_topk":
        tensors["threshold"] = sae.topk_threshold.float().repeat(EXPANSION * d)
    return tensors, None if architecture == "batch_topk" else lambda x: sae.decode(sae.encode(x)), 1.0


def peer(kind, architecture, arguments):
    """Train with another library and write what it learned in our form, after comparing what both reconstruct."""
    data = Stored(arguments.run, arguments.steps)
    tensors, reconstruct, shrink = kind(architecture, data, data.store.width, arguments.rate, arguments.penalty)
    form = {"topk": Form("topk", "topk", K), "batch_topk": Form("batch_topk", "jumprelu"), "l1": Form("l1", "relu")}[architecture]
    sae = unscaled(form, tensors, data.scale * shrink)
    if reconstruct is not None:
        x = next(iter(data))[:256]
        with torch.no_grad():
            difference = float((sae.reconstruct(x * data.scale) / data.scale - reconstruct(x)).abs().max())
        assert difference < 1e-3, f"conversion is wrong by {difference}"
    return sae


def ours(architecture, arguments, folder):
    from core.settings import TrainSettings
    from core.train import fit, load_data
    from core.trainer import Trainer

    seed = read_json(pathlib.Path(arguments.run) / "run.json")["seed"]
    data = load_data(pathlib.Path(arguments.run) / "capture", BATCH, seed)
    epochs = arguments.steps / (len(data.explain) // BATCH)
    trainer = Trainer(TrainSettings(architecture, EXPANSION, K, l1=arguments.penalty, l0=arguments.l0, rate=arguments.rate, epochs=epochs), data, seed, folder)
    fit([trainer], data, BATCH, seed)
    return trainer.finished()


def train(arguments):
    who, _, architecture = arguments.what.partition("-")
    suffix = "".join(f"-{name}{value:g}" for name in ("rate", "penalty", "l0") if (value := getattr(arguments, name)))
    folder = pathlib.Path(arguments.out) / f"{arguments.what}{suffix}"
    folder.mkdir(parents=True)
    start = time.process_time()
    sae = ours(architecture, arguments, folder) if who == "ours" else peer({"saelens": saelens, "dictlearn": dictlearn}[who], architecture, arguments)
    save_sae(sae, folder)
    (folder / "cost.json").write_text(json.dumps({"cpu_s": time.process_time() - start, "steps": arguments.steps}))


def table(arguments):
    from core.evaluate import draw_sample, measured
    from core.run import Run

    sample = draw_sample(Run.open(arguments.run), 50_000, 20_000)
    print("| SAE | FVU | L0 | dead | CE | recovered (mean ablation) | CPU s |\n|---|---|---|---|---|---|---|")
    for folder in sorted(p.parent for p in pathlib.Path(arguments.out).glob("*/sae.safetensors")):
        m, cost = measured(load_sae(folder), sample), read_json(folder / "cost.json")["cpu_s"]
        print(f"| {folder.name} | {m['fvu']:.4f} | {m['l0']:.1f} | {m['dead_share']:.3f} | {m['ce_spliced']:.4f} | {m['recovered_mean']:.4f} | {cost:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["train", "table"])
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("what", nargs="?")
    parser.add_argument("--steps", type=int, default=373)
    for name in ("rate", "penalty", "l0"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    (train if arguments.verb == "train" else table)(arguments)


if __name__ == "__main__":
    main()

"""Our training beside that of SAELens and dictionary_learning: the same stored vectors in the same order, batch 4,096, width, L0.

    PEER/bin/python tests/benchmarks/peers.py train RUN OUT PEER-ARCHITECTURE [--rate R] [--penalty P]     PEER: saelens, dictlearn
    python          tests/benchmarks/peers.py train RUN OUT ours-ARCHITECTURE [--penalty P | --l0 L]
    python          tests/benchmarks/peers.py table RUN OUT

RUN needs a capture. ARCHITECTURE is topk, batch_topk, matryoshka, l1, jumprelu or gated. Each training writes its SAE, in our form, to a folder under OUT; a peer's is
checked against what the peer itself reconstructs. `table` measures all of OUT on the score split with this program's own FVU and cross-entropy.
Penalties weigh the same when ours is P, that of dictionary_learning sqrt(D) P and that of SAELens D P: their vectors have other lengths. The
penalty of dictionary_learning's JumpReLU is the L0 that it aims at.
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

sys.path[0] = str(pathlib.Path(__file__).parents[2])  # not this folder, whose requests.py would stand before the library of that name

from core.activations import ActivationStore  # noqa: E402
from core.files import read_json  # noqa: E402
from core.saes import SAE, Form, load_sae, save_sae  # noqa: E402
from tests.benchmarks.peer_trainers import BATCH, EXPANSION, Asked, K, dictlearn, saelens  # noqa: E402

FORMS = {name: Form(name, kind) for name, kind in (("l1", "relu"), ("jumprelu", "jumprelu"), ("gated", "gated"))}
FORMS |= {"topk": Form("topk", "topk", K), "batch_topk": Form("batch_topk", "jumprelu"), "matryoshka": Form("matryoshka", "jumprelu")}


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
    tensors |= {name: tensors[name] * length * scale for name in ("threshold", "gate_bias") if name in tensors}
    return SAE(form, tensors | {"b_dec": tensors["b_dec"] * scale})


def peer(kind, architecture, arguments):
    """Train with another library and write what it learned in our form, after comparing what both reconstruct."""
    data = Stored(arguments.run, arguments.steps)
    tensors, reconstruct, shrink = kind(Asked(architecture, data.store.width, arguments.rate, arguments.penalty), data)
    sae = unscaled(FORMS[architecture], tensors, data.scale * shrink)
    if reconstruct is not None:
        x = next(iter(data))[:256]
        with torch.no_grad():
            difference = float((sae.reconstruct(x * data.scale) / data.scale - reconstruct(x)).abs().max())
        assert difference < 1e-2 * float(x.abs().max()), f"conversion is wrong by {difference}"
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

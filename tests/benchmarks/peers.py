"""Our training beside that of SAELens and dictionary_learning: the same stored vectors in the same
order, batch 4,096, width, L0.

    PEER/bin/python tests/benchmarks/peers.py train RUN OUT PEER-ARCHITECTURE [--rate R] [--penalty P]     PEER: saelens, dictlearn
    python          tests/benchmarks/peers.py train RUN OUT ours-ARCHITECTURE [--penalty P | --l0 L]
    python          tests/benchmarks/peers.py table RUN OUT

RUN needs a capture. ARCHITECTURE is topk, batch_topk, matryoshka, l1, jumprelu or gated. Each
training writes its SAE to a folder under OUT, a peer's in its own layout, and what ours loads from
there is checked against what the peer reconstructs. `table` measures all of OUT on the test split
with this program's own FVU and cross-entropy. Penalties weigh the same when ours is P, that of
dictionary_learning sqrt(D) P and that of SAELens D P: their vectors have other lengths. The penalty
of dictionary_learning's JumpReLU is the L0 that it aims at. Peers run in environments of their own
(`pip install sae-lens==6.54.12`, `dictionary-learning==0.1.0`, beside the same torch).
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

sys.path[0] = str(
    pathlib.Path(__file__).parents[2]
)  # not this folder, whose requests.py would stand before the library of that name

from core.activations.store import ActivationStore  # noqa: E402
from core.files import read_json  # noqa: E402
from core.saes import SAE  # noqa: E402
from tests.benchmarks.peer_trainers import (
    BATCH,  # noqa: E402
    EXPANSION,  # noqa: E402
    Asked,  # noqa: E402
    K,  # noqa: E402
    dictlearn,  # noqa: E402
    probe,  # noqa: E402
    saelens,  # noqa: E402
)


class Stored:
    """Batches of RUN's train split divided by one constant (unit variance a dimension), in the
    order in which `train` reads them.
    """

    def __init__(self, run, steps):
        capture = pathlib.Path(run) / "capture"
        split, offsets, documents = (
            np.load(capture / f"{name}.npy") for name in ("split", "row_offsets", "row_document")
        )
        self.train = np.flatnonzero(np.repeat(split[documents] == 0, np.diff(offsets)))
        self.store, self.steps = ActivationStore(capture), steps
        sample = self.store.read(self.train[:: max(1, len(self.train) // 65_536)]).double()
        self.scale = float((sample - sample.mean(0)).square().mean().sqrt())
        self.seed = read_json(pathlib.Path(run) / "run.json")["seed"]

    def __iter__(self):
        epochs = itertools.chain.from_iterable(
            self.store.shuffled(self.train, BATCH, self.seed, epoch) for epoch in itertools.count()
        )
        return (x.float() / self.scale for x in itertools.islice(epochs, self.steps))


def peer(kind, architecture, arguments, folder):
    """Train with another library, which saves in its own layout, and compare what it reconstructs
    with what ours loads from there.
    """
    data = Stored(arguments.run, arguments.steps)
    known = kind(
        Asked(architecture, data.store.width, arguments.rate, arguments.penalty), data, folder
    )
    if known is not None:
        x = probe(data)
        with torch.no_grad():
            difference = float(
                (SAE.load(str(folder)).reconstruct(x * data.scale) / data.scale - known).abs().max()
                / known.abs().max()
            )
        print(
            f"{folder.name}: ours and theirs reconstruct the same but for {difference:.1e} of the largest number"
        )
        assert difference < 1e-2, "loaded wrongly"


def ours(architecture, arguments, folder):
    from core.settings import TrainSettings
    from core.training.train import fit, load_data
    from core.training.trainer import Trainer

    seed = read_json(pathlib.Path(arguments.run) / "run.json")["seed"]
    data = load_data(pathlib.Path(arguments.run) / "capture", BATCH, seed)
    epochs = arguments.steps / (len(data.train) // BATCH)
    trainer = Trainer(
        TrainSettings(
            architecture,
            EXPANSION,
            K,
            penalty=arguments.penalty,
            target_l0=arguments.l0,
            lr=arguments.rate,
            epochs=epochs,
        ),
        data,
        seed,
        folder,
    )
    fit([trainer], data, BATCH, seed)
    trainer.finish().save(folder)


def train(arguments):
    who, _, architecture = arguments.what.partition("-")
    suffix = "".join(
        f"-{name}{value:g}"
        for name in ("rate", "penalty", "l0")
        if (value := getattr(arguments, name))
    )
    folder = pathlib.Path(arguments.out) / f"{arguments.what}{suffix}"
    folder.mkdir(parents=True)
    start = time.process_time()
    if who == "ours":
        ours(architecture, arguments, folder)
    else:
        peer({"saelens": saelens, "dictlearn": dictlearn}[who], architecture, arguments, folder)
    (folder / "cost.json").write_text(
        json.dumps({"cpu_s": time.process_time() - start, "steps": arguments.steps})
    )


def table(arguments):
    """Measures each SAE once: what is chosen (a penalty, a rate) is chosen by the last two columns,
    and what is reported are the others.
    """
    from core.run import Run
    from core.training.evaluate import fidelity, measure_sae
    from core.training.sample import draw_sample
    from core.training.train import load_data

    run, sample = Run.open(arguments.run), None
    print(
        "| SAE | FVU | L0 | dead | CE increase | recovered, zero | recovered, mean | CPU s | val FVU | val L0 |\n"
        + "|---" * 10
        + "|"
    )
    for folder in sorted(p.parent for p in pathlib.Path(arguments.out).glob("*/cost.json")):
        if not (folder / "measured.json").exists():
            sample, sae = (
                sample or draw_sample(run, 50_000, 20_000),
                SAE.load(str(folder)),
            )
            data = load_data(run.folder("capture"), BATCH, run.settings.seed)
            held = fidelity(sae, (x * data.scale for x in data.val.split(BATCH)))
            (folder / "measured.json").write_text(
                json.dumps(
                    measure_sae(sae, sample) | {f"val_{name}": held[name] for name in ("fvu", "l0")}
                )
            )
        m, cost = read_json(folder / "measured.json"), read_json(folder / "cost.json")["cpu_s"]
        score = f"{m['fvu']:.4f} | {m['l0']:.1f} | {m['dead_share']:.3f} | {m['ce_increase']:.4f} | {m['recovered_zero']:.4f} | {m['recovered_mean']:.4f}"
        print(f"| {folder.name} | {score} | {cost:.0f} | {m['val_fvu']:.4f} | {m['val_l0']:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["train", "table"])
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("what", nargs="?")
    parser.add_argument("--steps", type=int, default=600)
    for name in ("rate", "penalty", "l0"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    (train if arguments.verb == "train" else table)(arguments)


if __name__ == "__main__":
    main()

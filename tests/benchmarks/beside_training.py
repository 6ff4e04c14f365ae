"""A training step beside other libraries: vectors a second at batch 4,096, k = 32, the same made-up
vectors in memory, by turns of some steps each.

    python tests/benchmarks/beside_training.py [--saelens PYTHON] [--dictlearn PYTHON] [--sparsify
    PYTHON] [--shape 256x2048] [--rounds 5] [--threads 2]

A peer is timed when the python of an environment that has it is given (sae-lens 6.54.12,
dictionary-learning 0.1.0, eai-sparsify 1.3.3, each beside the same torch). Every library's own loop
runs and takes its batches from an iterator that stops the clock between turns, so a step is the
time from one request for a batch to the next, whatever happens in it. SAELens computes in autocast
(`autocast=True`), its faster way; the others have no fast arithmetic on a CPU. Ours and the bounds
are those of `training.py`.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import threading

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).parents[2])

from tests.benchmarks.turns import (
    Contender,  # noqa: E402
    take_turns,  # noqa: E402
)

BATCH, K, STEPS = 4096, 32, {"256x2048": 10, "768x6144": 3}


def vectors(shape):
    from tests.benchmarks.training import made_vectors

    d, f = map(int, shape.split("x"))
    return made_vectors(d, f).split(BATCH), d, f


def steps(shape, step):
    """Turns of plain calls of `step(x)`."""
    batches = vectors(shape)[0]
    while True:
        for i in range(STEPS[shape]):
            step(batches[i % len(batches)])
        yield STEPS[shape] * BATCH


class Requests:
    """Batches for a loop that is not ours: it runs in a thread, and waits in `__next__` while no
    turn is on.
    """

    def __init__(self, shape):
        self.batches, self.d, self.f = vectors(shape)
        self.allowed, self.done, self.left, self.given = (
            threading.Semaphore(0),
            threading.Semaphore(0),
            0,
            0,
        )

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            if self.given:
                self.done.release()
            self.allowed.acquire()
        self.left -= 1
        self.given += 1
        return self.batches[self.given % len(self.batches)]

    def turns(self, loop, n_steps):
        """Start `loop` in a thread; each turn lets it take `n_steps` steps."""
        threading.Thread(target=loop, daemon=True).start()
        while True:
            self.left = n_steps
            self.allowed.release()
            self.done.acquire()
            yield n_steps * BATCH


# ---------------------------------------------------------------- contenders


def ours(shape, architecture):
    import numpy as np
    import torch

    from core.settings import TrainSettings
    from core.training.trainer import Data, Trainer

    batches, d, f = vectors(shape)
    data = Data(None, np.arange(10**7), batches[0], torch.zeros(d), 1.0, batches[0])
    settings = TrainSettings(architecture, f / d, K, penalty=1e-3, lr=1e-3, warmup=1)
    trainer = Trainer(settings, data, 0, pathlib.Path(tempfile.mkdtemp()))
    return steps(shape, trainer.step)


def bound(shape, architecture):
    import torch

    from tests.benchmarks.training import BOUNDS, Bound

    _, d, f = vectors(shape)
    loss = list(BOUNDS[architecture].values())[-1]  # dense for l1, sparse for topk
    return steps(shape, Bound(loss, d, f, torch.bfloat16).step)


def saelens(shape, architecture):
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    requests = Requests(shape)
    name, options = (
        ("Standard", {"l1_coefficient": 1e-2}) if architecture == "l1" else ("TopK", {"k": K})
    )
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=requests.d, d_sae=requests.f, device="cpu", **options
    )
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-3,
        device="cpu",
        autocast=True,
    )
    return requests.turns(SAETrainer(cfg=config, sae=sae, data_provider=requests).fit, STEPS[shape])


def dictlearn(shape, architecture):
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import trainSAE

    requests = Requests(shape)
    config = {
        "steps": 10**6,
        "activation_dim": requests.d,
        "dict_size": requests.f,
        "layer": 0,
        "lm_name": "none",
        "device": "cpu",
        "warmup_steps": 1,
    }
    config |= (
        {"trainer": StandardTrainer, "sparsity_warmup_steps": 1}
        if architecture == "l1"
        else {"trainer": TopKTrainer, "k": K}
    )
    return requests.turns(
        lambda: trainSAE(
            data=requests, trainer_configs=[config], steps=10**6, save_dir=None, device="cpu"
        ),
        STEPS[shape],
    )


def sparsify(shape, architecture):
    """Its trainer hooks a model, so it gets one whose only layer returns the next batch."""
    import torch
    from datasets import Dataset
    from sparsify import SparseCoderConfig, TrainConfig, Trainer
    from transformers import PretrainedConfig, PreTrainedModel

    requests = Requests(shape)

    class Config(PretrainedConfig):
        model_type = "stored"

    class Stored(PreTrainedModel):
        config_class = Config

        def __init__(self):
            super().__init__(Config())
            self.layer, self.unused = torch.nn.Identity(), torch.nn.Parameter(torch.zeros(1))

        @property
        def dummy_inputs(self):
            return {"input_ids": torch.zeros(1, 8, dtype=torch.int64)}

        def forward(self, input_ids=None, **_):
            n, length = input_ids.shape
            return self.layer(
                torch.zeros(n, length, requests.d)
                if n == 1
                else next(requests).view(n, length, requests.d)
            )

    rows = Dataset.from_dict(
        {"input_ids": torch.zeros(200 * BATCH // 128, 128, dtype=torch.int64).tolist()}
    ).with_format("torch")
    coder = SparseCoderConfig(num_latents=requests.f, k=K)
    config = TrainConfig(coder, batch_size=BATCH // 128, hookpoints=["layer"], optimizer="adam", log_to_wandb=False, save_every=10**9,
                         save_dir=tempfile.mkdtemp())  # fmt: skip
    return requests.turns(Trainer(config, rows, Stored()).fit, STEPS[shape])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for peer in ("saelens", "dictlearn", "sparsify"):
        parser.add_argument(f"--{peer}", metavar="PYTHON")
    parser.add_argument(
        "--shape", action="append", choices=list(STEPS), help="width x features; both by default"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log", type=argparse.FileType("w"))
    asked = parser.parse_args()
    pythons = {"saelens": asked.saelens, "dictlearn": asked.dictlearn, "sparsify": asked.sparsify}
    for shape in asked.shape or STEPS:
        for architecture in ("l1", "topk"):
            print(f"-- {shape} {architecture}", flush=True)
            make = functools.partial(
                Contender,
                module="tests.benchmarks.beside_training",
                arguments=(shape, architecture),
                threads=asked.threads,
                log=asked.log,
            )
            contenders = [
                make(sys.executable, name="ours", as_main=True),
                make(sys.executable, name="bound", as_main=True),
            ]
            named = [
                name
                for name, python in pythons.items()
                if python and (name, architecture) != ("sparsify", "l1")
            ]
            take_turns(
                contenders + [make(pythons[name], name=name) for name in named], asked.rounds, "vec"
            )


if __name__ == "__main__":
    main()

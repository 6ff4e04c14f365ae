"""Our transcoder beside sparsify's: the same stored pairs in the same order, width, k, steps.

    PEER/bin/python tests/benchmarks/beside_transcoder.py train RUN OUT sparsify [--skip] [--steps N]
    python          tests/benchmarks/beside_transcoder.py train RUN OUT ours [--skip] [--steps N]
    python          tests/benchmarks/beside_transcoder.py table RUN OUT

RUN is a run of two sites with its activations stored. PEER is an environment with eai-sparsify
1.3.3 beside the same torch; its own trainer hooks a module, so it gets one that maps each batch of
inputs to the stored outputs. `table` measures the share of the output's variance that is missed on
the test split, norm outliers left out.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch

sys.path[0] = str(pathlib.Path(__file__).parents[2])

from core.files import read_json  # noqa: E402
from core.text.tokens import Tokens  # noqa: E402
from core.training.train import drop_outliers, load_data, read_batches  # noqa: E402

BATCH, EXPANSION, K, WARMUP = 2048, 8, 32, 100


class Pairs:
    """Pairs of scaled vectors of the train split in the order in which `train` reads them."""

    def __init__(self, run: str, steps: int) -> None:
        capture = pathlib.Path(run) / "capture"
        self.seed = read_json(pathlib.Path(run) / "run.json")["seed"]
        self.data = load_data(capture, BATCH, self.seed)
        self.stores = self.data.store, self.data.target.store
        self.scales = self.data.scale, self.data.target.scale
        self.test, self.steps = np.flatnonzero(Tokens(capture).in_split("test")), steps

    def draw_test(self, n: int):
        """About `n` scaled pairs of the test split."""
        some = self.test[:: max(1, len(self.test) // n)]
        kept, _, _ = drop_outliers(self.stores[0], some, some)
        kept, _, _ = drop_outliers(self.stores[1], kept, kept)
        both = zip(self.stores, self.scales, strict=True)
        return tuple(store.read(kept).float() / scale for store, scale in both)

    def __iter__(self):
        epochs = (read_batches(self.data, BATCH, self.seed, n, 0) for n in itertools.count())
        pairs = ((x.float(), y.float()) for x, y in itertools.chain.from_iterable(epochs))
        scaled = ((x / self.scales[0], y / self.scales[1]) for x, y in pairs)
        return itertools.islice(scaled, self.steps)


def sparsify(asked, folder):
    from datasets import Dataset
    from sparsify import SparseCoderConfig, TrainConfig, Trainer
    from transformers import PretrainedConfig, PreTrainedModel

    pairs = Pairs(asked.run, asked.steps)
    d, feed = pairs.stores[0].width, iter(pairs)

    class Config(PretrainedConfig):
        model_type = "stored"

    class Layer(torch.nn.Module):
        def forward(self, x):
            return self.y if len(x) > 1 else x

    class Stored(PreTrainedModel):
        config_class = Config

        def __init__(self):
            super().__init__(Config())
            self.layer, self.unused = Layer(), torch.nn.Parameter(torch.zeros(1))

        @property
        def dummy_inputs(self):
            return {"input_ids": torch.zeros(1, 8, dtype=torch.int64)}

        def forward(self, input_ids=None, **_):
            n, length = input_ids.shape
            if n == 1:
                return self.layer(torch.zeros(n, length, d))
            x, y = next(feed)
            self.layer.y = y.view(n, length, d)
            return self.layer(x.view(n, length, d))

    rows = torch.zeros(asked.steps * BATCH // 128, 128, dtype=torch.int64).tolist()
    dataset = Dataset.from_dict({"input_ids": rows}).with_format("torch")
    coder = SparseCoderConfig(
        num_latents=EXPANSION * d, k=K, transcode=True, skip_connection=asked.skip
    )
    config = TrainConfig(coder, batch_size=BATCH // 128, hookpoints=["layer"], optimizer=asked.optimizer, lr=asked.rate or None,
                         lr_warmup_steps=WARMUP, log_to_wandb=False, save_every=10**9, save_dir=tempfile.mkdtemp())  # fmt: skip
    trainer = Trainer(config, dataset, Stored())
    trainer.fit()
    trainer.saes["layer"].save_to_disk(folder)
    return {"scaled": True}


def ours(asked, folder):
    from core.settings import TrainSettings
    from core.training.train import fit
    from core.training.trainer import Trainer

    pairs = Pairs(asked.run, asked.steps)
    data = pairs.data
    epochs = asked.steps / (len(data.train) // BATCH)
    settings = TrainSettings(
        "topk", EXPANSION, K, skip=asked.skip, batch_size=BATCH, epochs=epochs, warmup=WARMUP
    )
    trainer = Trainer(settings, data, pairs.seed, folder)
    fit([trainer], data, BATCH, pairs.seed)
    trainer.finish().save(folder)
    return {"scaled": False}


def train(asked):
    skip = "-skip" if asked.skip else ""
    rate = f"-{asked.optimizer}-{asked.rate:g}" if asked.what == "sparsify" else ""
    folder = pathlib.Path(asked.out) / f"{asked.what}{skip}{rate}-{asked.steps}"
    folder.mkdir(parents=True)
    start = time.process_time()
    how = {"sparsify": sparsify, "ours": ours}[asked.what](asked, folder)
    cost = how | {"cpu_s": time.process_time() - start, "steps": asked.steps}
    (folder / "cost.json").write_text(json.dumps(cost))


@torch.no_grad()
def table(asked):
    from core.saes import SAE

    pairs = Pairs(asked.run, 1)
    x, y = pairs.draw_test(50_000)
    whole = (y - y.mean(0)).square().sum()
    print("| transcoder | FVU of the output | L0 | never fire | CPU s |\n|---|---|---|---|---|")
    for folder in sorted(p.parent for p in pathlib.Path(asked.out).glob("*/cost.json")):
        cost, sae = read_json(folder / "cost.json"), SAE.load(str(folder))
        into, outof = (1.0, 1.0) if cost["scaled"] else pairs.scales
        missed, l0, fired = 0.0, 0.0, torch.zeros(sae.n_features, dtype=torch.bool)
        for part, wanted in zip(x.split(BATCH), y.split(BATCH), strict=True):
            f = sae.encode(part * into)
            missed += float((sae.decode(f, part * into) / outof - wanted).square().sum())
            l0 += float((f > 0).sum())
            fired |= (f > 0).any(0)
        print(
            f"| {folder.name} | {missed / float(whole):.4f} | {l0 / len(x):.1f} | "
            f"{float((~fired).float().mean()):.3f} | {cost['cpu_s']:.0f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["train", "table"])
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("what", nargs="?", choices=["ours", "sparsify"])
    parser.add_argument("--skip", action="store_true")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--optimizer", default="adam", choices=["adam", "signum"])
    parser.add_argument("--rate", type=float, default=0.0)
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    (train if asked.verb == "train" else table)(asked)


if __name__ == "__main__":
    main()

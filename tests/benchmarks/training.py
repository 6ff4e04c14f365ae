"""A whole training step against hand-written loops that only learn, in one process, step by step in
turn.

    python tests/benchmarks/training.py [--shape 256x2048] [--rounds 20] [--threads 2]

Vectors a second at batch 4,096, k = 32, vectors in memory, bfloat16 where the hardware is fast in
it; medians over the rounds, so that on a shared machine the ratio to the best bound still means
something. With one thread the clock is that of the processor's own work. Ours is `Trainer.step`
with all that it does: the learning-rate schedule, clipping, unit rows, dead features, metrics. The
bounds have fused Adam and unit rows and nothing else: `dense` is autocast and autograd; `sparse`
decodes and takes weight gradients from the k winners only, as sparse products; `bare` is our own
kernels without the trainer around them.
"""

import argparse
import inspect
import os
import pathlib
import sys
import tempfile
import time
import warnings

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
if __name__ == "__main__" and "MALLOC_TOP_PAD_" not in os.environ:  # as main.py runs
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import embedding_bag, linear, normalize  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from core.saes.architectures.jumprelu import BANDWIDTH  # noqa: E402
from core.settings import TrainSettings  # noqa: E402
from core.training.trainer import (
    Data,  # noqa: E402
    Trainer,  # noqa: E402
)

BATCH, K, PENALTY, RATE = 4096, 32, 1e-3, 1e-3


def made_vectors(d, f, n=16_384):
    """(n, D): each the sum of 20 of F random unit directions, plus a little noise, at unit
    variance.
    """
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(f, d, generator=generator), dim=1)
    chosen = torch.randint(0, f, (n, 20), generator=generator)
    weights = torch.rand(n, 20, generator=generator) * 2
    x = embedding_bag(
        chosen, directions, per_sample_weights=weights, mode="sum"
    ) + 0.02 * torch.randn(n, d, generator=generator)
    return x / x.std()


class Bound:
    """A bare loop: W_enc and W_dec (F, D) start equal with unit rows; what a loss takes beside four
    tensors are numbers (F,) near 0.
    """

    def __init__(self, loss, d, f, dtype):
        rows = normalize(torch.randn(f, d, generator=torch.Generator().manual_seed(1)), dim=1)
        more = len(inspect.signature(loss).parameters) - 5
        parameters = (
            rows,
            torch.zeros(f),
            rows.clone(),
            torch.zeros(d),
            *(torch.full((f,), 0.05) for _ in range(more)),
        )
        self.parameters = [torch.nn.Parameter(p) for p in parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=RATE, fused=True)
        self.loss, self.dtype = loss, dtype

    def step(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss = self.loss(x, *self.parameters)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.parameters[2].div_(self.parameters[2].norm(dim=1, keepdim=True).clamp(min=1e-6))


def dense_l1(x, W_enc, b_enc, W_dec, b_dec):
    f = linear(x - b_dec, W_enc, b_enc).relu()
    return (f @ W_dec + b_dec - x).square().mean() + PENALTY * f.sum(1).mean()


def dense_topk(x, W_enc, b_enc, W_dec, b_dec):
    pre = linear(x - b_dec, W_enc, b_enc)
    values, features = pre.topk(K, sorted=False)
    return (
        (torch.zeros_like(pre).scatter(1, features, values.relu()) @ W_dec + b_dec - x)
        .square()
        .mean()
    )


def sparse_topk(x, W_enc, b_enc, W_dec, b_dec):
    return (Sparse.apply(x, W_enc, b_enc, W_dec, b_dec) - x).square().mean()


class Sparse(torch.autograd.Function):
    """bfloat16 encoder, decode of the winners, weight gradients as products of sparse (F, B) and
    dense (B, D) matrices.
    """

    @staticmethod
    def forward(ctx, x, W_enc, b_enc, W_dec, b_dec):
        centred = x - b_dec
        values, features = torch.addmm(
            b_enc.bfloat16(), centred.bfloat16(), W_enc.bfloat16().T
        ).topk(K, sorted=False)
        values = values.relu().float()
        ctx.save_for_backward(centred, W_enc, W_dec, values, features)
        return embedding_bag(features, W_dec, per_sample_weights=values, mode="sum") + b_dec

    @staticmethod
    def backward(ctx, g):
        centred, W_enc, W_dec, values, features = ctx.saved_tensors
        g_values = (g.bfloat16() @ W_dec.bfloat16().T).gather(1, features).float() * (values > 0)
        flat = features.flatten()
        order = flat.argsort(stable=True)
        starts = torch.cat(
            [
                torch.zeros(1, dtype=torch.int64),
                torch.bincount(flat, minlength=len(W_enc)).cumsum(0),
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: sparse CSR is in beta
            matrices = [
                torch.sparse_csr_tensor(
                    starts, order // K, v.flatten()[order], (len(W_enc), len(g))
                )
                for v in (g_values, values)
            ]
        return (
            None,
            matrices[0] @ centred,
            torch.zeros(len(W_enc)).index_add_(0, flat, g_values.flatten()),
            matrices[1] @ g,
            g.sum(0),
        )


def dense_batch_topk(x, W_enc, b_enc, W_dec, b_dec):
    pre = linear(x - b_dec, W_enc, b_enc)
    least = float(np.partition(pre.detach().float().numpy(), -K * len(x), axis=None)[-K * len(x)])
    return (pre * (pre >= max(least, 1e-6)) @ W_dec + b_dec - x).square().mean()


def dense_matryoshka(x, W_enc, b_enc, W_dec, b_dec):
    pre = linear(x - b_dec, W_enc, b_enc)
    least = float(np.partition(pre.detach().float().numpy(), -K * len(x), axis=None)[-K * len(x)])
    f, ends = pre * (pre >= max(least, 1e-6)), [len(W_dec) >> i for i in (4, 3, 2, 1, 0)]
    out, losses = b_dec - x, []
    for start, end in zip([0, *ends], ends, strict=False):
        out = out + f[:, start:end] @ W_dec[start:end]
        losses.append(out.square().mean())
    return torch.stack(losses).mean()


def dense_gated(x, W_enc, b_enc, W_dec, b_dec, r, b_mag):
    product = linear(x - b_dec, W_enc)
    gate = (product + b_enc).relu()
    f = (product * r.exp() + b_mag).relu() * (gate > 0)
    by_gate = gate @ W_dec.detach() + b_dec.detach() - x
    return (
        (f @ W_dec + b_dec - x).square().mean()
        + PENALTY * gate.sum(1).mean()
        + by_gate.square().mean()
    )


def dense_jumprelu(x, W_enc, b_enc, W_dec, b_dec, threshold):
    f, l0 = Jump.apply(linear(x - b_dec, W_enc, b_enc), threshold)
    return (f @ W_dec + b_dec - x).square().mean() + PENALTY * l0


class Jump(torch.autograd.Function):
    """f and mean L0 of pre (B, F) and threshold (F,), with the rectangle of width BANDWIDTH as the
    slope of the jump.
    """

    @staticmethod
    def forward(ctx, pre, threshold):
        fires = pre > threshold
        ctx.save_for_backward(pre, threshold, fires)
        return pre * fires, torch.count_nonzero(fires) / len(pre)

    @staticmethod
    def backward(ctx, g, g_l0):
        pre, threshold, fires = ctx.saved_tensors
        near = (pre - threshold).abs() < BANDWIDTH / 2
        return g * fires, -(
            threshold * (near * g).sum(0, dtype=torch.float32) + g_l0 / len(pre) * near.sum(0)
        ) / BANDWIDTH


class Bare:
    """Our loss and gradients, fused Adam and unit rows, without the trainer."""

    def __init__(self, trainer, other):
        self.trainer, self.sae, self.dead = trainer, other.sae, other.dead
        self.optimiser = other.optimiser

    def step(self, x):
        self.sae.training_loss(x, PENALTY, self.dead, self.trainer.dtype).total.backward()
        self.optimiser.step()
        self.sae.after_step()
        self.optimiser.zero_grad()


BOUNDS = {
    "l1": {"dense": dense_l1}, "topk": {"dense": dense_topk, "sparse": sparse_topk}, "batch_topk": {"dense": dense_batch_topk},
    "matryoshka": {"dense": dense_matryoshka}, "jumprelu": {"dense": dense_jumprelu}, "gated": {"dense": dense_gated},
}  # fmt: skip


def compare(architecture, d, f, rounds):
    x = made_vectors(d, f)
    data = Data(None, np.arange(10**7), x[:64], torch.zeros(d), 1.0, x[:BATCH])
    settings = TrainSettings(architecture, f / d, K, penalty=PENALTY, lr=RATE, warmup=1)
    trainer, other = (
        Trainer(settings, data, 0, pathlib.Path(tempfile.mkdtemp())) for _ in range(2)
    )
    loops = {"ours": trainer, "bare": Bare(trainer, other)} | {
        name: Bound(loss, d, f, trainer.dtype) for name, loss in BOUNDS[architecture].items()
    }
    times = {name: [] for name in loops}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for turn in range(rounds + 3):
        batch = x[turn % 4 * BATCH :][:BATCH]
        for name, loop in loops.items():
            start = clock()
            loop.step(batch)
            times[name].append(clock() - start)
    rates = {name: BATCH / float(np.median(t[3:])) for name, t in times.items()}
    best = max(rates[name] for name in BOUNDS[architecture])
    shown = "   ".join(f"{name} {rate:8,.0f}" for name, rate in rates.items())
    print(
        f"{d}x{f} {architecture:10} vectors/s: {shown}   ours is {rates['ours'] / best:.2f} of the best hand-written, {rates['ours'] / rates['bare']:.2f} of bare"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape", action="append", help="width x features; default 256x2048 and 768x6144"
    )
    parser.add_argument("--architecture", action="append", choices=BOUNDS, help="default all")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for shape in arguments.shape or ["256x2048", "768x6144"]:
        d, f = map(int, shape.split("x"))
        for architecture in arguments.architecture or BOUNDS:
            compare(architecture, d, f, arguments.rounds)


if __name__ == "__main__":
    main()

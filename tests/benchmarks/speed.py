"""Capture, training and index against bare loops that do the same arithmetic and nothing else, in
one run.

    python tests/benchmarks/speed.py RUN [--rounds 3] [--threads 2]

RUN needs `capture` and `train`. Each line is the median of `rounds` turns, ours and the bound one
after the other; on a shared machine only the ratio counts. With one thread the clock is that of the
processor's own work, which other work hardly changes. The bounds: the subject's modules called up
to the site, with a hook that raises; a dense TopK step in autocast with fused Adam; the encoder
product and `topk` without keeping anything.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from core.activations.passes import (
    TextRows,  # noqa: E402
    read_activations,  # noqa: E402
)
from core.activations.store import ActivationStore  # noqa: E402
from core.firings.index import invert_shard  # noqa: E402
from core.records import Site  # noqa: E402
from core.run import Run  # noqa: E402
from core.saes import SAE  # noqa: E402
from core.settings import (
    TrainSettings,  # noqa: E402
    from_table,  # noqa: E402
)
from core.subject.load import load_subject  # noqa: E402
from core.text.tokens import Tokens  # noqa: E402
from core.training.train import (
    Trainer,  # noqa: E402
    load_data,  # noqa: E402
)

ROWS, STEPS, VECTORS = 128, 12, 32_768


def seconds(work):
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def asked(description, rounds):
    """The run and the number of rounds that were asked for; sets the threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return Run.open(arguments.run), arguments.rounds


def compare(name, unit, count, ours, bound, rounds):
    """Print the median rates of both and the median ratio, turn by turn."""
    ours(), bound()
    pairs = [(seconds(ours), seconds(bound)) for _ in range(rounds)]
    mine, bare = (float(np.median([p[i] for p in pairs])) for i in (0, 1))
    ratio = float(np.median([b / o for o, b in pairs]))
    print(
        f"{name:8} {count / mine:10,.0f} {unit}/s   bound {count / bare:10,.0f} {unit}/s   {ratio:.2f} of the bound"
    )


class Stop(Exception):
    pass


def capture_pair(run):
    """(our read of ROWS rows, the bare loop over the same rows, tokens in them)."""
    subject, tokens, site = (
        load_subject(run),
        Tokens(run.folder("capture")),
        Site.parse(run.settings.site),
    )
    rows = TextRows(
        tokens.ids,
        np.asarray(tokens.row_offsets),
        np.load(tokens.folder / "first.npy"),
        subject.bos,
    )
    by_length = np.argsort(np.diff(rows.offsets[: ROWS + 1]), kind="stable")
    batches = [rows.tokens(group) for group in np.array_split(by_length, ROWS // 16)]

    def bare():
        def stop(*_):
            raise Stop

        handle = subject.module(site)[0].register_forward_hook(stop)
        with torch.inference_mode():
            for batch in batches:
                with contextlib.suppress(Stop):
                    subject.model(input_ids=batch, use_cache=False)
        handle.remove()

    return (
        (lambda: read_activations(subject, [site], rows, np.arange(ROWS), 4096)),
        bare,
        int(rows.offsets[ROWS]),
    )


def train_pair(run):
    """(STEPS of our trainer, STEPS of a plain loop, vectors in them)."""
    settings = from_table(TrainSettings, run.manifest("train").settings)
    data = load_data(run.folder("capture"), settings.batch_size, 0)
    trainer = Trainer(settings, data, 0, pathlib.Path(tempfile.mkdtemp()))
    batches = [
        x.float() / data.scale
        for _, x in zip(
            range(STEPS), data.store.shuffled(data.train, settings.batch_size, 0, 0), strict=False
        )
    ]
    d, f, k = batches[0].shape[1], trainer.sae.n_features, settings.k
    directions = torch.nn.functional.normalize(torch.randn(f, d), dim=1)
    encoder, decoder = (
        torch.nn.Parameter(directions.T.clone()),
        torch.nn.Parameter(directions.clone()),
    )
    optimiser = torch.optim.Adam([encoder, decoder], lr=1e-3, fused=True)

    def bare():
        for x in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=trainer.dtype == torch.bfloat16):
                pre = x @ encoder
                values, features = pre.topk(k, sorted=False)
                error = torch.zeros_like(pre).scatter(1, features, values.relu()) @ decoder - x
            error.square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()

    return (lambda: [trainer.step(x) for x in batches]), bare, STEPS * settings.batch_size


def index_pair(run):
    sae, store = SAE.load(run.folder("train")), ActivationStore(run.folder("capture"))
    x = store.shard(0)[:VECTORS]

    @torch.inference_mode()
    def bare():
        for part in x.split(2048):
            ((part.float() - sae.b_dec) @ sae.W_enc + sae.b_enc).topk(sae.config.k, sorted=False)

    return (lambda: invert_shard(sae, x, 2048, np.ones(len(x), bool))), bare, len(x)


def main():
    run, rounds = asked(__doc__.splitlines()[0], 3)
    ours, bare, n = capture_pair(run)
    compare("capture", "tok", n, ours, bare, rounds)
    ours, bare, n = train_pair(run)
    compare("train", "vec", n, ours, bare, rounds)
    ours, bare, n = index_pair(run)
    compare("index", "tok", n, ours, bare, rounds)


if __name__ == "__main__":
    main()

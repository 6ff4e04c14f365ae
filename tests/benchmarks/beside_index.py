"""Every firing of an SAE, and examples of all features, beside delphi: the same TopK SAE of RUN,
about 200,000 tokens, by turns.

    python tests/benchmarks/beside_index.py RUN [--delphi PYTHON] [--tokens 200000] [--rounds 1]
    [--threads 2]

delphi is timed when the python of an environment that has it is given (eai-delphi 0.1.3, beside the
same torch; vllm is not needed). A turn of `index` is the model pass with the SAE, and all firings
written to disk: our stage `index` of a run that stores no activations, and delphi's
`LatentCache.run` and `save_splits` on rows of 128 token ids. A turn of `examples` makes them for
all features from what is on disk: ours 20 top windows and 4 of each of five strata, with texts and
activations; delphi's `LatentDataset` all of its windows. Both read the same SAE, delphi in the
layout of sparsify.
"""

import argparse
import functools
import json
import pathlib
import shutil
import sys
import tempfile
import types

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).parents[2])

from tests.benchmarks.beside_capture import (
    CONTEXT,  # noqa: E402
    LAYER,  # noqa: E402
    corpus,  # noqa: E402
    rows,  # noqa: E402
    subject_folder,  # noqa: E402
)
from tests.benchmarks.turns import (
    Contender,  # noqa: E402
    take_turns,  # noqa: E402
)

BATCH, HOOK = 32, f"h.{LAYER}"


def published(run, folder):
    """The SAE of `run` in sparsify's layout, at folder/sae."""
    from safetensors.torch import save_file

    from core.run import Run
    from core.saes import SAE

    sae = SAE.load(Run.open(run).folder("train"))
    place = folder / "sae" / HOOK
    place.mkdir(parents=True)
    tensors = {
        "encoder.weight": sae.W_enc.T.contiguous(),
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    save_file(tensors, place / "sae.safetensors")
    form = {
        "activation": "topk",
        "num_latents": sae.n_features,
        "k": sae.config.k,
        "d_in": sae.d_in,
        "expansion_factor": sae.n_features // sae.d_in,
    }
    (place / "cfg.json").write_text(
        json.dumps(
            form
            | {
                "normalize_decoder": True,
                "multi_topk": False,
                "skip_connection": False,
                "transcode": False,
            }
        )
    )
    return place


# ---------------------------------------------------------------- ours


def our_run(folder, n_tokens):
    from core.run import Run
    from core.settings import CaptureSettings, RunSettings, TrainSettings
    from tests.support.stages import capture, train

    settings = RunSettings(
        corpus=str(corpus(n_tokens)),
        site=f"resid_post.{LAYER}",
        sae=str(pathlib.Path(folder) / "sae" / HOOK),
    )
    run = Run.create(f"{folder}/run", settings)
    capture(run, CaptureSettings(context=CONTEXT, max_tokens=n_tokens))
    train(run, TrainSettings())
    return run


def our_index(folder, n_tokens):
    from core.settings import IndexSettings
    from tests.support.stages import index

    run = our_run(folder, int(n_tokens))
    while True:
        yield index(run, IndexSettings(), redo=(run.path / "index").exists()).summary["tokens"]


def our_examples(folder, _n_tokens):
    import numpy as np

    from autointerp.examples import Examples
    from core.firings.postings import Postings
    from core.run import Run
    from core.text.tokens import Tokens

    run = None
    while True:
        run = run or Run.open(f"{folder}/run")
        postings = Postings(run.folder("index"), run.folder("capture"))
        examples, made = Examples(postings, Tokens(run.folder("capture"))), 0
        for first, block in postings.blocks():
            for feature, firings in enumerate(block, first):
                made += bool(
                    examples.snippets(
                        feature,
                        "all",
                        {"top": 20, "strata": 4},
                        np.random.default_rng(feature),
                        firings,
                    )
                )
        yield made


# ---------------------------------------------------------------- delphi


def without_vllm():
    """delphi imports vllm for a client that is not used here."""
    parts = {
        "vllm": ("LLM", "SamplingParams"),
        "vllm.inputs": ("TokensPrompt",),
        "vllm.distributed": (),
    }
    parts["vllm.distributed.parallel_state"] = (
        "destroy_distributed_environment",
        "destroy_model_parallel",
    )
    for name, members in parts.items():
        module = types.ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {}))
        sys.modules.setdefault(name, module)


def delphi_index(folder, n_tokens):
    without_vllm()
    import torch
    from delphi.config import CacheConfig
    from delphi.latents import LatentCache
    from delphi.sparse_coders.load_sparsify import load_sparsify_hooks
    from transformers import AutoModel

    tokens, out = rows(int(n_tokens)), pathlib.Path(folder) / "delphi"
    tokens = tokens[: len(tokens) // BATCH * BATCH]
    model = AutoModel.from_pretrained(subject_folder(), dtype=torch.float32).eval()
    hooks, transcode = load_sparsify_hooks(
        model, str(pathlib.Path(folder) / "sae"), [HOOK], compile=False
    )
    while True:
        shutil.rmtree(out, ignore_errors=True)
        (out / "log").mkdir(parents=True)
        cache = LatentCache(
            model, hooks, batch_size=BATCH, transcode=transcode, log_path=out / "log"
        )
        cache.run(tokens.numel(), tokens)
        cache.save_splits(n_splits=5, save_dir=out)
        cache.save_config(
            out,
            CacheConfig(
                dataset_repo="local",
                batch_size=BATCH,
                cache_ctx_len=CONTEXT,
                n_tokens=tokens.numel(),
            ),
            subject_folder(),
        )
        yield tokens.numel()


def delphi_examples(folder, _n_tokens):
    without_vllm()
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject_folder())
    while True:
        found = LatentDataset(
            str(pathlib.Path(folder) / "delphi"),
            SamplerConfig(),
            ConstructorConfig(min_examples=10),
            tokenizer=tokenizer,
            modules=[HOOK],
        )
        yield sum(1 for _ in found)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--delphi", metavar="PYTHON")
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log", type=argparse.FileType("w"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        published(asked.run, pathlib.Path(folder))
        make = functools.partial(
            Contender,
            module="tests.benchmarks.beside_index",
            arguments=(folder, asked.tokens),
            threads=asked.threads,
            log=asked.log,
        )
        rates = []
        for what, unit in (("index", "tok"), ("examples", "feature")):
            contenders = [make(sys.executable, name=f"our_{what}", as_main=True)] + [
                make(asked.delphi, name=f"delphi_{what}")
            ] * bool(asked.delphi)
            rates.append(take_turns(contenders, asked.rounds, unit))
        if asked.delphi:
            features = json.loads((pathlib.Path(folder) / "sae" / HOOK / "cfg.json").read_text())[
                "num_latents"
            ]
            ours, theirs = (
                asked.tokens / rates[0][f"{who}_index"] + features / rates[1][f"{who}_examples"]
                for who in ("our", "delphi")
            )
            print(
                f"index and examples together: {ours:.1f} s and {theirs:.1f} s, {theirs / ours:.1f} times"
            )


if __name__ == "__main__":
    main()

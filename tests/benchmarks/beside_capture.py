"""Capture beside other libraries: activations of one middle layer of the embedded subject, by
turns.

    python tests/benchmarks/beside_capture.py [--saelens PYTHON] [--nnsight PYTHON]
    [--transformer-lens PYTHON] [--rounds 3] [--threads 2] [--tokens 300000]

A peer is timed when the python of an environment that has it is given (sae-lens 6.54.12, nnsight
0.8.1, transformer-lens 4.3.0, each beside the same torch). `ours` is the whole stage `capture`:
text of about `--tokens` tokens is read, tokenised, split, run through the subject and written to
disk. The others, and `bound`, which calls the model with a hook that stops it, are given rows of
128 token ids and keep their activations in memory, at the fastest of three batch sizes. Peers
compute in float32, as they do unless told otherwise; nnsight in bfloat16 too.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import sys
import tempfile
import time

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).parents[2])

from tests.benchmarks.turns import (
    Contender,  # noqa: E402
    take_turns,  # noqa: E402
)

LAYER, TOKENS, WIDTH, CONTEXT, BATCHES = 3, 32_768, 256, 128, (8, 32, 128)


def subject_folder():
    return str(pathlib.Path(__file__).parents[2] / "data" / "subjects" / "python-7m")


def rows(n_tokens=TOKENS):
    """(R, CONTEXT) int64 token ids of source text."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject_folder())
    ids = tokenizer(
        "\n".join(
            json.loads(line)["text"]
            for line in corpus(n_tokens).read_text(encoding="utf-8").splitlines()
        )
    )["input_ids"]
    return torch.tensor(ids[: n_tokens // CONTEXT * CONTEXT]).view(-1, CONTEXT)


def corpus(n_tokens):
    """A .jsonl of this interpreter's library modules, about `n_tokens` tokens or somewhat more."""
    import sysconfig

    path, held = pathlib.Path(tempfile.gettempdir()) / f"benchmark-corpus-{n_tokens}.jsonl", 0
    with open(path, "w", encoding="utf-8") as out:
        for file in sorted(
            pathlib.Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"),
            key=lambda file: (len(file.parts), file),
        ):
            text = file.read_text(encoding="utf-8", errors="replace")
            out.write(json.dumps({"text": text}) + "\n")
            held += len(text)
            if held > 5 * n_tokens:
                break
    return path


def passes(step):
    """Turns of `step(rows) -> activations` over TOKENS tokens, kept in memory, at the batch size
    that is fastest in one try.
    """
    import torch

    tokens = rows()
    kept = torch.empty(*tokens.shape, WIDTH)

    def whole(batch):
        for start in range(0, len(tokens), batch):
            part = tokens[start : start + batch]
            kept[start : start + batch] = step(part).reshape(*part.shape, WIDTH)

    seconds = {}
    for batch in (BATCHES[0], *BATCHES):
        start = time.perf_counter()
        whole(batch)
        seconds[batch] = time.perf_counter() - start
    best = min(seconds, key=seconds.get)
    while True:
        whole(best)
        yield tokens.numel()


# ---------------------------------------------------------------- contenders


def ours(n_tokens=300_000):
    from core.run import Run
    from core.settings import CaptureSettings, RunSettings
    from tests.support.stages import capture

    text = corpus(int(n_tokens))
    while True:
        with tempfile.TemporaryDirectory() as folder:
            run = Run.create(
                f"{folder}/run", RunSettings(corpus=str(text), site=f"resid_post.{LAYER}")
            )
            yield capture(run, CaptureSettings(context=CONTEXT, max_tokens=int(n_tokens))).summary[
                "tokens"
            ]


def bound(dtype="bfloat16"):
    import torch
    from transformers import AutoModelForCausalLM

    class Stop(Exception):
        pass

    model, seen = (
        AutoModelForCausalLM.from_pretrained(subject_folder(), dtype=getattr(torch, dtype)).eval(),
        {},
    )

    def stop(_module, _inputs, output):
        seen["x"] = output[0] if isinstance(output, tuple) else output
        raise Stop

    model.transformer.h[LAYER].register_forward_hook(stop)

    @torch.inference_mode()
    def step(tokens):
        with contextlib.suppress(Stop):
            model(input_ids=tokens, use_cache=False)
        return seen["x"]

    return passes(step)


def nnsight(dtype="float32"):
    import torch
    from nnsight import LanguageModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(
        subject_folder(), dtype=getattr(torch, dtype)
    ).eval()
    model = LanguageModel(plain, tokenizer=AutoTokenizer.from_pretrained(subject_folder()))

    def step(tokens):
        with torch.no_grad(), model.trace(tokens) as tracer:
            out = model.transformer.h[LAYER].output.save()
            tracer.stop()
        return out[0] if isinstance(out, tuple) else out

    return passes(step)


def nnsight_bfloat16():
    return nnsight("bfloat16")


def transformer_lens():
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(subject_folder(), device="cpu", dtype=torch.float32)
    site = f"blocks.{LAYER}.hook_out"

    def step(tokens):
        with torch.no_grad():
            return model.run_with_cache(tokens, names_filter=[site], stop_at_layer=LAYER + 1)[1][
                site
            ]

    return passes(step)


def saelens():
    """Its store shuffles a buffer that it fills from the model, so what counts are the tokens that
    went through the model.
    """
    import torch
    from datasets import Dataset
    from sae_lens.load_model import load_model
    from sae_lens.training.activations_store import ActivationsStore

    site = f"transformer.h.{LAYER}"
    model = load_model(
        "AutoModelForCausalLM",
        subject_folder(),
        device="cpu",
        model_from_pretrained_kwargs={"dtype": torch.float32},
        hook_names=[site],
    )
    dataset = Dataset.from_dict({"tokens": rows(4 * TOKENS).tolist()})
    dataset.set_format("torch")
    store = ActivationsStore(
        model=model, dataset=dataset, streaming=False, hook_name=site, hook_head_index=None, context_size=CONTEXT, d_in=WIDTH, n_batches_in_buffer=64,
        total_training_tokens=10**7, store_batch_size_prompts=8, train_batch_size_tokens=4096, prepend_bos=False, normalize_activations="none",
        device=torch.device("cpu"), dtype="float32", autocast_lm=False,
    )  # fmt: skip
    read, seen = store.get_activations, []

    def counted(tokens):
        seen.append(tokens.numel())
        return read(tokens)

    store.get_activations = counted
    while True:
        seen.clear()
        while sum(seen) < TOKENS:
            store.next_batch()
        yield sum(seen)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for peer in ("saelens", "nnsight", "transformer-lens"):
        parser.add_argument(f"--{peer}", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--log", type=argparse.FileType("w"))
    asked = parser.parse_args()
    make = functools.partial(
        Contender, module="tests.benchmarks.beside_capture", threads=asked.threads, log=asked.log
    )
    contenders = [
        make(sys.executable, name="ours", arguments=(asked.tokens,), as_main=True),
        make(sys.executable, name="bound"),
    ]
    found = {
        "saelens": asked.saelens,
        "nnsight": asked.nnsight,
        "nnsight_bfloat16": asked.nnsight,
        "transformer_lens": asked.transformer_lens,
    }
    contenders += [make(python, name=name) for name, python in found.items() if python]
    take_turns(contenders, asked.rounds, "tok")


if __name__ == "__main__":
    main()

"""The real client against an OpenAI-compatible server that nobody here wrote; not part of `make
test`.

    python tests/servers/check.py URL MODEL                         a server that runs already
    python tests/servers/check.py --serve PATH/TO/transformers      starts `transformers serve` on a tiny random chat model, and stops it
    python tests/servers/check.py --make FOLDER                     writes that model, for another server to serve

Prints what the probe finds, how label requests end (a random model says nothing sensible: what
counts is that each request ends as one reply or one failure and that nothing is asked twice), and
what a wrong model name is answered. Where the server tells log-probabilities of prompts and MODEL
is a folder here, what `slots` reads from them is held against the same model in transformers.
`transformers serve` needs the packages of `transformers[serving]`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from autointerp.labels import prompt as prompts  # noqa: E402
from autointerp.llm.budget import (
    Budget,  # noqa: E402
    Meter,  # noqa: E402
)
from autointerp.llm.client import answer  # noqa: E402
from autointerp.llm.endpoint import Endpoint  # noqa: E402
from autointerp.llm.probe import (
    abilities,  # noqa: E402
    prompt_tokens,  # noqa: E402
)
from autointerp.llm.replies import ReplyStore  # noqa: E402
from autointerp.scores import prompts as score_prompts  # noqa: E402
from autointerp.scores import simulator as slots  # noqa: E402
from core.errors import ToolError  # noqa: E402
from core.records import Snippet  # noqa: E402

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
N, CONCURRENCY = 32, 16


def tiny_chat_model(folder: pathlib.Path) -> str:
    """A Llama of random weights, with heads wide enough for every server, behind the tokenizer of
    the embedded subject. Digits stand out, so that some are among the alternatives that a server
    tells.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "subjects" / "python-7m")
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        **heads,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data[tokenizer.convert_tokens_to_ids(list("0123456789"))] *= 3
    model.save_pretrained(folder)
    tokenizer.model_max_length = 8192
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@contextlib.contextmanager
def transformers_server(program: str, folder: pathlib.Path):
    """(URL, model) of `transformers serve` on the tiny model; its log goes to a file beside the
    model.
    """
    model = tiny_chat_model(folder / "model")
    (folder / "hf" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with open(folder / "serve.log", "w") as log:
        words = [
            program,
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--device",
            "cpu",
            "--dtype",
            "float32",
            model,
        ]
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            if process.poll() is not None:
                sys.exit((folder / "serve.log").read_text()[-3000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait()


def check(url: str, model: str) -> None:
    endpoint = Endpoint(url)
    with (
        tempfile.TemporaryDirectory() as folder,
        ReplyStore(pathlib.Path(folder) / "replies.sqlite") as store,
    ):
        began = time.time()
        can = abilities(endpoint, model, store)
        print(f"probe: {can.line()} ({time.time() - began:.1f} s)")
        snippet = lambda i: Snippet(
            i, 0, 0, 1, ("the", f" cat{i}", " sat"), (0.0, 2.0, 0.0), "top", "train", 1.0
        )
        questions = [
            prompts.label_messages(prompts.Shown([snippet(i)], [], [], 0.01, 2.0, []))
            for i in range(N)
        ]
        questions += [
            score_prompts.detect_messages(
                "cats", [score_prompts.marked_text(["the", f" cat{i}"], set())], False
            )
            for i in range(N)
        ]
        requests = [endpoint.request(model, q, temperature=0.0, max_tokens=24) for q in questions]
        meter, began = Meter(), time.time()
        replies = answer(
            requests,
            store,
            endpoint,
            concurrency=CONCURRENCY,
            timeout=120,
            budget=Budget(0.0, meter),
        )
        ends = collections.Counter(r.error or "reply" for r in replies.values())
        read = collections.Counter(
            r if isinstance(r := prompts.parse_label(reply.text), str) else "label"
            for reply in list(replies.values())[:N]
        )
        print(
            f"{len(requests)} requests, {CONCURRENCY} in flight, {time.time() - began:.1f} s: {dict(ends)}; {meter.line()}, {meter.uncounted} without usage"
        )
        print(f"as labels: {dict(read)}")
        n_before = meter.n_received
        answer(requests, store, endpoint, budget=Budget(0.0, meter))
        print(f"asked again: {meter.n_received - n_before}")
        if can.prompt_logprobs:
            check_slots(endpoint, model, store)
        try:
            wrong = answer(
                [endpoint.request("no-such-model", questions[0], max_tokens=4)],
                store,
                endpoint,
                retries=1,
            )
            print(f"a wrong model: {next(iter(wrong.values())).message or 'answers all the same'}")
        except ToolError as error:
            print(f"a wrong model: {error.message}")
        try:
            print(f"the only model: {endpoint.choose_model()}")
        except ToolError as error:
            print(f"its models: {error.message}")


def check_slots(endpoint: Endpoint, model: str, store: ReplyStore) -> None:
    """What is read at the slots of a question, and the same from the logits of the model in
    transformers.
    """
    windows = [
        ("The", " cat", " unknown", "\n"),
        ("def", " f", "(", "x", "):"),
        ("\u00e9", "\t", "<|im_end|>"),
    ]
    messages, lengths = slots.slots_messages('the word "cat"', windows), [len(w) for w in windows]
    told = {"prompt_logprobs": slots.ALTERNATIVES, "add_generation_prompt": False}
    request = endpoint.request(model, messages, temperature=0.0, max_tokens=1, **told)
    reply, began = answer([request], store, endpoint)[request.key], time.time()
    found = slots.read_slots(prompt_tokens(reply), lengths)
    values = [
        value
        for f, n in zip(found, lengths, strict=True)
        for value in ([math.nan] * n if f is None else f.tolist())
    ]
    print(
        f"slots: {[round(value, 3) for value in values]} from {len(reply.raw):,} characters, {reply.tokens_in} tokens"
    )
    if pathlib.Path(model).is_dir():
        expected = digits_of(pathlib.Path(model), messages, sum(lengths))
        off = max(
            abs(a - b)
            for a, b in zip(values, expected, strict=True)
            if not (math.isnan(a) and math.isnan(b))
        )
        print(
            f"against transformers: {off:.2g} off at most, {sum(map(math.isnan, expected))} of {len(expected)} without a digit ({time.time() - began:.1f} s)"
        )


def digits_of(folder: pathlib.Path, messages: list[dict], count: int) -> list[float]:
    """The expected digits at the last `count` slots by the model in transformers, among as many
    alternatives as a server tells.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    starts = [found.start() + 1 for found in re.finditer("\tunknown", text)][-count:]
    places = [
        next(i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a <= start < b)
        for start in starts
    ]
    with torch.inference_mode():
        told = model(torch.tensor([encoded["input_ids"]])).logits[0].log_softmax(-1)
    out = []
    for place in places:
        top = told[place - 1].topk(slots.ALTERNATIVES)
        digits = [
            (int(t), p)
            for i, p in zip(top.indices.tolist(), top.values.exp().tolist(), strict=True)
            if (t := tokenizer.decode([i])) in tuple("0123456789")
        ]
        out.append(
            sum(d * p for d, p in digits) / sum(p for _, p in digits) if digits else math.nan
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", nargs="*", metavar="URL MODEL")
    parser.add_argument("--serve", metavar="PROGRAM")
    parser.add_argument("--make", metavar="FOLDER", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.make:
        print(tiny_chat_model(arguments.make))
    elif arguments.serve:
        with (
            tempfile.TemporaryDirectory() as folder,
            transformers_server(arguments.serve, pathlib.Path(folder)) as (url, model),
        ):
            check(url, model)
    elif len(arguments.where) == 2:
        check(*arguments.where)
    else:
        parser.error("give URL and MODEL, --serve PROGRAM or --make FOLDER")


if __name__ == "__main__":
    main()

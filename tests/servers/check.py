"""The real client against an OpenAI-compatible server that nobody here wrote; not part of `make test`.

    python tests/servers/check.py URL MODEL                         a server that runs already
    python tests/servers/check.py --serve PATH/TO/transformers      starts `transformers serve` on a tiny random chat model, and stops it

Prints what the probe finds, how label requests end (a random model says nothing sensible: what counts is that each request ends as one reply or one failure and
that nothing is asked twice), and what a wrong model name is answered. `transformers serve` needs the packages of `transformers[serving]`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from autointerp import prompts, score_prompts  # noqa: E402
from autointerp.llm import Endpoint, answer  # noqa: E402
from autointerp.probing import abilities  # noqa: E402
from autointerp.replies import ReplyStore  # noqa: E402
from autointerp.spending import Budget, Meter  # noqa: E402
from core.errors import ToolError  # noqa: E402
from core.records import Snippet  # noqa: E402

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
N, CONCURRENCY = 32, 16


def tiny_chat_model(folder: pathlib.Path) -> str:
    from tests.core.tiny import byte_level_tokenizer, tiny_model

    tiny_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@contextlib.contextmanager
def transformers_server(program: str, folder: pathlib.Path):
    """(URL, model) of `transformers serve` on the tiny model; its log goes to a file beside the model."""
    model = tiny_chat_model(folder / "model")
    (folder / "hf" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(folder / "serve.log", "w") as log:
        words = [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32", model]
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
    with tempfile.TemporaryDirectory() as folder, ReplyStore(pathlib.Path(folder) / "replies.sqlite") as store:
        began = time.time()
        print(f"probe: {abilities(endpoint, model, store).line()} ({time.time() - began:.1f} s)")
        snippet = lambda i: Snippet(i, 0, 0, 1, ("the", f" cat{i}", " sat"), (0.0, 2.0, 0.0), "top", "explain", 1.0)
        questions = [prompts.label_messages([snippet(i)], [" a"], [], 0.01, 2.0) for i in range(N)]
        questions += [score_prompts.detect_messages("cats", [score_prompts.marked_text(["the", f" cat{i}"], set())], False) for i in range(N)]
        requests = [endpoint.request(model, q, temperature=0.0, max_tokens=24) for q in questions]
        meter, began = Meter(), time.time()
        replies = answer(requests, store, endpoint, concurrency=CONCURRENCY, timeout=120, budget=Budget(0.0, meter))
        ends = collections.Counter(r.error or "reply" for r in replies.values())
        read = collections.Counter(r if isinstance(r := prompts.parse_label(reply.text), str) else "label" for reply in list(replies.values())[:N])
        print(f"{len(requests)} requests, {CONCURRENCY} in flight, {time.time() - began:.1f} s: {dict(ends)}; {meter.line()}, {meter.uncounted} without usage")
        print(f"as labels: {dict(read)}")
        n_before = meter.n_received
        answer(requests, store, endpoint, budget=Budget(0.0, meter))
        print(f"asked again: {meter.n_received - n_before}")
        try:
            wrong = answer([endpoint.request("no-such-model", questions[0], max_tokens=4)], store, endpoint, retries=1)
            print(f"a wrong model: {next(iter(wrong.values())).message or 'answers all the same'}")
        except ToolError as error:
            print(f"a wrong model: {error.message}")
        try:
            print(f"the only model: {endpoint.choose_model()}")
        except ToolError as error:
            print(f"its models: {error.message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", nargs="*", metavar="URL MODEL")
    parser.add_argument("--serve", metavar="PROGRAM")
    arguments = parser.parse_args()
    if arguments.serve:
        with tempfile.TemporaryDirectory() as folder, transformers_server(arguments.serve, pathlib.Path(folder)) as (url, model):
            check(url, model)
    elif len(arguments.where) == 2:
        check(*arguments.where)
    else:
        parser.error("give URL and MODEL, or --serve PROGRAM")


if __name__ == "__main__":
    main()

"""Greedy continuations and log-probabilities of a GGUF file, ours against llama.cpp's; not part of
`make test`.

    python tests/servers/gguf_logits.py FILE.gguf --other PATH/TO/python

The other Python needs `xllamacpp`, a build of llama.cpp; it runs this file with --answer. llama.cpp
multiplies the file's quantised weights with activations of 8 bits; here the weights are unpacked
once and multiplied in float32. So log-probabilities differ by hundredths of a nat.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little girl who",
    "def fibonacci(n):\n    ",
    "The Golden Gate Bridge is",
    "2 + 2 = 4, 3 + 3 = 6, 4 + 4 =",
    "Dear Sir or Madam,\n\nI am writing to",
    "In 1969, the first humans",
    "Ingredients: 200 g of flour, 2 eggs,",
    "El gato está en la",
    "She opened the door and saw",
)
N_NEW, TOP = 20, 10


def answer(file: str) -> None:
    """Print what llama.cpp writes after each prompt of token ids, which stand in standard input:
    the likeliest tokens at each place and their log-probabilities.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_parallel = 512, 1
    server = xllamacpp.Server(settings)
    for ids in json.loads(sys.stdin.read()):
        asked = {"prompt": ids, "max_tokens": N_NEW, "temperature": 0, "logprobs": TOP}
        content = server.handle_completions(asked)["choices"][0]["logprobs"]["content"]
        print("ANSWER" + json.dumps([{t["id"]: t["logprob"] for t in c["top_logprobs"]} for c in content]))  # fmt: skip


def compare(file: str, other: str) -> None:
    import torch

    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    from core.subject.subject import Subject

    subject = Subject.load(file, dtype="float32")
    prompts = [subject.prompt_tokens(prompt) for prompt in PROMPTS]
    command = [other, __file__, file, "--answer"]
    done = subprocess.run(command, input=json.dumps(prompts), capture_output=True, text=True)
    theirs = [json.loads(line[6:]) for line in done.stdout.splitlines() if line[:6] == "ANSWER"]
    if len(theirs) != len(PROMPTS):
        sys.exit(f"The other Python gave no answers:\n{done.stderr[-2000:]}")
    differences, same = [], 0
    for ids, steps in zip(prompts, theirs, strict=True):
        new = [int(next(iter(step))) for step in steps]  # the greedy token stands first
        with torch.inference_mode():
            logits = subject.model(torch.tensor([ids + new])).logits[0, len(ids) - 1 : -1]
        ours = logits.log_softmax(-1)
        greedy = ours.argmax(-1).tolist()
        agree = next((i for i, (a, b) in enumerate(zip(greedy, new, strict=True)) if a != b), len(new))  # fmt: skip
        same += agree == len(new)
        for row, step in zip(ours, steps, strict=True):
            differences += [abs(float(row[int(token)]) - value) for token, value in step.items()]
        print(f"{agree:3} of {len(new)} greedy tokens agree: {subject.tokenizer.decode(new)!r}")
    d = torch.tensor(differences)
    print(
        f"{same} of {len(prompts)} continuations are equal; log-probabilities of the {TOP} likeliest differ by "
        f"{float(d.median()):.3f} nats (median), {float(d.quantile(0.95)):.3f} (95 %), {float(d.max()):.3f} (most)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--other", default="")
    parser.add_argument("--answer", action="store_true")
    arguments = parser.parse_args()
    if arguments.answer:
        answer(arguments.file)
    else:
        compare(arguments.file, arguments.other)


if __name__ == "__main__":
    main()

"""Generation with one feature clamped against generation without, and generation without against
`generate` of transformers, in turns: 64 new tokens after prompts of 32, batches of 1 and 8.

    python tests/benchmarks/clamp.py RUN [--rounds 7] [--threads 2]

On a shared machine only the ratio counts, and best on one thread, whose clock is that of the
processor's own work.
"""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from core.clamps.clamp import clamp_edit  # noqa: E402
from core.clamps.live import LoadedModel  # noqa: E402
from core.records import Clamp  # noqa: E402
from tests.benchmarks.speed import (
    asked,  # noqa: E402
    compare,  # noqa: E402
)

NEW, PROMPT = 64, "def main(arguments, values):\n    for name in values:\n        print(name)\n" * 2


def main():
    run, rounds = asked(__doc__.splitlines()[0], 7)
    live = LoadedModel(run)
    prompt = live.subject.tokenizer.decode(live.subject.prompt_tokens(PROMPT)[1:33])
    direct = {"none": None, "clamp": clamp_edit(live.sae, [Clamp(0, "ablate", 0.0)])}
    for rows in (1, 8):
        turns = {
            name: lambda e=edit, n=rows: live.subject.generate(
                [prompt] * n, NEW, live.site, temperature=0, edit=e
            )
            for name, edit in direct.items()
        }
        with torch.inference_mode():
            compare(f"clamped {rows}", "tok", rows * NEW, turns["clamp"], turns["none"], rounds)
            tokens = torch.tensor([live.subject.prompt_tokens(prompt)] * rows)
            theirs = lambda t=tokens: live.subject.model.generate(
                t,
                attention_mask=torch.ones_like(t),
                do_sample=False,
                min_new_tokens=NEW,
                max_new_tokens=NEW,
                pad_token_id=0,
            )
            compare(f"plain {rows}", "tok", rows * NEW, turns["none"], theirs, rounds)


if __name__ == "__main__":
    main()

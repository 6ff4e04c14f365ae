"""Time the clamps of the stage `effects` beside whole passes with an edit in every row.

    python -m tests.benchmarks.effects [subject] [site] [features]

The SAE is random; what a pass costs does not depend on what it learned. The two take turns, and
processor time is shown, which a busy machine changes less than the clock.
"""

from __future__ import annotations

import sys
import time

import torch

from core.effects.effects import PREFIXES, clamp_each_row, measure_changes, read_prefixes
from core.records import Site
from core.saes import SAEConfig
from core.subject.subject import Subject
from tests.support.tiny import sae_of

TURNS, ROWS_BEFORE, EXPANSION = 3, 128, 8


@torch.inference_mode()
def by_whole_passes(subject, site, sae, features, values):
    """The same changes from passes through every layer and position, 128 features at once."""
    parts = []
    for block, own in zip(features.split(ROWS_BEFORE), values.split(ROWS_BEFORE), strict=True):
        edit = clamp_each_row(sae, torch.eye(len(block), dtype=torch.bool), block, own)
        total = 0.0
        for text in PREFIXES:
            tokens = torch.tensor([subject.prompt_tokens(text)])
            clean = subject.logits(tokens)[:, -1].log_softmax(-1)
            rows = tokens.expand(len(block), -1)
            total = total + subject.logits(rows, site, edit)[:, -1].log_softmax(-1) - clean
        parts.append(total / len(PREFIXES))
    return torch.cat(parts)


def main(name="python-7m", site="resid_post.3", count="512"):
    subject, place = Subject.load(name, dtype="float32", device="cpu"), Site.parse(site)
    sae = sae_of(SAEConfig("topk", "topk", k=32), subject.width, EXPANSION * subject.width)
    features, values = torch.arange(int(count)), torch.full((int(count),), 10.0)

    def behind_the_site():
        return measure_changes(read_prefixes(subject, place, sae), sae, features, values)

    def whole():
        return by_whole_passes(subject, place, sae, features, values)

    best = {}
    for _ in range(TURNS):
        for way in (whole, behind_the_site):
            start = time.process_time()
            result = way()
            seconds = time.process_time() - start
            best[way.__name__] = min(seconds, best.get(way.__name__, seconds))
            if way is whole:
                expected = result
    print({k: round(1e3 * v / int(count), 3) for k, v in best.items()}, "ms of a feature")
    print("ratio", round(best["whole"] / best["behind_the_site"], 2))
    print("largest difference", float((expected - result).abs().max()))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Output tokens of features that mean something: what is common to all features taken off, and
tokens that hardly stand in the corpus left out.

At a middle layer the same few tokens lead the lens of nearly every direction, glitch tokens among
them: an unembedding row of unusual length is near to everything. So the mean over features is
subtracted, for the lens and for measured changes alike, and only tokens are listed that occur at
least OCCURS times in the corpus.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.effects.unit import CHANGES
from core.files import read_array
from core.run import Run
from core.subject.subject import Subject
from core.text.tokens import Tokens

BLOCK = 512  # features at once
FOR_MEAN = 2048  # directions, evenly spaced, over which the lens's mean is taken, at most
OCCURS = 3  # occurrences of a token in the corpus, from which on it is listed
NOT_LISTED = -1e4  # of a token that is left out; float16 holds it

Texts = list[str]  # of each token of the vocabulary


def listed_tokens(run: Run, n_vocabulary: int, top: int) -> Tensor:
    """bool (V,): the tokens that occur often enough; all of them where these are too few."""
    ids = np.asarray(Tokens(run.folder("capture")).ids)
    counts = np.bincount(ids, minlength=n_vocabulary)[:n_vocabulary]
    often = counts >= OCCURS
    return torch.from_numpy(often if often.sum() >= 4 * top else np.ones(n_vocabulary, bool))


def find_promoted(subject: Subject, directions: Tensor, top: int, listed: Tensor) -> pd.DataFrame:
    """The `top` tokens that each direction (F, width) promotes and suppresses, a row a feature.

    `promoted_logit` and `suppressed_logit` are differences from the mean over directions. `listed`
    (V,) are the tokens that may stand in the table.
    """
    texts, parts = subject.token_texts(), []
    mean = mean_lens(subject, directions)
    for block in torch.split(directions, BLOCK):
        logits = subject.logit_lens(block).cpu() - mean
        up = logits.masked_fill(~listed, NOT_LISTED).topk(top)
        down = (-logits).masked_fill(~listed, NOT_LISTED).topk(top)
        parts.append(
            pd.DataFrame(
                {
                    "promoted_id": up.indices.tolist(),
                    "promoted": [[texts[i] for i in row] for row in up.indices.tolist()],
                    "promoted_logit": up.values.tolist(),
                    "suppressed": [[texts[i] for i in row] for row in down.indices.tolist()],
                    "suppressed_logit": (-down.values).tolist(),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "feature", range(len(table)))
    return table


def mean_lens(subject: Subject, directions: Tensor) -> Tensor:
    """(V,) mean over directions of what the lens says of them."""
    step = max(1, len(directions) // FOR_MEAN)
    chosen = directions[::step]
    sums = [subject.logit_lens(block).cpu().sum(0) for block in torch.split(chosen, BLOCK)]
    return torch.stack(sums).sum(0) / len(chosen)


def find_measured(folder: Path, texts: Texts, top: int, listed: Tensor) -> dict[str, list]:
    """Columns `measured` and `measured_change`: the `top` tokens that a clamp makes likelier.

    A change is that of the log-probability (nats), less the mean over the features whose clamp
    changed anything. Features without a change have empty lists.
    """
    changes = read_array(folder / CHANGES)
    mean, n = np.zeros(changes.shape[1]), 0
    for start in range(0, len(changes), BLOCK):
        block = np.asarray(changes[start : start + BLOCK], np.float32)
        block = block[np.abs(block).max(1) > 0]
        mean, n = mean + block.sum(0), n + len(block)
    mean /= max(1, n)
    columns: dict[str, list] = {"measured": [], "measured_change": []}
    for start in range(0, len(changes), BLOCK):
        own = torch.from_numpy(np.asarray(changes[start : start + BLOCK], np.float32))
        up = (own - torch.from_numpy(mean).float()).masked_fill(~listed, NOT_LISTED).topk(top)
        for is_changed, ids, values in zip(
            own.abs().amax(1) > 0, up.indices.tolist(), up.values.tolist(), strict=True
        ):
            columns["measured"].append([texts[i] for i in ids] if is_changed else [])
            columns["measured_change"].append(values if is_changed else [])
    return columns

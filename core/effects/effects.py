"""Stage `effects`: what each feature does to the subject's output, measured in two ways.

Directly: the tokens that its direction promotes and suppresses. Causally: what a clamp of it does
to the subject's predictions. `core/effects/unit.py` names the files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.effects.unit import (
    has_changes_shard,
    join_changes,
    write_changes_shard,
    write_effects,
)
from core.firings.postings import maxima
from core.parallel import make_shards
from core.progress import progress, say
from core.records import Site
from core.run import Run
from core.saes import SAE
from core.settings import EffectsSettings
from core.subject.behind import Behind
from core.subject.decoding import Edit
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.training.unit import read_directions
from core.workers import INLINE, Engine

TOP = 20  # tokens kept at either end
PREFIXES = ("The", "I think", "We", "x = ", "for the")
ROWS = 512  # features clamped in one pass, at most
LOGITS = 30_000_000  # numbers of them held in float32 at once, about
TEXT_ROWS = 16  # features whose texts are generated at once, each after every prefix
TEXT_TOKENS, TEMPERATURE = 24, 0.7


def effects(run: Run, settings: EffectsSettings, folder: Path) -> dict[str, Any]:
    """Write the unit `effects` into `folder`."""
    subject, site = load_subject(run), Site.parse(run.settings.site)
    if settings.clamp:
        rows = max(1, min(ROWS, LOGITS // subject.n_vocabulary))
        sae = SAE.load(run.folder("train"))
        sae.to(subject.device)
        values = settings.clamp * maxima(run, sae.n_features)
        engine = Engine.choose(settings, run, uses_gpu=True)
        away = engine.kind != "inline"
        prepare = partial(ChangeMaker.open, run.path, folder, settings.clamp, rows)
        maker = ChangeMaker(folder, subject, site, sae, values, rows)
        write_changes(maker, engine, prepare if away else None)
    raw = torch.from_numpy(read_directions(run, mapped=False))
    directions = subject.to_residual(site, raw)
    if directions is None or not subject.final_norm:
        why = (
            "the site does not write to the residual stream"
            if subject.final_norm
            else "the architecture's final norm is not known"
        )
        return {"features": len(raw), "skipped": why}
    table = find_promoted(subject, directions, TOP)
    write_effects(folder, table)
    strongest = table["promoted_logit"].str[0].to_numpy(float)
    return {
        "features": len(table),
        "strongest_logit": float(strongest.max()),
        "median_strongest_logit": float(np.median(strongest)),
    }


def find_promoted(subject: Subject, directions: Tensor, top: int) -> pd.DataFrame:
    """The `top` tokens that each direction (F, width) promotes and suppresses, a row a feature."""
    texts, parts = subject.token_texts(), []
    for block in torch.split(directions, 512):
        logits = subject.logit_lens(block).cpu()
        up, down = logits.topk(top), (-logits).topk(top)
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


# ---------------------------------------------------------------- clamps


class ChangeMaker:
    """Measures what changes (rows, V) when each feature of a block is set to its own value.

    A block is a shard of its own until the last is made, so that a killed stage goes on.
    """

    def __init__(
        self, folder: Path, subject: Subject, site: Site, sae: SAE, values: np.ndarray, rows: int
    ):
        self.folder, self.sae, self.values, self.rows = folder, sae, values, rows
        self.n_vocabulary = subject.n_vocabulary
        self.texts = read_prefixes(subject, site)

    @classmethod
    def open(cls, run: Path, folder: Path, clamp: float, rows: int) -> ChangeMaker:
        """The same, for the run at `run`, in a process of its own."""
        opened = Run.open(str(run))
        subject, site = load_subject(opened), Site.parse(opened.settings.site)
        sae = SAE.load(opened.folder("train"))
        sae.to(subject.device)
        values = clamp * maxima(opened, sae.n_features)
        return cls(folder, subject, site, sae, values, rows)

    def make(self, number: int) -> int:
        """Write block `number`, unless it is there or none of it fires; returns its features."""
        start = number * self.rows
        own = torch.from_numpy(self.values[start : start + self.rows])
        fires = own.nonzero()[:, 0]
        if self.texts and len(fires) and not has_changes_shard(self.folder, number):
            change = torch.zeros(len(own), self.n_vocabulary)
            change[fires] = measure_changes(self.texts, self.sae, fires + start, own[fires])
            write_changes_shard(self.folder, number, change.half().numpy())
        return len(own)


def write_changes(
    maker: ChangeMaker,
    engine: Engine = INLINE,
    prepare: Callable[[], ChangeMaker] | None = None,
) -> None:
    """Write what changes (F, V) when each feature is set to its value.

    `prepare` opens the maker of another process.
    """
    n, n_vocabulary, rows = len(maker.values), maker.n_vocabulary, maker.rows
    say(f"effects: {n * n_vocabulary * 2 / 1e6:,.0f} MB on disk for what clamps change")
    with progress(total=n, label="clamps", unit="feat") as bar:
        numbers = range(-(-n // rows))
        make_shards(numbers, prepare or (lambda: maker), ChangeMaker.make, engine, bar.update)
    join_changes(maker.folder, n, n_vocabulary, rows)


def read_prefixes(subject: Subject, site: Site) -> list[Behind]:
    """The PREFIXES that an edit can change: those of two tokens or more, with BOS."""
    tokens = [subject.prompt_tokens(text) for text in PREFIXES]
    return [Behind(subject, site, ids) for ids in tokens if len(ids) > 1]


@torch.inference_mode()
def measure_changes(texts: list[Behind], sae: SAE, features: Tensor, values: Tensor) -> Tensor:
    """Mean change of log-probabilities (m, V) float32 over the PREFIXES, on the CPU.

    In row i, features[i] is set to values[i] at every position but the first. A prefix that is not
    among `texts` (one at least) has no other position and counts as no change.
    """
    changes = []
    for text in texts:
        x = text.hidden.float()
        clamped = x + sae.edit_each(x, features.to(x.device), values.to(x.device))
        logs = text.logits(torch.cat([x[None], clamped])).log_softmax(-1)
        changes.append(logs[1:] - logs[:1])  # the first row is unchanged
    return torch.stack(changes).sum(0).cpu() / len(PREFIXES)


def clamp_each_row(sae: SAE, own: Tensor, features: Tensor, values: Tensor) -> Edit:
    """An edit that clamps other features in each row.

    features[i] (m,) is set to values[i] in the rows r where own[r, i] (R, m), and keeps its
    activation in the others.
    """

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        x = hidden.float()
        wanted = torch.where(own[:, None], values, sae.encode(x)[..., features])
        return torch.where(editable[..., None], x + sae.edit(x, features, wanted), x)

    return edit


def generate_clamped(
    subject: Subject, site: Site, sae: SAE, values: dict[int, float]
) -> dict[int, list[str]]:
    """For each feature, the PREFIXES continued while it is set to its entry of `values`.

    Every feature gets the same random seeds.
    """
    texts: dict[int, list[str]] = {}
    features = list(values)
    for start in progress(range(0, len(features), TEXT_ROWS), "write", unit="block"):
        block = features[start : start + TEXT_ROWS]
        own = torch.eye(len(block), dtype=torch.bool, device=subject.device)
        edit = clamp_each_row(
            sae,
            own.repeat_interleave(len(PREFIXES), 0),
            torch.tensor(block),
            torch.tensor([values[f] for f in block], device=subject.device),
        )
        prompts = [*PREFIXES] * len(block)
        generations = subject.generate(
            prompts,
            TEXT_TOKENS,
            site,
            temperature=TEMPERATURE,
            seeds=list(range(len(PREFIXES))) * len(block),
            edit=edit,
        )
        whole = [p + generation.text for p, generation in zip(prompts, generations, strict=True)]
        n = len(PREFIXES)
        texts |= {f: whole[i * n : (i + 1) * n] for i, f in enumerate(block)}
    return texts

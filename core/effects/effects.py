"""Stage `effects`: what each feature does to the subject's output, measured in two ways.

Directly: the tokens that its direction promotes and suppresses. Causally: what a clamp of it does
to the subject's predictions. `core/effects/unit.py` names the files.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.effects.promoted import find_measured, find_promoted, listed_tokens
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
from core.subject.tap import Tap
from core.subject.texts import known_site
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
    subject, site = load_subject(run), Site.parse(run.settings.site_out or run.settings.site)
    sae = SAE.load(run.folder("train"))
    clamps = bool(settings.clamp) and not sae.config.cross_layer
    if clamps:
        rows = max(1, min(ROWS, LOGITS // subject.n_vocabulary))
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
    listed = listed_tokens(run, subject.n_vocabulary, TOP)
    table = find_promoted(subject, directions, TOP, listed)
    if clamps:
        table = table.assign(**find_measured(folder, subject.token_texts(), TOP, listed))
    write_effects(folder, table)
    strongest = table["promoted_logit"].str[0].to_numpy(float)
    return {
        "features": len(table),
        "strongest_logit": float(strongest.max()),
        "median_strongest_logit": float(np.median(strongest)),
    }


# ---------------------------------------------------------------- clamps


class ChangeMaker:
    """Measures what changes (rows, V) when each feature of a block is set to its own value.

    `site` is where the SAE writes. A block is a shard of its own until the last is made, so that a
    killed stage goes on.
    """

    def __init__(
        self, folder: Path, subject: Subject, site: Site, sae: SAE, values: np.ndarray, rows: int
    ):
        self.folder, self.sae, self.values, self.rows = folder, sae, values, rows
        self.n_vocabulary = subject.n_vocabulary
        self.texts = read_prefixes(subject, site, sae)

    @classmethod
    def open(cls, run: Path, folder: Path, clamp: float, rows: int) -> ChangeMaker:
        """The same, for the run at `run`, in a process of its own."""
        opened = Run.open(str(run))
        about = opened.settings
        subject, site = load_subject(opened), Site.parse(about.site_out or about.site)
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


@dataclass(frozen=True)
class Prefix:
    """A text read up to the site where the SAE writes, and what the SAE reads on it."""

    behind: Behind
    read: Tensor  # (T - 1, d_in), without the first position


def read_prefixes(subject: Subject, site: Site, sae: SAE) -> list[Prefix]:
    """The PREFIXES that an edit at `site` can change: those of two tokens or more, with BOS.

    Raises UsageError for a transcoder that does not say what it reads.
    """
    texts = []
    for ids in (subject.prompt_tokens(text) for text in PREFIXES):
        if len(ids) < 2:
            continue
        behind = Behind(subject, site, ids)
        if sae.config.transcoder:
            read = subject.read(known_site(sae.site_in), torch.tensor([ids]))[0, 1:]
        else:
            read = behind.hidden
        texts.append(Prefix(behind, read.float()))
    return texts


@torch.inference_mode()
def measure_changes(texts: list[Prefix], sae: SAE, features: Tensor, values: Tensor) -> Tensor:
    """Mean change of log-probabilities (m, V) float32 over the PREFIXES, on the CPU.

    In row i, features[i] is set to values[i] at every position but the first. A prefix that is not
    among `texts` (one at least) has no other position and counts as no change.
    """
    changes = []
    for text in texts:
        x = text.behind.hidden.float()
        clamped = x + sae.edit_each(text.read, features.to(x.device), values.to(x.device))
        logs = text.behind.logits(torch.cat([x[None], clamped])).log_softmax(-1)
        changes.append(logs[1:] - logs[:1])  # the first row is unchanged
    return torch.stack(changes).sum(0).cpu() / len(PREFIXES)


def clamp_each_row(
    sae: SAE, own: Tensor, features: Tensor, values: Tensor, tap: Tap | None = None
) -> Edit:
    """An edit that clamps other features in each row.

    features[i] (m,) is set to values[i] in the rows r where own[r, i] (R, m), and keeps its
    activation in the others. `tap` sees what a transcoder reads.
    """

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        h = hidden.float()
        x = h if tap is None else tap.hidden.float()
        wanted = torch.where(own[:, None], values, sae.encode(x)[..., features])
        return torch.where(editable[..., None], h + sae.edit(x, features, wanted), h)

    return edit


def generate_clamped(
    subject: Subject, site: Site, sae: SAE, values: dict[int, float]
) -> dict[int, list[str]]:
    """For each feature, the PREFIXES continued while it is set to its entry of `values`.

    Every feature gets the same random seeds. `site` is where the SAE writes.
    """
    tap = Tap(subject, known_site(sae.site_in)) if sae.config.transcoder else None
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
            tap,
        )
        prompts = [*PREFIXES] * len(block)
        with tap or nullcontext():
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

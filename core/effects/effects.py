"""Stage `effects`: what each feature does to the subject's output, measured in two ways.

Directly: the tokens that its direction promotes and suppresses. Causally: what a clamp of it does
to the subject's predictions. `core/effects/unit.py` names the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.effects.promoted import find_measured, find_promoted, listed_tokens
from core.effects.unit import open_changes, write_effects
from core.firings.postings import maxima
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
        sae = SAE.load(run.folder("train"))
        sae.to(subject.device)
        values = settings.clamp * maxima(run, sae.n_features)
        write_changes(folder, subject, site, sae, values)
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
    if settings.clamp:
        table = table.assign(**find_measured(folder, subject.token_texts(), TOP, listed))
    write_effects(folder, table)
    strongest = table["promoted_logit"].str[0].to_numpy(float)
    return {
        "features": len(table),
        "strongest_logit": float(strongest.max()),
        "median_strongest_logit": float(np.median(strongest)),
    }


# ---------------------------------------------------------------- clamps


def write_changes(folder: Path, subject: Subject, site: Site, sae: SAE, values: np.ndarray) -> None:
    """Write what changes (F, V) when each feature is set to its entry of `values` (F,)."""
    size = len(values) * subject.n_vocabulary * 2
    say(f"effects: {size / 1e6:,.0f} MB on disk for what clamps change")
    texts = read_prefixes(subject, site)
    rows = max(1, min(ROWS, LOGITS // subject.n_vocabulary))
    with (
        open_changes(folder, len(values), subject.n_vocabulary) as append,
        progress(total=len(values), label="clamps", unit="feat") as bar,
    ):
        for start in range(0, len(values), rows):
            own = torch.from_numpy(values[start : start + rows])
            change = torch.zeros(len(own), subject.n_vocabulary)
            if texts and len(fires := own.nonzero()[:, 0]):
                change[fires] = measure_changes(texts, sae, fires + start, own[fires])
            append(change.half().numpy())
            bar.update(len(own))


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

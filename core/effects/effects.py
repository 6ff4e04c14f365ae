"""Stage `effects`: what each feature does to the output, seen twice.

effects.parquet   the tokens that its direction promotes and suppresses through the subject's own final norm and unembedding: what
                  it writes, without what the layers in between make of it
clamped.npy       (F, V) float16: the change of every token's log-probability (nats) after neutral prefixes when the feature is clamped to
                  a multiple of its maximum, the mean over PREFIXES; zero for features that never fired
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.files import read_array, read_json, replacing, write_table
from core.progress import progress, say
from core.records import Manifest, Site
from core.run import Run
from core.saes import SAE, load_sae
from core.settings import EffectsSettings
from core.subject.decoding import Edit
from core.subject.subject import Subject, load_subject

UNIT, VERSION = "effects", 2
PREFIXES = ("The", "I think", "We", "x = ", "for the")
ROWS = 128  # features clamped in one pass
WRITING_ROWS, WRITTEN, TEMPERATURE = (
    16,
    24,
    0.7,
)  # features that write at once, each behind every prefix; tokens written


def effects(run: Run, settings: EffectsSettings, redo: bool = False) -> Manifest:
    work = run.begin(UNIT, VERSION, settings, ["capture", "train", "index"], redo)
    if work is None:
        return run.manifest(UNIT)
    subject = load_subject(run)
    if settings.clamp:
        sae = load_sae(run.folder("train"))
        sae.to(subject.device)
        write_changes(
            work.folder / "clamped.npy",
            subject,
            Site.parse(run.settings.site),
            sae,
            settings.clamp * maxima(run, sae.n_features),
        )
    raw = torch.from_numpy(read_array(run.folder("train") / "directions.npy", mapped=False))
    directions = subject.to_residual(Site.parse(run.settings.site), raw)
    if directions is None or subject.family is None:
        why = (
            "the site does not write to the residual stream"
            if subject.family
            else "the architecture's final norm is not known"
        )
        return work.commit({"features": len(raw), "skipped": why})
    texts, parts = subject.token_texts(), []
    for block in directions.split(512):
        logits = subject.logit_lens(block).cpu()
        up, down = logits.topk(settings.top), (-logits).topk(settings.top)
        parts.append(
            pd.DataFrame({
                "promoted_id": up.indices.tolist(),
                "promoted": [[texts[i] for i in row] for row in up.indices.tolist()],
                "promoted_logit": up.values.tolist(),
                "suppressed": [[texts[i] for i in row] for row in down.indices.tolist()],
                "suppressed_logit": (-down.values).tolist(),
            })
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "feature", range(len(table)))
    write_table(work.folder / "effects.parquet", table)
    strongest = table["promoted_logit"].str[0]
    return work.commit(
        {
            "features": len(table),
            "strongest_logit": float(strongest.max()),
            "median_strongest_logit": float(strongest.median()),
        }
    )


# ---------------------------------------------------------------- clamps


def maxima(run: Run, n_features: int) -> np.ndarray:
    """The largest activation (F,) of each feature over the corpus, 0 where it never fires."""
    out = np.zeros(n_features, np.float32)
    folder = run.folder("index")
    for shard in range(len(read_json(run.folder("capture") / "shards.json")["bounds"]) - 1):
        offsets, firings = (
            read_array(folder / f"{name}-{shard:05d}.npy") for name in ("offsets", "firings")
        )
        fires = np.flatnonzero(np.diff(offsets))
        if len(fires):
            out[fires] = np.maximum(out[fires], np.maximum.reduceat(firings, offsets[fires]))
    return out


def write_changes(path: Path, subject: Subject, site: Site, sae: SAE, values: np.ndarray) -> None:
    """Write the change (F, V) of log-probabilities when each feature is set to its entry of `values` (F,), a block of features at a time."""
    say(
        f"effects: {len(values) * subject.n_vocabulary * 2 / 1e6:,.0f} MB on disk for what clamps change"
    )
    clean = [
        subject.logits(prefix_rows(subject, text, 1))[0, -1].log_softmax(-1) for text in PREFIXES
    ]
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        table = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
            "fortran_order": False,
            "shape": (len(values), subject.n_vocabulary),
        }
        np.lib.format.write_array_header_1_0(handle, table)
        for start in progress(range(0, len(values), ROWS), "clamps", unit="block"):
            block = torch.arange(start, min(start + ROWS, len(values)))
            handle.write(
                changes(
                    subject, site, sae, block, torch.from_numpy(values[start : start + ROWS]), clean
                )
                .half()
                .numpy()
                .tobytes()
            )


def prefix_rows(subject: Subject, text: str, count: int) -> Tensor:
    return torch.tensor([subject.prompt_tokens(text)]).expand(count, -1)


def each_row(sae: SAE, own: Tensor, features: Tensor, values: Tensor) -> Edit:
    """An edit that sets features[i] (m,) to values[i] in the rows r where own[r, i] (R, m), and leaves the other features as they are."""

    def edit(hidden: Tensor, editable: Tensor) -> Tensor:
        x = hidden.float()
        wanted = torch.where(own[:, None], values, sae.encode(x)[..., features])
        return torch.where(editable[..., None], x + sae.edit(x, features, wanted), x)

    return edit


def clamped_texts(
    subject: Subject, site: Site, sae: SAE, values: dict[int, float]
) -> dict[int, list[str]]:
    """For each feature with its value, the PREFIXES continued by WRITTEN tokens while it is set to that; the same luck for every feature."""
    out = {}
    numbers = list(values)
    for start in progress(range(0, len(numbers), WRITING_ROWS), "write", unit="block"):
        block = numbers[start : start + WRITING_ROWS]
        own = torch.eye(len(block), dtype=torch.bool, device=subject.device).repeat_interleave(
            len(PREFIXES), 0
        )
        edit = each_row(
            sae,
            own,
            torch.tensor(block),
            torch.tensor([values[f] for f in block], device=subject.device),
        )
        seeds = list(range(len(PREFIXES))) * len(block)
        made = subject.generate(
            [*PREFIXES] * len(block), WRITTEN, site, temperature=TEMPERATURE, seeds=seeds, edit=edit
        )
        whole = [
            prefix + generation.text
            for prefix, generation in zip([*PREFIXES] * len(block), made, strict=True)
        ]
        out |= {f: whole[i * len(PREFIXES) : (i + 1) * len(PREFIXES)] for i, f in enumerate(block)}
    return out


@torch.inference_mode()
def changes(
    subject: Subject, site: Site, sae: SAE, features: Tensor, values: Tensor, clean: list[Tensor]
) -> Tensor:
    """(m, V) float32 on the CPU: the mean change of log-probabilities behind the prefixes with features[i] set to values[i] in row i."""
    values = values.to(subject.device)
    edit = each_row(
        sae, torch.eye(len(features), dtype=torch.bool, device=subject.device), features, values
    )
    found = torch.zeros(len(features), len(clean[0]), device=subject.device)
    for text, base in zip(PREFIXES, clean, strict=True):
        found += (
            subject.logits(prefix_rows(subject, text, len(features)), site, edit)[
                :, -1
            ].log_softmax(-1)
            - base
        )
    return torch.where(values[:, None] > 0, found / len(PREFIXES), 0.0).cpu()

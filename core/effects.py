"""Stage `effects`: the tokens that each direction promotes and suppresses, through the subject's own final norm and unembedding.

It says what a feature writes, seen from the end of the model; what the layers in between make of it is not in it.
"""

from __future__ import annotations

import pandas as pd
import torch

from core.files import read_array, write_table
from core.records import Manifest, Site
from core.run import Run
from core.settings import EffectsSettings
from core.subject import load_subject

UNIT, VERSION = "effects", 1


def effects(run: Run, settings: EffectsSettings, redo: bool = False) -> Manifest:
    work = run.begin(UNIT, VERSION, settings, ["capture", "train"], redo)
    if work is None:
        return run.manifest(UNIT)
    subject = load_subject(run)
    raw = torch.from_numpy(read_array(run.folder("train") / "directions.npy", mapped=False))
    directions = subject.to_residual(Site.parse(run.settings.site), raw)
    if directions is None or subject.family is None:
        why = "the site does not write to the residual stream" if subject.family else "the architecture's final norm is not known"
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
    return work.commit({"features": len(table), "strongest_logit": float(strongest.max()), "median_strongest_logit": float(strongest.median())})

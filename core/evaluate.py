"""Stage `evaluate`: how faithful the SAE is, on documents of the score split.

    FVU        sum of |x - x_hat|^2 over sum of |x - mean(x)|^2, over all vectors and dimensions, in float64. Predicting the mean
               gives 1, a perfect copy 0, and a constant offset is seen (a ratio of variances would hide it).
    recovered  (CE_ablated - CE_spliced) / (CE_ablated - CE_clean), for zero and for mean ablation; the nats are printed beside it,
               because zero ablation of a residual stream makes almost any reconstruction look good.

The SAE is spliced in, or the site ablated, at every position but the first, on whole rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.activations import ActivationStore
from core.capture import load_subject
from core.corpus import Tokens
from core.errors import UsageError
from core.progress import progress
from core.records import SPLITS, Manifest, Site
from core.run import Run
from core.saes import SAE, load_sae
from core.settings import EvaluateSettings
from core.subject import Subject

UNIT, VERSION = "evaluate", 1


def evaluate(run: Run, settings: EvaluateSettings, redo: bool = False) -> Manifest:
    work = run.begin(UNIT, VERSION, settings, ["capture", "train"], redo)
    if work is None:
        return run.manifest(UNIT)
    tokens, store, sae = Tokens(run.folder("capture")), ActivationStore(run.folder("capture")), load_sae(run.folder("train"))
    ordinals = np.flatnonzero(tokens.in_split("score"))
    if not len(ordinals):
        raise UsageError("No document fell into the score split.", "Capture more documents: the splits are 60 / 10 / 30 of them.")
    rng = np.random.default_rng(run.settings.seed)
    if settings.tokens and settings.tokens < len(ordinals):
        ordinals = np.sort(rng.choice(ordinals, settings.tokens, replace=False))
    result = fidelity(sae, (store.read(part).float() for part in np.array_split(ordinals, max(1, len(ordinals) // 4096))))
    subject = load_subject(run)
    rows = score_rows(tokens, subject, settings.loss_tokens, rng)
    mean = store.read(np.sort(rng.choice(ordinals, min(len(ordinals), 50_000), replace=False))).double().mean(0)
    return work.commit(result | cross_entropies(subject, Site.parse(run.settings.site), sae, rows, mean))


@torch.inference_mode()
def fidelity(sae: SAE, batches) -> dict:
    """FVU, L0 and dead share over batches of raw vectors (B, D)."""
    n, errors, total, squares = 0, 0.0, 0.0, 0.0
    firings, fired = 0, torch.zeros(sae.n_features, dtype=torch.int64)
    for x in batches:
        f = sae.encode(x)
        errors += float((x.double() - sae.decode(f, x).double()).square().sum())
        total = total + x.double().sum(0)
        squares += float(x.double().square().sum())
        fires = f > 0
        firings += int(fires.sum())
        fired += fires.sum(0)
        n += len(x)
    spread = squares - float((total / n).square().sum()) * n
    return {"tokens": n, "fvu": errors / spread, "l0": firings / n, "dead_share": float((fired == 0).float().mean())}


def score_rows(tokens: Tokens, subject: Subject, wanted: int, rng: np.random.Generator) -> list[Tensor]:
    """Whole rows (1, T) of the score split with BOS, at random, until they hold `wanted` tokens."""
    first = np.load(tokens.folder / "first.npy")
    rows = rng.permutation(np.flatnonzero(tokens.split[tokens.row_document] == SPLITS.index("score")))
    out, held = [], 0
    for row in rows:
        ids = tokens.ids[tokens.row_offsets[row] : tokens.row_offsets[row + 1]].astype(np.int64)
        if len(ids) < 2:
            continue
        out.append(torch.from_numpy(np.r_[subject.bos if first[row] < 0 else first[row], ids])[None])
        held += len(ids)
        if held >= wanted:
            break
    return sorted(out, key=lambda r: r.shape[1])


def cross_entropies(subject: Subject, site: Site, sae: SAE, rows: list[Tensor], mean: Tensor) -> dict:
    """Mean loss in nats a token, clean and with the site replaced; rows of one length go together."""
    sae = sae.to(subject.device)
    edits = {
        "clean": None,
        "spliced": lambda h, editable: torch.where(editable[..., None], sae.reconstruct(h.float()), h.float()),
        "zero": lambda h, editable: torch.where(editable[..., None], 0.0, h.float()),
        "mean": lambda h, editable: torch.where(editable[..., None], mean.to(h.device).float(), h.float()),
    }
    sums, count = dict.fromkeys(edits, 0.0), 0
    for batch in progress(same_length(rows, 16), "evaluate", unit="batch"):
        for name, edit in edits.items():
            sums[name] += float(subject.losses(batch, site, edit).double().sum())
        count += batch.shape[0] * (batch.shape[1] - 1)
    ce = {name: total / count for name, total in sums.items()}
    recovered = lambda ablated: (ce[ablated] - ce["spliced"]) / (ce[ablated] - ce["clean"]) if ce[ablated] != ce["clean"] else None
    return {
        "loss_tokens": count, "ce_clean": ce["clean"], "ce_spliced": ce["spliced"], "ce_zero": ce["zero"], "ce_mean": ce["mean"],
        "ce_increase": ce["spliced"] - ce["clean"], "recovered_zero": recovered("zero"), "recovered_mean": recovered("mean"),
    }  # fmt: skip


def same_length(rows: list[Tensor], size: int) -> list[Tensor]:
    """Batches (R, T) of at most `size` rows of equal length; needs rows in order of length."""
    batches: list[list[Tensor]] = []
    for row in rows:
        if batches and len(batches[-1]) < size and batches[-1][0].shape == row.shape:
            batches[-1].append(row)
        else:
            batches.append([row])
    return [torch.cat(b) for b in batches]

"""Stage `evaluate`: how faithful the SAE is, on documents of the test split.

    FVU        sum of |x - x_hat|^2 over sum of |x - mean(x)|^2, over all vectors and dimensions, in float64. Predicting the mean
               gives 1, a perfect copy 0, and a constant offset is seen (a ratio of variances would hide it).
    bias       E|x_hat|^2 / E[x . x_hat], below 1 where activations are shrunk (Rajamanoharan et al. 2024, arXiv 2404.16014, section 3.1)
    recovered  (CE_ablated - CE_spliced) / (CE_ablated - CE_clean), for zero and for mean ablation; the nats are printed beside it,
               because zero ablation of a residual stream makes almost any reconstruction look good.
    KL         of the spliced subject's predictions from its own, nats a token

The SAE is spliced in, or the site ablated, at every position but the first, on whole rows. Intervals are percentile bootstraps over
documents, which are what was drawn. How other tools define these numbers is in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.activations.passes import TextRows
from core.activations.store import Activations, open_activations
from core.errors import UsageError
from core.progress import progress
from core.records import SPLITS, Manifest, Site
from core.run import Run
from core.saes import SAE, load_sae
from core.settings import EvaluateSettings
from core.subject.decoding import Edit
from core.subject.subject import Subject, load_subject
from core.text.tokens import Tokens

UNIT, VERSION = "evaluate", 2
RESAMPLES, MIN_DOCUMENTS = (
    1000,
    20,
)  # under 20 documents a percentile bootstrap does not hold its 95 %
LOGITS = 3e7  # of one pass held in float32 at once, about

SUMS = (
    "n",
    "error",
    "spread",
    "square",
    "product",
    "ratio",
    "firings",
)  # of a document, over its vectors
LOSSES = (
    "n",
    "clean",
    "spliced",
    "zero",
    "mean",
    "kl",
)  # of a document, over its predictions; nats


def evaluate(run: Run, settings: EvaluateSettings, redo: bool = False) -> Manifest:
    work = run.begin(UNIT, VERSION, settings, ["capture", "train"], redo)
    if work is None:
        return run.manifest(UNIT)
    sample = draw_sample(run, settings.tokens, settings.loss_tokens)
    return work.commit(measured(load_sae(run.folder("train")), sample))


def measured(sae: SAE, sample: Sample) -> dict:
    """Every measure of the module's docstring, the cross-entropies only where the sample has rows for them."""
    of = sample.tokens.document_of(sample.ordinals)
    parts = np.array_split(sample.ordinals, max(1, len(sample.ordinals) // 4096))
    sums, fired, mean = document_sums(
        sae,
        progress(
            (sample.source.read(p).float() for p in parts),
            "fidelity",
            total=len(parts),
            unit="batch",
        ),
        of,
    )
    out = fidelity_of(sums.sum(0)) | {
        "dead_share": float((fired == 0).float().mean()),
        "documents": len(sums),
    }
    within = intervals(sums, fidelity_of, sample.seed)
    if len(sample.loss_rows):
        edits = replacements(sae.to(sample.subject.device), mean.to(sample.subject.device).float())
        documents = sample.tokens.row_document[sample.loss_rows]
        losses = document_losses(
            sample.subject, sample.site, edits, sample.rows, sample.loss_rows, documents
        )
        out, within = (
            out | losses_of(losses.sum(0)),
            within | intervals(losses, losses_of, sample.seed),
        )
    return out | {"intervals": within}


# ---------------------------------------------------------------- what is measured on


@dataclass(frozen=True)
class Sample:
    """What SAEs are measured on: `ordinals` (n,) of counted tokens of the test split, and `loss_rows`, rows of theirs for cross-entropies."""

    subject: Subject | None  # where there are rows for losses
    site: Site
    source: Activations
    tokens: Tokens
    rows: TextRows
    ordinals: np.ndarray
    loss_rows: np.ndarray
    seed: int


def draw_sample(run: Run, n_tokens: int, loss_tokens: int | None) -> Sample:
    """Rows at random until they hold `n_tokens` tokens, and the first of them until `loss_tokens` (0: all; None: no rows for losses)."""
    subject, tokens = (
        None if loss_tokens is None else load_subject(run),
        Tokens(run.folder("capture")),
    )
    rows = score_rows(tokens, n_tokens, np.random.default_rng(run.settings.seed))
    loss_rows = rows[:0] if loss_tokens is None else first_tokens(tokens, rows, loss_tokens)
    whole = TextRows(
        tokens.ids,
        tokens.row_offsets,
        np.load(tokens.folder / "first.npy"),
        subject and subject.bos,
    )
    site, source = Site.parse(run.settings.site), open_activations(run, subject)
    return Sample(
        subject,
        site,
        source,
        tokens,
        whole,
        counted_ordinals(tokens, rows),
        loss_rows,
        run.settings.seed,
    )


def score_rows(tokens: Tokens, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the test split at random until they hold `wanted` tokens (0: all); raises UsageError when there are none."""
    rows = np.flatnonzero(tokens.split[tokens.row_document] == SPLITS.index("test"))
    if not len(rows):
        raise UsageError(
            "No document fell into the test split.",
            "Capture more documents: the splits are 60 / 10 / 30 of them.",
        )
    return first_tokens(tokens, rng.permutation(rows), wanted)


def first_tokens(tokens: Tokens, rows: np.ndarray, wanted: int) -> np.ndarray:
    """The first of `rows` until they hold `wanted` tokens (0: all of them)."""
    held = np.cumsum(np.diff(tokens.row_offsets)[rows])
    return rows[: int(np.searchsorted(held, wanted)) + 1] if wanted else rows


def counted_ordinals(tokens: Tokens, rows: np.ndarray) -> np.ndarray:
    """Ordinals of the counted tokens of `rows`, in order."""
    found = np.concatenate(
        [np.arange(tokens.row_offsets[row], tokens.row_offsets[row + 1]) for row in np.sort(rows)]
    )
    return found[tokens.counted[found]]


# ---------------------------------------------------------------- fidelity


def fidelity(sae: SAE, batches: Iterable[Tensor]) -> dict:
    """The measures of `fidelity_of` and the dead share, over batches of raw vectors (B, D)."""
    sums, fired, _ = document_sums(sae, batches, None)
    return fidelity_of(sums.sum(0)) | {"dead_share": float((fired == 0).float().mean())}


@torch.inference_mode()
def document_sums(
    sae: SAE, batches: Iterable[Tensor], documents: np.ndarray | None
) -> tuple[np.ndarray, Tensor, Tensor]:
    """(sums (documents, len(SUMS)) float64, firings of each feature (F,), mean vector (D,)) over batches of raw vectors (B, D), whose
    documents (n,) are numbers in any order; None takes all as one document."""
    of = (
        None
        if documents is None
        else torch.from_numpy(np.unique(documents, return_inverse=True)[1])
    )
    n_documents = 1 if of is None else int(of.max()) + 1
    sums, vectors = (
        torch.zeros(n_documents, len(SUMS), dtype=torch.float64),
        torch.zeros(n_documents, sae.d_in, dtype=torch.float64),
    )
    fired, at = torch.zeros(sae.n_features, dtype=torch.int64), 0
    for x in batches:
        f = sae.encode(x)
        x, x_hat, fires = x.double(), sae.decode(f, x).double(), f > 0
        own = torch.zeros(len(x), dtype=torch.int64) if of is None else of[at : at + len(x)]
        at += len(x)
        squares = x.square().sum(1)
        ratio = x_hat.norm(dim=1) / squares.sqrt().clamp(min=1e-12)
        columns = [
            torch.ones_like(squares),
            (x - x_hat).square().sum(1),
            squares,
            x_hat.square().sum(1),
            (x * x_hat).sum(1),
            ratio,
            fires.sum(1).double(),
        ]
        sums.index_add_(0, own, torch.stack(columns, 1))
        vectors.index_add_(0, own, x)
        fired += fires.sum(0)
    mean = vectors.sum(0) / sums[:, 0].sum()
    sums[:, SUMS.index("spread")] += (
        sums[:, 0] * mean.square().sum() - 2 * vectors @ mean
    )  # sum of |x - mean|^2
    return sums.numpy(), fired, mean


def fidelity_of(sums: np.ndarray) -> dict:
    """Measures from sums (..., len(SUMS)); arrays of them where there are leading dimensions."""
    s = dict(zip(SUMS, np.moveaxis(sums, -1, 0), strict=True))
    return {
        "tokens": _plain(s["n"], int), "fvu": _plain(s["error"] / s["spread"]), "l0": _plain(s["firings"] / s["n"]),
        "bias": _plain(_ratio(s["square"], s["product"])), "l2_ratio": _plain(s["ratio"] / s["n"]),
    }  # fmt: skip


def _plain(value: np.ndarray, kind=float):
    return kind(value) if np.ndim(value) == 0 else value


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)


# ---------------------------------------------------------------- cross-entropy


def replacements(sae: SAE, mean: Tensor) -> dict[str, Edit]:
    """What takes the site's place: the SAE's reconstruction, zero, and the mean vector (D,)."""
    return {
        "spliced": lambda h, editable: torch.where(
            editable[..., None], sae.reconstruct(h.float()), h.float()
        ),
        "zero": lambda h, editable: torch.where(editable[..., None], 0.0, h.float()),
        "mean": lambda h, editable: torch.where(editable[..., None], mean, h.float()),
    }


def document_losses(
    subject: Subject,
    site: Site,
    edits: dict[str, Edit],
    rows: TextRows,
    chosen: np.ndarray,
    documents: np.ndarray,
) -> np.ndarray:
    """Sums (documents, len(LOSSES)) over the predictions in the `chosen` rows, of `documents` (len(chosen),), clean and with each edit."""
    known, own = np.unique(documents, return_inverse=True)
    sums, place = (
        np.zeros((len(known), len(LOSSES))),
        dict(zip(chosen.tolist(), own.tolist(), strict=True)),
    )
    for group in progress(
        same_length(rows, chosen, subject.n_vocabulary), "evaluate", unit="batch"
    ):
        np.add.at(
            sums,
            [place[row] for row in group.tolist()],
            row_losses(subject, site, rows.tokens(group), edits),
        )
    return sums


@torch.inference_mode()
def row_losses(subject: Subject, site: Site, tokens: Tensor, edits: dict[str, Edit]) -> np.ndarray:
    """Sums (R, len(LOSSES)) over the predictions of token ids (R, T) without padding."""
    clean = subject.logits(tokens).log_softmax(-1)[:, :-1]
    target = tokens[:, 1:, None].to(clean.device)
    found = {
        "n": torch.full((len(tokens),), tokens.shape[1] - 1.0),
        "clean": -clean.gather(-1, target)[..., 0].double().sum(1),
    }
    for name, edit in edits.items():
        new = subject.logits(tokens, site, edit).log_softmax(-1)[:, :-1]
        found[name] = -new.gather(-1, target)[..., 0].double().sum(1)
        if name == "spliced":
            found["kl"] = (clean.exp() * (clean - new)).double().sum((1, 2))
    return torch.stack([found[name].cpu().double() for name in LOSSES], 1).numpy()


def losses_of(sums: np.ndarray) -> dict:
    """Measures from sums (..., len(LOSSES)); `recovered` is NaN (None for one) where ablation costs nothing."""
    s = dict(zip(LOSSES, np.moveaxis(sums, -1, 0), strict=True))
    ce = {name: s[name] / s["n"] for name in ("clean", "spliced", "zero", "mean")}
    recovered = {
        f"recovered_{name}": _plain(_ratio(ce[name] - ce["spliced"], ce[name] - ce["clean"]))
        for name in ("zero", "mean")
    }
    if np.ndim(sums) == 1:
        recovered = {name: None if np.isnan(value) else value for name, value in recovered.items()}
    return {
        "loss_tokens": _plain(s["n"], int), **{f"ce_{name}": _plain(value) for name, value in ce.items()},
        "ce_increase": _plain(ce["spliced"] - ce["clean"]), "kl": _plain(s["kl"] / s["n"]), **recovered,
    }  # fmt: skip


def same_length(rows: TextRows, chosen: np.ndarray, n_vocabulary: int) -> list[np.ndarray]:
    """Groups of rows of equal length, the shortest first, so small that a group's logits stay near LOGITS numbers."""
    lengths = rows.offsets[chosen + 1] - rows.offsets[chosen]
    groups = []
    for length in np.unique(lengths):
        same, size = chosen[lengths == length], max(1, int(LOGITS // (n_vocabulary * (length + 1))))
        groups += [same[start : start + size] for start in range(0, len(same), size)]
    return groups


# ---------------------------------------------------------------- intervals


def intervals(sums: np.ndarray, measures, seed: int) -> dict[str, list[float]]:
    """95 % percentile bootstrap over documents of what `measures` makes of sums (documents, columns); none under MIN_DOCUMENTS."""
    if len(sums) < MIN_DOCUMENTS:
        return {}
    counts = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES
    )
    drawn = measures(counts @ sums)
    bounds = {
        name: np.quantile(values, (0.025, 0.975)).tolist()
        for name, values in drawn.items()
        if not np.isnan(values).any()
    }
    return {name: bound for name, bound in bounds.items() if name not in ("tokens", "loss_tokens")}

"""Stage `evaluate`: measure how faithful the SAE is, on documents of the test split.

    FVU        sum of |x - x_hat|^2 over sum of |x - mean(x)|^2, over all vectors and dimensions, in
               float64. Predicting the mean has 1, a perfect copy 0, and a constant offset counts (a
               ratio of variances would hide it).
    bias       E|x_hat|^2 / E[x . x_hat], below 1 where activations are shrunk (Rajamanoharan et al.
               2024, arXiv 2404.16014, section 3.1)
    recovered  (CE_ablated - CE_spliced) / (CE_ablated - CE_clean), for zero and for mean ablation.
               The nats stand beside it, because zero ablation of a residual stream makes almost any
               reconstruction look good.
    KL         of the spliced subject's predictions from its own, nats per token

Vectors of over ten times the median norm (attention sinks, rare tokens) would decide every sum of
squares, so they are left out of FVU, L0, bias and L2 ratio; `norm_outliers` counts them, and
`fvu_with_outliers` is the FVU over all vectors.

The SAE is spliced in, or the site ablated, at every position but the first, on whole rows. A
transcoder is measured at the site that it predicts: x is what the subject computes there, x_hat
comes from what it reads, and splicing it in replaces the MLP between the two.
Intervals are percentile bootstraps over documents, the units of sampling. Unless a number of tokens
is asked for, cross-entropies are measured until their increase is known to PRECISION nats, or for
SECONDS. docs/metrics.md says how other tools define these numbers.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.progress import progress, say
from core.run import Run
from core.saes import SAE
from core.settings import EvaluateSettings
from core.subject.decoding import Edit
from core.subject.subject import Subject
from core.subject.tap import Tap
from core.training import losses
from core.training.losses import AT_ONCE, LOSSES, Measurement, replacements
from core.training.sample import Sample, draw_sample

RESAMPLES = 1000
MIN_DOCUMENTS = 20  # below it a percentile bootstrap does not cover 95 %
PRECISION = 0.005  # nats either side of ce_increase, at which enough tokens are measured
SECONDS = 120.0  # after which cross-entropies are measured no further
LEAST_TOKENS = 8192  # before the precision is looked at: an early narrow interval may be luck
ROUND = 1024  # tokens between two looks at the precision, at least
VECTORS = 4096  # encoded at once
OUTLIER = 10.0  # median norms

# sums of a document over its vectors
SUMS = ("n", "error", "spread", "square", "product", "ratio", "firings")

Array = npt.NDArray[Any]
Measures = dict[str, Any]


def evaluate(run: Run, settings: EvaluateSettings, folder: Path) -> Measures:
    """Return every measure of the module's docstring: the unit `evaluate` is its summary alone.

    That of one layer of a cross-layer transcoder says why there are none. Raises UsageError when
    no document fell into the test split.
    """
    sae = SAE.load(run.folder("train"))
    if sae.config.cross_layer:
        return {
            "skipped": "one layer of a cross-layer transcoder does not reconstruct a site alone"
        }
    sample = draw_sample(run, settings.tokens, settings.loss_tokens)
    return measure_sae(sae, sample)


def measure_sae(sae: SAE, sample: Sample) -> Measures:
    """Return every measure of the module's docstring, with intervals.

    The cross-entropies are measured only where the sample has rows for them.
    """
    documents = sample.tokens.document_of(sample.ordinals)
    parts = np.array_split(sample.ordinals, max(1, len(sample.ordinals) // VECTORS))
    batches = (sample.source.read(part).float() for part in parts)
    bar = progress(batches, "fidelity", total=len(parts), unit="batch")
    targets = None
    if sample.targets is not None:
        targets = (sample.targets.read(part).float() for part in parts)
    sums, fired, mean, outliers = document_sums(sae, bar, documents, targets)
    dead = {"dead_share": float((fired == 0).float().mean()), "documents": len(sums)}
    measures = fidelity_of(sums.sum(0)) | outliers | dead
    if outliers["norm_outliers"]:
        say(
            f"{outliers['norm_outliers']:,} vectors of over {OUTLIER:g} times the median norm are "
            "left out of the figures."
        )
    bounds = intervals(sums, fidelity_of, sample.seed)
    if sample.subject is not None and len(sample.loss_rows):
        device = sample.subject.device
        with (
            Tap(sample.subject, sample.site)
            if sae.config.transcoder
            else contextlib.nullcontext() as tap
        ):
            edits = replacements(sae.to(device), mean.to(device).float(), tap)
            nats, ended = measure_losses(sample.subject, sample, edits)
        measures |= losses_of(nats.sum(0)) | {"loss_ended_by": ended}
        bounds |= intervals(nats, losses_of, sample.seed)
    return measures | {"intervals": bounds}


# ---------------------------------------------------------------- fidelity


def fidelity(sae: SAE, batches: Iterable[Tensor]) -> Measures:
    """Return the measures of `fidelity_of` and the dead share, over raw vectors (B, D)."""
    sums, fired, _, outliers = document_sums(sae, batches, None)
    return fidelity_of(sums.sum(0)) | outliers | {"dead_share": float((fired == 0).float().mean())}


@torch.inference_mode()
def document_sums(
    sae: SAE,
    batches: Iterable[Tensor],
    documents: Array | None,
    targets: Iterable[Tensor] | None = None,
) -> tuple[Array, Tensor, Tensor, Measures]:
    """Return (sums (documents, len(SUMS)) float64, firings (F,), mean vector (D,), outliers).

    `batches` are raw vectors (B, D), and `targets` those that a transcoder predicts from them.
    Their `documents` (n,) are numbers in any order; None takes all as one document. Norm outliers,
    by the median of the first batch, of what is read or of its target, are in the firings alone;
    the last value says how many there are and the FVU with them.
    """
    number = None if documents is None else np.unique(documents, return_inverse=True)[1]
    of = None if number is None else torch.from_numpy(number)
    n_documents = 1 if of is None else int(of.max()) + 1
    sums = torch.zeros(n_documents, len(SUMS), dtype=torch.float64)
    vectors = torch.zeros(n_documents, sae.d_out, dtype=torch.float64)
    fired, at = torch.zeros(sae.n_features, dtype=torch.int64), 0
    limits: list[float] = []
    outside = torch.zeros(3, dtype=torch.float64)
    outside_vectors = torch.zeros(sae.d_out, dtype=torch.float64)
    for x, y in zip(batches, repeat(None) if targets is None else targets, strict=False):
        f = sae.encode(x)
        x_hat, fires = sae.decode(f, x).double(), f > 0
        read, x = x.double(), (x if y is None else y).double()
        own = torch.zeros(len(x), dtype=torch.int64) if of is None else of[at : at + len(x)]
        at += len(x)
        squares = x.square().sum(1)
        kept = are_ordinary([x] if y is None else [x, read], limits)
        fired += fires.sum(0)
        if not kept.all():
            far, error = x[~kept], (x - x_hat)[~kept].square().sum()
            outside += torch.stack([far.new_tensor(len(far)), error, far.square().sum()])
            outside_vectors += far.sum(0)
            x, x_hat, fires, own, squares = (t[kept] for t in (x, x_hat, fires, own, squares))
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
    inside = sums[:, [SUMS.index(name) for name in ("n", "error", "spread")]].sum(0)
    outliers = outlier_measures(inside, outside, vectors.sum(0) + outside_vectors)
    mean = vectors.sum(0) / sums[:, 0].sum()
    # sum of |x - mean|^2
    sums[:, SUMS.index("spread")] += sums[:, 0] * mean.square().sum() - 2 * vectors @ mean
    return sums.numpy(), fired, mean, outliers


def are_ordinary(sides: list[Tensor], limits: list[float]) -> Tensor:
    """bool (B,): no side, of vectors (B, D) each, has an outlying norm.

    `limits` holds the largest ordinary norm of each side; the first batch sets them. Where over
    half of its vectors are zero, no norm outlies.
    """
    norms = [vectors.norm(dim=1) for vectors in sides]
    if not limits:
        limits += [OUTLIER * float(n.median()) or math.inf for n in norms]
    kept = [n <= limit for n, limit in zip(norms, limits, strict=True)]
    return torch.stack(kept).all(0)


def outlier_measures(inside: Tensor, outside: Tensor, vectors: Tensor) -> Measures:
    """Return the number of norm outliers and the FVU over all vectors.

    `inside` and `outside` are (n, sum of |x - x_hat|^2, sum of |x|^2); `vectors` (D,) is the sum of
    all vectors.
    """
    n, error, squares = (inside + outside).tolist()
    spread = squares - float(vectors.square().sum()) / max(1.0, n)
    return {
        "norm_outliers": int(outside[0]),
        "fvu_with_outliers": error / spread if spread > 0 else None,
    }


def fidelity_of(sums: Array) -> Measures:
    """Return measures of sums (..., len(SUMS)); arrays where there are leading dimensions."""
    s = dict(zip(SUMS, np.moveaxis(sums, -1, 0), strict=True))
    return {
        "tokens": _plain(s["n"], int),
        "fvu": _plain(s["error"] / s["spread"]),
        "l0": _plain(s["firings"] / s["n"]),
        "bias": _plain(_ratio(s["square"], s["product"])),
        "l2_ratio": _plain(s["ratio"] / s["n"]),
    }


def _plain(value: Any, kind: type = float) -> Any:
    return kind(value) if np.ndim(value) == 0 else value


def _ratio(above: Array, below: Array) -> Array:
    """Return above / below, NaN where below is 0."""
    out = np.full(np.shape(above), np.nan)
    ratio: Array = np.divide(above, below, out=out, where=below != 0)
    return ratio


# ---------------------------------------------------------------- cross-entropy


def measure_losses(
    subject: Subject,
    sample: Sample,
    edits: dict[str, Edit],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Array, str]:
    """Return (sums (documents, len(LOSSES)) of the rows measured, what ended the measurement).

    That is "precision", "time", or "tokens" where all rows of the sample were measured.
    """
    chosen, of_row = sample.loss_rows, sample.tokens.row_document[sample.loss_rows]
    lengths = np.diff(sample.tokens.row_offsets)[chosen]
    known, own = np.unique(of_row, return_inverse=True)
    sums, start = np.zeros((len(known), len(LOSSES))), clock()
    size = (
        max(ROUND, int(losses.LOGITS // subject.n_vocabulary))
        if sample.to_precision
        else lengths.sum()
    )
    at_once = 1 if sample.targets is not None else AT_ONCE  # a tap is of one pass

    def go_on() -> bool:
        return clock() - start < SECONDS

    with progress(total=int(lengths.sum()), label="evaluate", unit="tok") as bar:
        for part in np.split(np.arange(len(chosen)), _ends_of_rounds(lengths, size)):
            measure = Measurement(subject, sample.place, edits, at_once, bar.update)
            measure.go_on = go_on if sample.to_precision else None
            sums[np.unique(own[part])] += measure(sample.rows, chosen[part], own[part])
            measured = sums[sums[:, 0] > 0]
            if measured[:, 0].sum() == lengths.sum():
                break
            if sample.to_precision and is_precise(measured, sample.seed):
                return measured, "precision"
            if not measure.whole:
                return measured, "time"
    return measured, "tokens"


def _ends_of_rounds(lengths: Array, size: int) -> Array:
    """Return where rows of `lengths` (n,) tokens are cut into rounds of about `size` tokens."""
    number = (np.cumsum(lengths) - 1) // size
    ends: Array = np.flatnonzero(np.diff(number)) + 1
    return ends


def is_precise(nats: Array, seed: int) -> bool:
    """Return whether ce_increase is known to PRECISION from sums (documents, len(LOSSES))."""
    if nats[:, LOSSES.index("n")].sum() < LEAST_TOKENS:
        return False
    low, high = intervals(nats, losses_of, seed).get("ce_increase", (-np.inf, np.inf))
    return bool(high - low <= 2 * PRECISION)


def losses_of(sums: Array) -> Measures:
    """Return measures of sums (..., len(LOSSES)).

    `recovered` is NaN (None for a single one) where ablation costs nothing.
    """
    s = dict(zip(LOSSES, np.moveaxis(sums, -1, 0), strict=True))
    ce = {name: s[name] / s["n"] for name in ("clean", "spliced", "zero", "mean")}
    recovered = {
        f"recovered_{name}": _plain(_ratio(ce[name] - ce["spliced"], ce[name] - ce["clean"]))
        for name in ("zero", "mean")
    }
    if np.ndim(sums) == 1:
        recovered = {name: None if np.isnan(value) else value for name, value in recovered.items()}
    return {
        "loss_tokens": _plain(s["n"], int),
        **{f"ce_{name}": _plain(value) for name, value in ce.items()},
        "ce_increase": _plain(ce["spliced"] - ce["clean"]),
        "kl": _plain(s["kl"] / s["n"]),
        **recovered,
    }


# ---------------------------------------------------------------- intervals


def intervals(
    sums: Array, measures: Callable[[Array], Measures], seed: int
) -> dict[str, list[float]]:
    """Return a 95 % percentile bootstrap over documents of `measures` of sums (documents, columns).

    There are none for fewer than MIN_DOCUMENTS documents.
    """
    if len(sums) < MIN_DOCUMENTS:
        return {}
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    drawn = measures(counts @ sums)
    return {
        name: np.quantile(values, (0.025, 0.975)).tolist()
        for name, values in drawn.items()
        if name not in ("tokens", "loss_tokens") and not np.isnan(values).any()
    }

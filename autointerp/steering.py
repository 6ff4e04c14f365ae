"""Choose features worth clamping, and what to measure of a clamp. The subject is handed in; torch is not imported here."""

from __future__ import annotations

import numpy as np

from autointerp.features import Features
from core.errors import NotReady
from core.records import SPLITS, Clamp

ROWS, LENGTH = 16, 64  # held-out text on which a dose is measured; shorter where no row is so long


def measured_doses(features: Features, live, clamp: Clamp, doses: list[float]) -> list[dict]:
    """Responses of one feature to doses on score documents; the target is the tokens that its direction promotes."""
    if features.effects is None:
        raise NotReady("The promoted tokens are not known.", f"Run: python main.py effects {features.run.name}")
    targets = [int(i) for i in features.effects.loc[clamp.feature]["promoted_id"][:10]]
    return live.doses(clamp.feature, features.stats(clamp.feature).max, doses, held_out_rows(features), targets)


def held_out_rows(features: Features) -> np.ndarray:
    """Token ids (R, T) from the beginnings of rows of the score split, the same for every feature."""
    tokens = features.tokens
    lengths = np.diff(tokens.row_offsets)
    score = np.asarray(tokens.split)[tokens.row_document] == SPLITS.index("score")
    length = min(LENGTH, int(lengths[score].max(initial=0)))
    rows = np.flatnonzero(score & (lengths >= length))
    if length < 2:
        raise NotReady("The score split has no row of two tokens.", "Capture more text.")
    chosen = np.random.default_rng(features.run.settings.seed).choice(rows, min(ROWS, len(rows)), replace=False)
    return np.stack([np.asarray(tokens.ids[tokens.row_offsets[r] : tokens.row_offsets[r] + length]).astype(np.int64) for r in chosen])


def worth_clamping(features: Features, count: int) -> list[int]:
    """Live features to show clamps of, one from each group: a short label that scores at least .6, and then the strongest pull towards
    tokens that this corpus uses.

    What a feature fires on does not tell what it does, so the order is by the output side: the mean logit of its five most promoted
    tokens, where a token that the corpus holds less than 100 times counts as 0.
    """
    table = features.overview()
    short = table["label"].str.len().between(1, 60) & ~table["label"].str.contains(r"\s\s|unclear|\\\\n", regex=True)
    good = table[(table["score"] >= 0.6) & (table["density"] < 0.02) & short]
    if features.effects is None or not len(good):
        return []
    counts = features.postings.token_counts
    pull = [
        sum(v * (counts[i] >= 100) for i, v in zip(e["promoted_id"][:5], e["promoted_logit"][:5], strict=True))
        for _, e in features.effects.loc[good["feature"]].iterrows()
    ]
    ordered = good.iloc[np.argsort(-np.array(pull), kind="stable")]
    distinct = ordered.loc[~ordered["cluster"].duplicated() | (ordered["cluster"] < 0)]
    return [int(f) for f in distinct["feature"].head(count)]

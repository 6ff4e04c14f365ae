"""Choose features worth clamping, and what a clamp is measured on. The subject is handed in; torch is not imported here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autointerp.features import Features
from core.errors import NotReady
from core.records import SPLITS, Clamp

ROWS, LENGTH = 16, 64  # held-out text on which a dose is measured; shorter where no row is so long
OWN = 10  # most promoted tokens that count as a feature's own
LIKE_DENSITY = 2.0  # a control feature fires at most so many times as often, or as seldom
DOSES = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]  # multiples of the maximum


@dataclass(frozen=True)
class DoseBudget:
    """How much text a dose is measured on."""

    prompts: int = 16
    prompt_tokens: int = 16
    tokens: int = 30
    seeds: int = 1


def measured_doses(
    features: Features,
    live,
    clamps: list[Clamp],
    doses: list[float],
    effort: DoseBudget = DoseBudget(),
    places=None,
) -> dict:  # noqa: B008 - frozen
    """Dose and response of clamps together on test documents, by `live.doses`; a feature's own tokens are those that its direction promotes,
    and `places` say where the clamps hold."""
    if features.effects is None:
        raise NotReady(
            "The promoted tokens are not known.", f"Run: python main.py effects {features.run.name}"
        )
    numbers = [clamp.feature for clamp in clamps]
    targets = [
        int(i)
        for f in numbers
        for i in features.effects.loc[features.check(f)]["promoted_id"][:OWN]
    ]
    others = sorted(
        {f for number in numbers for f in of_like_density(features, number)} - set(numbers)
    )
    bench = {"rows": held_out_rows(features), "targets": list(dict.fromkeys(targets)), "prompts": held_out_prompts(features, effort),
             "tokens": effort.tokens, "seeds": effort.seeds, "others": others}  # fmt: skip
    measured = live.doses(
        clamps,
        {f: features.stats(f).max for f in numbers},
        doses,
        bench,
        *([places] if places else []),
    )
    size = {
        "prompts": len(bench["prompts"]),
        "seeds": effort.seeds,
        "tokens": effort.tokens,
        "rows": len(bench["rows"]),
        "row_tokens": bench["rows"].shape[1],
    }
    return measured | {"measured_on": size}


def score_rows(features: Features, least: int) -> tuple[np.ndarray, int]:
    """(rows of the test split that have `least` tokens, or the longest there are, in a seeded order; that length)."""
    tokens = features.tokens
    lengths = np.diff(tokens.row_offsets)
    score = np.asarray(tokens.split)[tokens.row_document] == SPLITS.index("test")
    length = min(least, int(lengths[score].max(initial=0)))
    if length < 2:
        raise NotReady("The test split has no row of two tokens.", "Capture more text.")
    return np.random.default_rng(features.run.settings.seed).permutation(
        np.flatnonzero(score & (lengths >= length))
    ), length


def held_out_rows(features: Features) -> np.ndarray:
    """Token ids (R, T) from the beginnings of rows of the test split, the same for every feature."""
    rows, length = score_rows(features, LENGTH)
    starts = features.tokens.row_offsets[rows[:ROWS]]
    return np.stack(
        [np.asarray(features.tokens.ids[s : s + length]).astype(np.int64) for s in starts]
    )


def held_out_prompts(features: Features, effort: DoseBudget) -> list[str]:
    """The beginnings of other rows of the test split, as they stand in their documents, each text once."""
    tokens = features.tokens
    rows, length = score_rows(features, effort.prompt_tokens)
    texts: dict[str, None] = {}
    for row in rows[::-1]:
        start = int(tokens.row_offsets[row])
        document = tokens.locate(start)[0]
        texts[
            tokens.text(document)[int(tokens.starts[start]) : int(tokens.ends[start + length - 1])]
        ] = None
        if len(texts) == effort.prompts:
            break
    return list(texts)


def of_like_density(features: Features, feature: int) -> list[int]:
    """Other live features that fire about as often; all live ones when there is none."""
    n = features.postings.n_firings.astype(float)
    live = (n > 0) & (np.arange(len(n)) != feature)
    like = live & (n <= LIKE_DENSITY * n[feature]) & (n >= n[feature] / LIKE_DENSITY)
    return np.flatnonzero(like if like.any() else live).tolist()


def worth_clamping(features: Features, count: int) -> list[int]:
    """Live features to show clamps of, one from each group: a short label that scores at least .6, and then the strongest pull towards
    tokens that this corpus uses.

    What a feature fires on does not tell what it does, so the order is by the output side: the mean logit of its five most promoted
    tokens, where a token that the corpus holds less than 100 times counts as 0.
    """
    table = features.overview()
    short = table["label"].str.len().between(1, 60) & ~table["label"].str.contains(
        r"\s\s|unclear|\\\\n", regex=True
    )
    good = table[(table["score"] >= 0.6) & (table["density"] < 0.02) & short]
    if features.effects is None or not len(good):
        return []
    counts = features.postings.token_counts
    pull = [
        sum(
            v * (counts[i] >= 100)
            for i, v in zip(e["promoted_id"][:5], e["promoted_logit"][:5], strict=True)
        )
        for _, e in features.effects.loc[good["feature"]].iterrows()
    ]
    ordered = good.iloc[np.argsort(-np.array(pull), kind="stable")]
    distinct = ordered.loc[~ordered["cluster"].duplicated() | (ordered["cluster"] < 0)]
    return [int(f) for f in distinct["feature"].head(count)]


def works(measured: dict) -> bool:
    """Whether a clamp writes what its direction promotes: on prompts that its dose was not chosen on, the text has more of the feature's own tokens, beyond the
    interval, than both controls' text and unclamped text have."""
    return beyond_controls(measured["useful"], "own")


def found_again(measured: dict) -> bool:
    """Whether the unclamped subject finds the feature in the text that a clamp wrote, by the same test. Experiments kept before this was measured do not know."""
    return "useful_found" in measured and beyond_controls(measured["useful_found"], "found")


def beyond_controls(useful: dict, measure: str) -> bool:
    known = [
        v
        for name in ("random_", "feature_", "unclamped_")
        if (v := useful.get(f"{name}{measure}")) is not None
    ]
    return (
        useful["dose"] is not None
        and useful[f"{measure}_low"] is not None
        and useful[f"{measure}_low"] > max(known, default=0.0)
    )

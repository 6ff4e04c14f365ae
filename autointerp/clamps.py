"""Choose features worth clamping, and measure clamps on held-out text.

The loaded subject is handed in; this module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from autointerp.evidence import Evidence
from autointerp.features import Features
from core.errors import NotReady
from core.records import SPLITS, Clamp

ROWS, LENGTH = 16, 64  # rows, and tokens of each at most, on which a dose is measured
OWN = 10  # most promoted tokens, which count as a feature's own
LIKE_DENSITY = 2.0  # a control feature's density differs at most by this factor
DOSES = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]  # multiples of the maximum
LEAST_SCORE, MOST_DENSITY, LONGEST = 0.6, 0.02, 60  # of a feature worth clamping; LONGEST: label
COMMON = 100  # occurrences in the corpus from which on a promoted token counts
UNREADABLE = r"\s\s|unclear|\\\\n"  # labels that a reader learns nothing from


class Measures(Protocol):
    """The loaded subject and SAE, as far as this module calls it."""

    def doses(
        self,
        clamps: list[Clamp],
        maxima: dict[int, float],
        doses: list[float],
        bench: dict[str, Any],
        *positions: Any,
    ) -> dict[str, Any]:
        """Return the response to clamps at each dose."""


@dataclass(frozen=True)
class DoseBudget:
    """How much text a dose is measured on."""

    prompts: int = 16
    prompt_tokens: int = 16
    tokens: int = 30  # generated after each prompt
    seeds: int = 1  # continuations of each prompt


BUDGET = DoseBudget()


# ---------------------------------------------------------------- measure


def measure_doses(
    evidence: Evidence,
    live: Measures,
    clamps: list[Clamp],
    doses: list[float],
    budget: DoseBudget = BUDGET,
    positions: Any = None,
) -> dict[str, Any]:
    """Return the response to clamps together at each dose, on documents of the test split.

    The features' own tokens are those that their directions promote; `positions` say where the
    clamps hold, everywhere by default. Raises NotReady before the effects stage has run, UsageError
    when there is no such feature.
    """
    features = [evidence.check(clamp.feature) for clamp in clamps]
    targets, rows = find_own_tokens(evidence, features), read_held_out_rows(evidence)
    bench: dict[str, Any] = {
        "rows": rows,
        "targets": targets,
        "prompts": read_held_out_prompts(evidence, budget),
        "tokens": budget.tokens,
        "seeds": budget.seeds,
        "others": find_controls(evidence, features),
    }
    maxima = {f: evidence.stats(f).max for f in features}
    measured = live.doses(clamps, maxima, doses, bench, *([positions] if positions else []))
    size = {
        "prompts": len(bench["prompts"]),
        "seeds": budget.seeds,
        "tokens": budget.tokens,
        "rows": len(rows),
        "row_tokens": rows.shape[1],
    }
    return measured | {"measured_on": size}


def read_effects(evidence: Evidence) -> pd.DataFrame:
    """Return the table of the effects stage; raises NotReady where there is none."""
    if evidence.effects is None:
        raise NotReady(
            "The promoted tokens are not known.", f"Run: python main.py effects {evidence.run.name}"
        )
    return evidence.effects


def find_own_tokens(evidence: Evidence, features: list[int]) -> list[int]:
    """Return the ids of the OWN most promoted tokens of the features, each id once."""
    promoted: dict[Any, Any] = read_effects(evidence)["promoted_id"].to_dict()
    return list(dict.fromkeys(int(i) for f in features for i in promoted[f][:OWN]))


def find_controls(evidence: Evidence, features: list[int]) -> list[int]:
    """Return alive features, other than `features`, that fire about as often as one of them."""
    controls = {f for feature in features for f in find_like_density(evidence, feature)}
    return sorted(controls - set(features))


def find_like_density(evidence: Evidence, feature: int) -> list[int]:
    """Return other alive features that fire about as often; all alive ones if there are none."""
    n = evidence.postings.n_firings.astype(float)
    alive = (n > 0) & (np.arange(len(n)) != feature)
    like = alive & (n <= LIKE_DENSITY * n[feature]) & (n >= n[feature] / LIKE_DENSITY)
    return np.flatnonzero(like if like.any() else alive).tolist()


# ---------------------------------------------------------------- held-out text


def choose_rows(evidence: Evidence, length: int) -> tuple[np.ndarray, int]:
    """Return (numbers of the rows of the test split that are long enough, the length in tokens).

    The rows have at least `length` tokens, or as many as the longest row where none has so many.
    Their order is random with the run's seed. Raises NotReady when no row has two tokens.
    """
    tokens = evidence.tokens
    lengths = np.diff(tokens.row_offsets)
    held_out = np.asarray(tokens.split)[tokens.row_document] == SPLITS.index("test")
    length = min(length, int(lengths[held_out].max(initial=0)))
    if length < 2:
        raise NotReady("The test split has no row of two tokens.", "Capture more text.")
    rng = np.random.default_rng(evidence.run.settings.seed)
    return rng.permutation(np.flatnonzero(held_out & (lengths >= length))), length


def read_held_out_rows(evidence: Evidence) -> np.ndarray:
    """Return token ids (R, T) from the starts of test rows, the same for every feature."""
    rows, length = choose_rows(evidence, LENGTH)
    starts = evidence.tokens.row_offsets[rows[:ROWS]]
    ids = evidence.tokens.ids
    return np.stack([np.asarray(ids[s : s + length]).astype(np.int64) for s in starts])


def read_held_out_prompts(evidence: Evidence, budget: DoseBudget) -> list[str]:
    """Return the starts of other test rows as they stand in their documents, each text once."""
    tokens = evidence.tokens
    rows, length = choose_rows(evidence, budget.prompt_tokens)
    texts: dict[str, None] = {}
    for row in rows[::-1]:
        start = int(tokens.row_offsets[row])
        source = tokens.text(tokens.locate(start)[0])
        texts[source[int(tokens.starts[start]) : int(tokens.ends[start + length - 1])]] = None
        if len(texts) == budget.prompts:
            break
    return list(texts)


# ---------------------------------------------------------------- choose and judge


def choose_features(features: Features, count: int) -> list[int]:
    """Return up to `count` features whose clamps are worth showing, at most one of each cluster.

    Candidates have a short label that scores at least LEAST_SCORE. What a feature fires on does not
    tell what it does to the output, so they are ordered by the mean logit of their five most
    promoted tokens, where a token that occurs under COMMON times in the corpus counts as 0. Returns
    none before the effects stage has run.
    """
    table, effects = features.overview(), features.evidence.effects
    short = table["label"].str.len().between(1, LONGEST)
    readable = short & ~table["label"].str.contains(UNREADABLE, regex=True)
    sparse = table["density"] < MOST_DENSITY
    good = table[(table["score"] >= LEAST_SCORE) & sparse & readable]
    if effects is None or not len(good):
        return []
    counts = features.postings.token_counts
    rows = effects.loc[good["feature"], ["promoted_id", "promoted_logit"]].itertuples(index=False)
    pull = [
        sum(v * (counts[i] >= COMMON) for i, v in zip(ids[:5], logits[:5], strict=True))
        for ids, logits in rows
    ]
    ordered = good.iloc[np.argsort(-np.array(pull), kind="stable")]
    distinct = ordered.loc[~ordered["cluster"].duplicated() | (ordered["cluster"] < 0)]
    return [int(f) for f in distinct["feature"].head(count)]


def works(useful: dict[str, Any] | None) -> bool:
    """Whether a clamp makes the subject write the tokens that its direction promotes.

    `useful` is as in an `Experiment`. On prompts that the dose was not chosen on, the lower bound
    of the share of the features' own tokens in the text must exceed the share in both controls'
    text and in unclamped text.
    """
    return useful is not None and beats_controls(useful, "own")


def is_found_again(useful_found: dict[str, Any] | None) -> bool:
    """Whether the unclamped subject finds the feature in the text that its clamp wrote.

    The test is that of `works`, on the feature's activation. False where it was not measured.
    """
    return useful_found is not None and beats_controls(useful_found, "found")


def beats_controls(useful: dict[str, Any], measure: str) -> bool:
    """Whether the lower bound of a measure exceeds every control that is known, and 0."""
    controls = (useful.get(f"{name}_{measure}") for name in ("random", "feature", "unclamped"))
    known = [value for value in controls if value is not None]
    if useful["dose"] is None or useful[f"{measure}_low"] is None:
        return False
    return bool(useful[f"{measure}_low"] > max(known, default=0.0))

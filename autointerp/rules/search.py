"""Search one predicate of a rule: a conjunction of options that grows slot by slot.

The score is the correlation of the whole prediction with the activation over *all* tokens of the
table, firing or not. It needs two sums over the tokens that a candidate matches: their number and
their activation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autointerp.rules.annotations import CONTEXTS, RELATIONS
from autointerp.rules.language import WEAK
from autointerp.rules.token_table import N_GROUPS, WINDOWS, GroupSums, Option, TokenTable
from autointerp.rules.word_groups import WordGroups

SLOTS = (*RELATIONS, *WINDOWS, "text", "contexts")
STARTS = [slot for slot in SLOTS if slot != "text"]
MAX_TERMS = {"here": 6, "after 1": 5, "within 8": 2, "text": 1}  # literals of a set, by slot
OTHER_TERMS = 4
# Correlation that one more term, slot or predicate must add.
TERM_COST, SLOT_COST, PREDICATE_COST = 0.0025, 0.008, 0.008
# Silent tokens that are added to what a predicate matches, so that a few tokens prove little.
PHANTOMS = 3.0
DOUBT = 0.5  # share of the mass that is discounted when it comes from one group of documents
# Multiples of a token's typical mean activation; the tokens above one of them make a set.
THRESHOLDS = np.array([0.1, 0.2, 0.35, 0.6, 0.9, 1.3])
# Slots that are searched for similar words and affixes; the others only for shapes.
GROUPED = ("here", "after 1", "before")
GROUPS_TRIED = 16  # groups with the best scores before any discount
SHARED = 2.5  # members that a group must have, counted as (sum of mass)^2 / (sum of mass^2)
LEVELS = np.array([1.0, WEAK, 1 / WEAK])  # of what joins a prediction
N_STARTS = 2
FOLLOWED = 0.5  # share of the best start's gain that another start needs to be followed
MAX_OPTIONS = 4  # slots of a predicate
# More tokens are strided when options are proposed, but never when they are compared.
PROPOSAL_TOKENS = 20_000
WINDOW_TOKENS = 3_000  # the same for windows, which need many look-ups a token


@dataclass(frozen=True)
class Target:
    """One feature on a table of N tokens, with the sums that correlations need."""

    table: TokenTable
    activation: np.ndarray  # (N,) float64, SAE units
    firing: np.ndarray  # (m,) indices, ascending
    total: float
    spread: float  # standard deviation times N

    @classmethod
    def build(cls, table: TokenTable, activation: np.ndarray, firing: np.ndarray) -> Target:
        values = activation[firing]
        total = float(values.sum())
        spread = float(np.sqrt(max(len(table) * (values @ values) - total**2, 0.0)))
        return cls(table, activation, firing, total, spread)

    def correlation(self, mass: Any, ones: Any, squares: Any) -> np.ndarray:
        """Correlation of predictions y with the activation a; 0 when either is constant.

        `mass`, `ones` and `squares` are the sums of y a, y and y^2: numbers or arrays (...,).
        """
        n = len(self.table)
        spread = np.sqrt(np.maximum(n * squares - ones**2, 0.0)) * self.spread
        covariance = n * mass - ones * self.total
        return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1.0), 0.0)


@dataclass(frozen=True)
class Cover:
    """The prediction of the predicates so far: its sums, and the tokens that they match.

    Later predicates are searched among the other tokens.
    """

    mass: float
    ones: float
    squares: float
    mask: np.ndarray  # (N,) bool
    indices: np.ndarray  # where `mask` holds

    def without(self, at: np.ndarray) -> np.ndarray:
        """The indices of `at` that are not covered."""
        return at[~self.mask[at]] if len(self.indices) else at

    def score(self, target: Target, mass: Any, ones: Any) -> np.ndarray:
        """Correlation after uncovered tokens with these sums join at their best level.

        Level 1 / WEAK makes them strong and the predicates so far weak.
        """
        if not self.ones:
            return target.correlation(self.mass + mass, self.ones + ones, self.squares + ones)
        v = LEVELS.reshape(-1, *[1] * np.ndim(mass))
        scores = target.correlation(
            self.mass + v * mass, self.ones + v * ones, self.squares + v * v * ones
        )
        return np.asarray(scores.max(0))


@dataclass(frozen=True)
class Pool:
    """The uncovered tokens that match the options so far; the next option is chosen on them."""

    at: np.ndarray | None  # indices; None for all
    firing: np.ndarray  # those that fire


def grow(target: Target, cover: Cover) -> list[Option]:
    """The options of the predicate that adds most to the prediction so far.

    Empty when no predicate adds more than its cost.
    """
    everything = Pool(None, cover.without(target.firing))
    if not len(everything.firing):
        return []
    proposals = [propose(target, cover, everything, slot) for slot in STARTS]
    starts = sorted(proposals, key=_score_of, reverse=True)[:N_STARTS]
    base = float(target.correlation(cover.mass, cover.ones, cover.squares))
    best: tuple[float, list[Option]] = (base + PREDICATE_COST, [])
    for score, option in starts:
        if option is not None and score - base > FOLLOWED * (starts[0][0] - base):
            best = max(best, _refine(target, cover, option), key=_score_of)
    return _name_groups(target, cover, *best)


def _score_of(scored: tuple[float, Any]) -> float:
    return scored[0]


def _refine(target: Target, cover: Cover, option: Option) -> tuple[float, list[Option]]:
    """Add the best option of another slot while the score rises; returns (score, options).

    After each addition the first option is chosen again, given the others.
    """
    options = [option]
    pool = _pool(target, cover, options)
    score = _score(target, cover, options, pool)
    while len(options) < MAX_OPTIONS:
        used = {o.slot for o in options}
        proposals = [propose(target, cover, pool, slot) for slot in SLOTS if slot not in used]
        _, best = max(proposals, key=_score_of)
        if best is None or best.slot in used:
            break
        wider, inside = _refit(target, cover, [*options, best])
        wider_score = _score(target, cover, wider, inside)
        if wider_score < score + SLOT_COST:
            break
        options, score, pool = wider, wider_score, inside
    return score, options


def _name_groups(target: Target, cover: Cover, score: float, options: list[Option]) -> list[Option]:
    """Replace or extend quoted words by a named group where that raises the net score."""
    for i, option in enumerate(options):
        if option.kind != "words" or option.slot not in GROUPED:
            continue
        others = options[:i] + options[i + 1 :]
        pool = Pool(None, cover.without(target.firing))
        if others:
            pool = _pool(target, cover, others)
        _, named = propose(target, cover, pool, option.slot, target.table.words)
        if named is None or not named.groups:
            continue
        changed = [*options[:i], named, *options[i + 1 :]]
        changed_score = _score(target, cover, changed, _pool(target, cover, changed))
        if changed_score > score:
            options, score = changed, changed_score
    return options


def _refit(target: Target, cover: Cover, options: list[Option]) -> tuple[list[Option], Pool]:
    """Choose the first option again, given the others; returns (options, their pool)."""
    pool = _pool(target, cover, options)
    if options[0].kind == "context":
        return options, pool
    rest = _pool(target, cover, options[1:])
    _, again = propose(target, cover, rest, options[0].slot)
    if again is None or again == options[0]:
        return options, pool
    changed = [again, *options[1:]]
    other = _pool(target, cover, changed)
    better = _score(target, cover, changed, other) > _score(target, cover, options, pool)
    return (changed, other) if better else (options, pool)


def _pool(target: Target, cover: Cover, options: list[Option]) -> Pool:
    at = cover.without(target.table.matches(options))
    return Pool(at, at[target.activation[at] > 0])


def _score(target: Target, cover: Cover, options: list[Option], pool: Pool) -> float:
    """Correlation after the tokens of the options' pool join, less the options' costs."""
    at = np.arange(len(target.table)) if pool.at is None else pool.at
    grouped = np.bincount(target.table.groups[at], target.activation[at], N_GROUPS)
    correlation = float(cover.score(target, _discount(grouped), len(at) + PHANTOMS))
    return correlation - sum(_cost(target, option) for option in options)


def _cost(target: Target, option: Option) -> float:
    """Correlation that the option must add to be worth its words."""
    quoted = len(option.values) if option.kind == "words" else 1
    return TERM_COST * quoted + sum(target.table.words.costs[group] for group in option.groups)


# ---------------------------------------------------------------- one slot


def propose(
    target: Target, cover: Cover, pool: Pool, slot: str, words: WordGroups | None = None
) -> tuple[float, Option | None]:
    """(correlation less costs, option) of the best option for `slot` on the pool.

    An option is quoted words or a shape. With `words` it may also be one of these groups, together
    with words that are worth quoting beside it.
    """
    limit = WINDOW_TOKENS if slot in WINDOWS else PROPOSAL_TOKENS
    counts = _counts(target, cover, pool, slot, limit)
    firing, scale = take_every(pool.firing, limit)
    values = target.activation[firing] * scale
    if slot == "contexts":
        return _best_context(target, cover, counts, target.table.counts(slot, firing, values))
    if slot in WINDOWS or slot == "text":
        sums = target.table.counts(slot, firing, values)
        codes = np.flatnonzero(sums)
        return _best_set(target, cover, slot, counts, codes, sums[codes])
    grouped = target.table.sum_by_group(slot, firing, values)
    masses = _discount(grouped.sums)[:-1]
    quoted = _best_set(target, cover, slot, counts, grouped.codes, masses)
    if words is None:
        named = _best_shape(target, cover, slot, counts, grouped)
    else:
        named = _best_group(target, cover, slot, counts, grouped)
    return max(quoted, named, key=_score_of)


def _discount(grouped: np.ndarray) -> np.ndarray:
    """Activation mass (k,) from that in each group of documents (N_GROUPS, k).

    Evenly spread mass counts whole, mass from few groups of documents counts less.
    """
    mass = grouped.sum(0)
    return mass - DOUBT * (
        np.sqrt(np.einsum("i...,i...->...", grouped, grouped)) - mass / np.sqrt(N_GROUPS)
    )


def _counts(target: Target, cover: Cover, pool: Pool, slot: str, limit: int) -> np.ndarray:
    """How often each code stands in `slot` to the tokens of the pool."""
    if pool.at is not None:
        at, scale = take_every(pool.at, limit)
        return target.table.counts(slot, at) * scale
    total = target.table.total_counts(slot)
    if not len(cover.indices):
        return total
    covered, scale = take_every(cover.indices, limit)
    return np.maximum(total - target.table.counts(slot, covered) * scale, 0)


def take_every(indices: np.ndarray, limit: int) -> tuple[np.ndarray, float]:
    """(at most 2 `limit` of the indices, evenly spaced; how many indices each stands for)."""
    step = max(1, len(indices) // limit)
    taken = indices[::step]
    return taken, len(indices) / max(len(taken), 1)


def _best_set(
    target: Target,
    cover: Cover,
    slot: str,
    counts: np.ndarray,
    codes: np.ndarray,
    masses: np.ndarray,
    base: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, Option | None]:
    """The best set of words, beside other words with the (mass, count) of `base`.

    `masses` (m,) are those of the ascending `codes` (m,), `counts` (L + 1,) those of all. Given a
    threshold on the mean activation, the best k words have the k largest excesses over it.
    """
    carries = (masses > 0) & (codes < target.table.n_codes - 1)
    codes, mass = codes[carries], masses[carries]
    if not len(codes):
        return -1.0, None
    n = np.maximum(counts[codes], 1.0)
    # Mean activation of a token, weighted by activation mass.
    typical = (mass @ (mass / (n + PHANTOMS))) / mass.sum()
    size = min(MAX_TERMS.get(slot, OTHER_TERMS), len(codes))
    excess = mass - (THRESHOLDS * typical)[:, None] * n
    top = np.argpartition(-excess, size - 1, axis=1)[:, :size]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(excess, top, 1), axis=1), 1)
    joined_mass, joined_n = base[0] + np.cumsum(mass[top], 1), base[1] + np.cumsum(n[top], 1)
    costs = TERM_COST * np.arange(1, size + 1)
    scores = cover.score(target, joined_mass, joined_n) - costs
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    words = tuple(codes[top[row, : column + 1]].tolist())
    return float(scores[row, column]), Option(slot, "words", words)


def _best_shape(
    target: Target, cover: Cover, slot: str, counts: np.ndarray, grouped: GroupSums
) -> tuple[float, Option | None]:
    """The best shape."""
    shapes = target.table.shapes
    masses = _discount(target.table.sum_shapes(grouped))
    correlations = cover.score(target, masses, target.table.count_shapes(slot, counts))
    scores = correlations - shapes.costs
    best = int(np.argmax(scores))
    return float(scores[best]), Option(slot, "words", groups=(best,))


def _best_group(
    target: Target, cover: Cover, slot: str, counts: np.ndarray, grouped: GroupSums
) -> tuple[float, Option | None]:
    """The best group of words, with the words outside it that are worth quoting beside it."""
    words = target.table.words
    # Upper bounds of the scores, without any discount of mass.
    bounds = cover.score(target, words.sums(grouped.total()), words.sums(counts)) - words.costs
    candidates = [
        int(g)
        for g in np.argpartition(-bounds, GROUPS_TRIED)[:GROUPS_TRIED]
        if _is_shared(grouped.of(words.codes(g)).sum(0))
    ]
    completed: list[tuple[float, Option | None]] = [
        _complete_group(target, cover, Option(slot, "words", groups=(group,)), counts, grouped)
        for group in candidates
    ]
    return max(completed, key=_score_of, default=(-1.0, None))


def _complete_group(
    target: Target, cover: Cover, group: Option, counts: np.ndarray, grouped: GroupSums
) -> tuple[float, Option]:
    """(score, option) of a single group, alone or with the best words beside it."""
    words, (number,) = target.table.words, group.groups
    members, cost = words.codes(number), words.costs[number]
    mass, n = float(_discount(grouped.of(members).sum(1))), float(counts[members].sum())
    alone = float(cover.score(target, mass, n) - cost)
    rest = _discount(grouped.sums)
    rest[grouped.place[members]] = 0
    score, beside = _best_set(
        target, cover, group.slot, counts, grouped.codes, rest[:-1], (mass, n)
    )
    if beside is None or score - cost <= alone:
        return alone, group
    return score - cost, replace(beside, groups=group.groups)


def _is_shared(mass: np.ndarray) -> bool:
    """Whether enough members carry a group's activation mass (members,) to name the group.

    One or two words are better quoted.
    """
    return bool(mass.sum() ** 2 >= SHARED * (mass @ mass) > 0)


def _best_context(
    target: Target, cover: Cover, counts: np.ndarray, sums: np.ndarray
) -> tuple[float, Option | None]:
    """The best context, or negated context."""
    bits = target.table.bits
    n, mass = counts @ bits, sums @ bits
    masses, ones = np.stack([sums.sum() - mass, mass]), np.stack([counts.sum() - n, n])
    scores = cover.score(target, masses, ones) - TERM_COST
    holds, context = np.unravel_index(int(np.argmax(scores)), scores.shape)
    option = Option(CONTEXTS[context], "context", (int(context), int(holds)))
    return float(scores[holds, context]), option

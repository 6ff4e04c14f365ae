"""The search for one predicate: a conjunction of options, grown slot by slot.

The aim is the correlation of the whole prediction with the activation over *all* tokens of the ground, firing or not; it needs only
two sums over the tokens that a candidate matches: how many they are, and their activation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autointerp.rules.annotations import CONTEXTS, RELATIONS
from autointerp.rules.language import WEAK, Predicate, Rule, render
from autointerp.rules.terms import Terms
from autointerp.rules.token_table import N_GROUPS, WINDOWS, Option, TokenTable
from autointerp.rules.word_groups import WordGroups

SLOTS = (*RELATIONS, *WINDOWS, "text", "contexts")
STARTS = [slot for slot in SLOTS if slot != "text"]
MAX_TERMS = {"here": 6, "after 1": 5, "within 8": 2, "text": 1}  # literals of a set, by slot
OTHER_TERMS = 4
TERM_COST, SLOT_COST, PREDICATE_COST = (
    0.0025,
    0.008,
    0.008,
)  # correlation that one more of them must bring
PHANTOMS = 3.0  # tokens without activation that a predicate is charged with, so that a few tokens prove little
DOUBT = 0.5  # share of the mass that is not believed when it comes from one group of documents
THRESHOLDS = np.array(
    [0.1, 0.2, 0.35, 0.6, 0.9, 1.3]
)  # of a token's typical mean activation: tokens above one make a set
GROUPED = (
    "here",
    "after 1",
    "before",
)  # slots in which fields and affixes are sought; in the others only shapes are
GROUPS_TRIED = 16  # of those that look best when all mass is believed
SHARED = 2.5  # members that a group must have, counted as (sum of mass)^2 / (sum of mass^2)
N_STARTS = 2
HOPE = 0.5  # share of the best start's gain that another must have to be followed
MAX_OPTIONS = 4  # slots of a predicate
PROPOSAL_TOKENS = 20_000  # more are strided when options are proposed, never when they are compared
WINDOW_TOKENS = 3_000  # the same for windows, each of which is many look-ups


@dataclass(frozen=True)
class Target:
    """One feature on a ground of N tokens, with the sums that correlations need."""

    ground: TokenTable
    activation: np.ndarray  # (N,) float64, SAE units
    firing: np.ndarray  # (m,) indices, ascending
    total: float
    spread: float  # standard deviation times N

    @classmethod
    def build(cls, ground: TokenTable, activation: np.ndarray, firing: np.ndarray) -> Target:
        values = activation[firing]
        total = float(values.sum())
        return cls(
            ground,
            activation,
            firing,
            total,
            float(np.sqrt(max(len(ground) * (values @ values) - total**2, 0.0))),
        )

    def correlation(self, mass, ones, squares):
        """Correlation of predictions y with the activation a, from sums of y a, y and y^2; 0 when either is constant."""
        n = len(self.ground)
        spread = np.sqrt(np.maximum(n * squares - ones**2, 0.0)) * self.spread
        return np.where(
            spread > 0, (n * mass - ones * self.total) / np.where(spread > 0, spread, 1.0), 0.0
        )


@dataclass(frozen=True)
class Cover:
    """The prediction so far: its sums, and the tokens it speaks of, which later predicates leave alone."""

    mass: float
    ones: float
    squares: float
    mask: np.ndarray  # (N,) bool
    indices: np.ndarray  # where `mask` holds

    def without(self, at: np.ndarray) -> np.ndarray:
        return at[~self.mask[at]] if len(self.indices) else at

    def score(self, target: Target, mass, ones):
        """Correlation when uncovered tokens with these sums join at their best level (1 / WEAK: they become strong and the rest weak)."""
        levels = (1.0, WEAK, 1 / WEAK) if self.ones else (1.0,)
        return np.max(
            [
                target.correlation(
                    self.mass + v * mass, self.ones + v * ones, self.squares + v * v * ones
                )
                for v in levels
            ],
            axis=0,
        )


@dataclass(frozen=True)
class Pool:
    """The uncovered tokens that match the options so far, as what the next option can be chosen from."""

    at: np.ndarray | None  # indices; None for all
    firing: np.ndarray  # those that fire


def grow(target: Target, cover: Cover) -> list[Option]:
    """The options of the predicate that adds most to the prediction so far; empty when none is worth its words."""
    everything = Pool(None, cover.without(target.firing))
    if not len(everything.firing):
        return []
    starts = sorted(
        (propose(target, cover, everything, slot) for slot in STARTS), key=lambda found: -found[0]
    )[:N_STARTS]
    base = float(target.correlation(cover.mass, cover.ones, cover.squares))
    best: tuple[float, list[Option]] = (base + PREDICATE_COST, [])
    for worth, option in starts:
        if option is not None and worth - base > HOPE * (starts[0][0] - base):
            best = max(best, _refine(target, cover, option), key=lambda found: found[0])
    return _named(target, cover, *best)


def _refine(target: Target, cover: Cover, option: Option) -> tuple[float, list[Option]]:
    """Add the best option of another slot while that pays; each time, choose the first one again given the rest."""
    options = [option]
    at = _pool(target, cover, options)
    score = _worth(target, cover, options, at.at)
    while len(options) < MAX_OPTIONS:
        used = {o.slot for o in options}
        found = max(
            (propose(target, cover, at, slot) for slot in SLOTS if slot not in used),
            key=lambda f: f[0],
        )[1]
        if found is None or found.slot in used:
            break
        wider, inside = _refit(target, cover, [*options, found])
        worth = _worth(target, cover, wider, inside.at)
        if worth < score + SLOT_COST:
            break
        options, score, at = wider, worth, inside
    return score, options


def _named(target: Target, cover: Cover, worth: float, options: list[Option]) -> list[Option]:
    """The options with quoted words given up for a group, or completed by one, wherever that is worth its words."""
    for i, option in enumerate(options):
        if option.kind == "words" and option.slot in GROUPED:
            others = options[:i] + options[i + 1 :]
            pool = (
                _pool(target, cover, others) if others else Pool(None, cover.without(target.firing))
            )
            _, again = propose(target, cover, pool, option.slot, target.ground.words)
            tried = [*options[:i], again, *options[i + 1 :]]
            if (
                again is not None
                and again.groups
                and (better := _worth(target, cover, tried, _pool(target, cover, tried).at)) > worth
            ):
                options, worth = tried, better
    return options


def _refit(target: Target, cover: Cover, options: list[Option]) -> tuple[list[Option], Pool]:
    pool = _pool(target, cover, options)
    if options[0].kind == "context":
        return options, pool
    rest = _pool(target, cover, options[1:])
    _, again = propose(target, cover, rest, options[0].slot)
    if again is None or again == options[0]:
        return options, pool
    changed = [again, *options[1:]]
    other = _pool(target, cover, changed)
    better = _worth(target, cover, changed, other.at) > _worth(target, cover, options, pool.at)
    return (changed, other) if better else (options, pool)


def _pool(target: Target, cover: Cover, options: list[Option]) -> Pool:
    at = cover.without(target.ground.matches(options))
    return Pool(at, at[target.activation[at] > 0])


def _worth(target: Target, cover: Cover, options: list[Option], at: np.ndarray) -> float:
    grouped = np.bincount(target.ground.groups[at], target.activation[at], N_GROUPS)
    return float(cover.score(target, _believed(grouped), len(at) + PHANTOMS)) - sum(
        _cost(target, o) for o in options
    )


def _cost(target: Target, option: Option) -> float:
    quoted = len(option.values) if option.kind == "words" else 1
    return TERM_COST * quoted + sum(target.ground.words.costs[group] for group in option.groups)


# ---------------------------------------------------------------- one slot


def propose(
    target: Target, cover: Cover, pool: Pool, slot: str, words: WordGroups | None = None
) -> tuple[float, Option | None]:
    """(correlation less costs, the option) that is best for `slot` on the pool: quoted words or a shape, or with `words` any of these groups too, and
    words that are worth quoting beside it."""
    limit = WINDOW_TOKENS if slot in WINDOWS else PROPOSAL_TOKENS
    counts = _counts(target, cover, pool, slot, limit)
    firing, scale = strided(pool.firing, limit)
    values = target.activation[firing] * scale
    if slot == "contexts":
        return _best_context(target, cover, counts, target.ground.counts(slot, firing, values))
    if slot in WINDOWS or slot == "text":
        sums = target.ground.counts(slot, firing, values)
        return _best_set(target, cover, slot, counts, sums)
    codes = target.ground.views[slot][firing]
    n_codes = target.ground.n_codes
    grouped = np.bincount(
        target.ground.groups[firing] * n_codes + codes, values, N_GROUPS * n_codes
    ).reshape(N_GROUPS, n_codes)
    believed = _believed(grouped)
    quoted = _best_set(target, cover, slot, counts, believed)
    named = (
        _best_shape(target, cover, slot, counts, grouped)
        if words is None
        else _best_group(target, cover, slot, counts, grouped)
    )
    return max(quoted, named, key=lambda found: found[0])


def _believed(grouped: np.ndarray) -> np.ndarray:
    """Mass (k,) from that in each group of documents (N_GROUPS, k): all of it when evenly spread, less when it comes from few groups."""
    mass = grouped.sum(0)
    return mass - DOUBT * (
        np.sqrt(np.einsum("i...,i...->...", grouped, grouped)) - mass / np.sqrt(N_GROUPS)
    )


def _counts(target: Target, cover: Cover, pool: Pool, slot: str, limit: int) -> np.ndarray:
    """How often each code stands in `slot` to the tokens of the pool."""
    if pool.at is not None:
        at, scale = strided(pool.at, limit)
        return target.ground.counts(slot, at) * scale
    covered, scale = strided(cover.indices, limit)
    return np.maximum(
        target.ground.total_counts(slot) - target.ground.counts(slot, covered) * scale, 0
    )


def strided(indices: np.ndarray, limit: int) -> tuple[np.ndarray, float]:
    """(at most 2 `limit` of the indices, evenly taken; how many each stands for)."""
    step = max(1, len(indices) // limit)
    taken = indices[::step]
    return taken, len(indices) / max(len(taken), 1)


def _best_set(
    target: Target, cover: Cover, slot: str, counts, believed, base=(0.0, 0.0)
) -> tuple[float, Option | None]:
    """The best set of words, beside others that have the mass and the count of `base`. Given a threshold on the mean activation, the best k have the k largest excesses over it."""
    codes = np.flatnonzero(believed[:-1] > 0)
    if not len(codes):
        return -1.0, None
    n, mass = np.maximum(counts[codes], 1.0), believed[codes]
    typical = (
        mass @ (mass / (n + PHANTOMS))
    ) / mass.sum()  # mean activation of a token, over the activation mass
    size = min(MAX_TERMS.get(slot, OTHER_TERMS), len(codes))
    excess = mass - (THRESHOLDS * typical)[:, None] * n
    top = np.argpartition(-excess, size - 1, axis=1)[:, :size]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(excess, top, 1), axis=1), 1)
    scores = cover.score(
        target, base[0] + np.cumsum(mass[top], 1), base[1] + np.cumsum(n[top], 1)
    ) - TERM_COST * np.arange(1, size + 1)
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return float(scores[row, column]), Option(
        slot, "words", tuple(codes[top[row, : column + 1]].tolist())
    )


def _best_shape(
    target: Target, cover: Cover, slot: str, counts, grouped
) -> tuple[float, Option | None]:
    shapes = target.ground.shapes
    scores = (
        cover.score(target, _believed(shapes.sums(grouped)), shapes.sums(counts)) - shapes.costs
    )
    best = int(np.argmax(scores))
    return float(scores[best]), Option(slot, "words", groups=(best,))


def _best_group(
    target: Target, cover: Cover, slot: str, counts, grouped
) -> tuple[float, Option | None]:
    """The best group of words, with the words outside it that are worth quoting beside it."""
    words = target.ground.words
    n = words.sums(counts)
    hoped = (
        cover.score(target, words.sums(grouped.sum(0)), n) - words.costs
    )  # as if all mass were believed
    tried = [
        int(g)
        for g in np.argpartition(-hoped, GROUPS_TRIED)[:GROUPS_TRIED]
        if _shared(grouped[:, words.codes(g)].sum(0))
    ]
    return max(
        (_completed(target, cover, slot, counts, grouped, group) for group in tried),
        key=lambda found: found[0],
        default=(-1.0, None),
    )


def _completed(
    target: Target, cover: Cover, slot: str, counts, grouped, group: int
) -> tuple[float, Option]:
    """One group, alone or with the best words beside it."""
    words = target.ground.words
    members, cost = words.codes(group), words.costs[group]
    mass, n = float(_believed(grouped[:, members].sum(1))), float(counts[members].sum())
    alone = float(cover.score(target, mass, n) - cost), Option(slot, "words", groups=(group,))
    outside, rest = counts.copy(), _believed(grouped)
    outside[members], rest[members] = 0, 0
    worth, beside = _best_set(target, cover, slot, outside, rest, (mass, n))
    return (
        alone
        if beside is None or worth - cost <= alone[0]
        else (worth - cost, replace(beside, groups=(group,)))
    )


def _shared(mass: np.ndarray) -> bool:
    """Whether a group's activation mass (members,) lies on so many of them that the group is its name: one or two words are better quoted."""
    return bool(mass.sum() ** 2 >= SHARED * (mass @ mass) > 0)


def _best_context(target: Target, cover: Cover, counts, sums) -> tuple[float, Option | None]:
    bits = target.ground.bits
    n, mass = counts @ bits, sums @ bits
    scores = (
        cover.score(target, np.stack([sums.sum() - mass, mass]), np.stack([counts.sum() - n, n]))
        - TERM_COST
    )
    holds, context = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return float(scores[holds, context]), Option(
        CONTEXTS[context], "context", (int(context), int(holds))
    )


def predicate(target: Target, options: list[Option], weak: bool) -> Predicate:
    """The predicate that the options say; its fields are named by the words that carry most of the feature's activation there."""
    at = target.ground.matches(options) if any(o.groups for o in options) else np.zeros(0, np.int64)
    terms = {o.slot: _terms(target, o, at) for o in options if o.kind != "context"}
    deepest = max((d for d in (1, 2, 3) if f"after {d}" in terms), default=0)
    after = tuple(terms.get(f"after {d}", Terms()) for d in range(deepest, 0, -1))
    within = next(
        ((WINDOWS[slot], found) for slot, found in terms.items() if slot in WINDOWS), None
    )
    contexts = tuple(
        (CONTEXTS[number], bool(holds))
        for number, holds in sorted(o.values for o in options if o.kind == "context")
    )
    others = {name: terms.get(name) for name in ("before", "line", "call", "text")}
    return Predicate(
        terms.get("here", Terms()), after, within, contexts=contexts, weak=weak, **others
    )


def _terms(target: Target, option: Option, at: np.ndarray) -> Terms:
    literals = tuple(target.ground.corpus.lexemes[code] for code in option.values)
    if not option.groups:
        return Terms(literals)
    ground = target.ground
    weights = np.bincount(ground.views[option.slot][at], target.activation[at], ground.n_codes)
    named = [ground.words.terms(group, weights) for group in option.groups]
    joined = lambda name: tuple(part for terms in named for part in getattr(terms, name))
    return Terms(literals, joined("shapes"), joined("affixes"), joined("fields"))


def shorten(target: Target, options: list[Option], room: int) -> list[Option]:
    """The options with the last words of the longest sets left out until their text fits into `room` characters; none when that fails."""
    while options and len(render(Rule((predicate(target, options, True),)))) > room:
        longest = max(
            (o for o in options if o.kind == "words" and o.values),
            key=lambda o: o.n_terms,
            default=None,
        )
        if longest is None or longest.n_terms == 1:
            return []
        options = [replace(o, values=o.values[:-1]) if o is longest else o for o in options]
    return options

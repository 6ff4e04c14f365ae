"""Score `intruder`: among windows of one feature and one stranger, is the stranger found?

It needs no label. Four windows of a feature and one around a firing of another feature of like
density, in which the feature is silent, are shown with their decisive tokens; what the four share
betrays the stranger (Chang et al. 2009 asked people so about topics). A feature whose stranger
nobody finds could be named by nobody, so this tells bad features from bad labels. Chance is 1 in 5.

`top`, `half` and `all` are the shares of strangers found with windows of the top tenth, the upper
half and all of the firings, each with Wilson's interval; the value is `all`. Where the labels are
rules, the stranger is the window that shares least with the others: for every two windows, what
both hold (the decisive token, its shape and place, its neighbours, its word's branch of the
subject's tree, words around it) counts by how rare that is. For other sets an LLM answers. The null
is the same with the windows of four other features in the place of the feature's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from autointerp.evidence import RARE_DOCUMENTS
from autointerp.examples import Examples, argsort_stable
from autointerp.llm.session import AnswerFormat, ask_until_read, read_whole
from autointerp.rules.annotations import CONTEXTS, Annotations
from autointerp.scores import prompts
from autointerp.scores.context import Context, Scored, list_failures, undefined_score
from autointerp.scores.strata import Values
from autointerp.scores.unit import STRATA, STRATUM_COLUMNS
from autointerp.statistics import wilson
from core.parallel import map_in_workers
from core.progress import progress
from core.records import Score, Undefined

KIND = "intruder"
SHOWN = 5  # windows of a trial, the stranger among them
CHANCE = 1 / SHOWN
TRIALS = 8  # of each stratum
STRANGERS = 12  # features of nearest density, among which strangers are drawn
BEFORE, AFTER = 10, 6  # tokens of a window around its decisive token
GRAINS = (12, 60, 300)  # words below the branches of the subject's tree that are compared
TOPICAL = 3  # letters of a word around the decisive token, at least
CHUNK = 16  # features handed to a worker at a time
FIND = AnswerFormat("intruder", max_tokens=256, usual_tokens=60)
NAN = float("nan")

Hint = tuple[str, int]  # what a window holds: (where, code)


@dataclass(frozen=True)
class Trial:
    """One question: the decisive tokens of five windows, and which of them is the stranger's."""

    stratum: str  # of STRATA
    places: tuple[int, ...]  # (SHOWN,) ordinals
    right: int  # 0 to SHOWN - 1
    is_null: bool  # the other windows are of four features as well


@dataclass(frozen=True)
class Drawn:
    """The trials of one feature, and in how many documents its firings were drawn."""

    feature: int
    trials: list[Trial]
    n_documents: int


@dataclass(frozen=True)
class Drawer:
    """Draws trials from the held-out firings of features."""

    examples: Examples
    density: np.ndarray  # (F,)
    seed: int

    @cached_property
    def by_density(self) -> np.ndarray:
        """The features that fire, by density."""
        order = np.argsort(self.density, kind="stable")
        return order[self.density[order] > 0]

    def draw(self, feature: int) -> Drawn:
        """Return TRIALS trials of each stratum and as many null ones; none where it is too rare."""
        rng = np.random.default_rng([self.seed, feature, 8])
        where, ranked = self._firings(feature)
        documents = len(np.unique(self.examples.tokens.document_of(where)))
        trials: list[Trial] = []
        if documents >= RARE_DOCUMENTS:
            near = {f: self._firings(f)[1] for f in self._neighbours(feature)}
            near = {f: places for f, places in near.items() if len(places) >= SHOWN}
            for stratum in STRATA:
                for is_null in (False, True) if len(near) >= SHOWN else ():
                    trials += self._draw_stratum(where, ranked, near, stratum, is_null, rng)
        return Drawn(feature, trials, documents)

    def _firings(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """(ordinals of the held-out firings (m,), the same by activation, weakest first)."""
        where, values, _ = self.examples.firings_in(self.examples.postings.firings(feature), "test")
        return where, where[argsort_stable(values)]

    def _neighbours(self, feature: int) -> list[int]:
        """STRANGERS features of like density, without the feature itself."""
        place = int(np.flatnonzero(self.by_density == feature)[0])
        first = max(0, min(place - STRANGERS // 2, len(self.by_density) - STRANGERS - 1))
        near = self.by_density[first : first + STRANGERS + 1].tolist()
        return [f for f in near if f != feature]

    def _draw_stratum(
        self,
        where: np.ndarray,
        ranked: np.ndarray,
        near: dict[int, np.ndarray],
        stratum: str,
        is_null: bool,
        rng: np.random.Generator,
    ) -> list[Trial]:
        trials = []
        for _ in range(TRIALS):
            others = rng.choice(list(near), SHOWN, replace=False).tolist()
            if is_null:
                own = [self._draw_peaks(near[f], stratum, 1, rng) for f in others[1:]]
                peaks = [p for part in own for p in part]
            else:
                peaks = self._draw_peaks(ranked, stratum, SHOWN - 1, rng)
            silent = self._silent(near[others[0]], where)
            stranger = self._draw_peaks(silent, stratum, 1, rng)
            if len(peaks) < SHOWN - 1 or not stranger:
                continue
            order = rng.permutation(SHOWN)
            shown = np.array([*peaks, *stranger])[order]
            right = int(np.flatnonzero(order == SHOWN - 1)[0])
            trials.append(Trial(stratum, tuple(shown.tolist()), right, is_null))
        return trials

    def _draw_peaks(
        self, ranked: np.ndarray, stratum: str, count: int, rng: np.random.Generator
    ) -> list[int]:
        """`count` firings of a stratum from as many documents, or fewer where there are none."""
        inside = ranked[min(int(STRATA[stratum] * len(ranked)), max(len(ranked) - SHOWN, 0)) :]
        chosen: list[int] = []
        seen: set[int] = set()
        tried = rng.permutation(len(inside))[: 8 * count]
        documents = self.examples.tokens.document_of(inside[tried])
        for least_new in (True, False):
            for place, document in zip(inside[tried].tolist(), documents.tolist(), strict=True):
                fresh = document not in seen or not least_new
                if len(chosen) < count and fresh and place not in chosen:
                    chosen.append(place)
                    seen.add(document)
        return chosen

    def _silent(self, places: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Those of the places around which the firings `where` are silent."""
        first, past = (np.searchsorted(where, places + d) for d in (-BEFORE, AFTER + 1))
        return places[first == past]


# ---------------------------------------------------------------- the free judge


@dataclass(frozen=True)
class Judge:
    """Finds the stranger by what windows share, each hint weighted by how rare it is."""

    annotations: Annotations
    branches: np.ndarray  # (GRAINS, L) branch of the tree that each lexeme lies on, -1 for none
    rarity: dict[Hint, float]  # of the hints that one token gives
    row_of: np.ndarray  # (n,) number of each token's row

    @classmethod
    def build(cls, annotations: Annotations, tokens: np.ndarray) -> Judge:
        """`tokens` are ordinals of held-out tokens, on which rarity is counted."""
        n_lexemes = len(annotations.lexemes)
        branches = np.full((len(GRAINS), n_lexemes), -1)
        sizes = annotations.spans[:, 1] - annotations.spans[:, 0] if len(annotations.spans) else []
        for grain, most in enumerate(GRAINS):
            fitting = np.flatnonzero(np.asarray(sizes) <= most)
            for span in fitting[np.argsort(np.asarray(sizes)[fitting], kind="stable")]:
                begin, end = annotations.spans[span]  # larger branches overwrite smaller ones
                branches[grain, annotations.leaves[begin:end]] = span
        starts = annotations.place == 0
        judge = cls(annotations, branches, {}, np.cumsum(starts))
        counts: Counter[Hint] = Counter()
        for ordinal in tokens.tolist():
            counts.update(judge._token_hints(ordinal))
        n = max(1, len(tokens))
        weights = {hint: float(np.log((n + 1) / (count + 1))) for hint, count in counts.items()}
        return cls(annotations, branches, weights, judge.row_of)

    def _token_hints(self, ordinal: int) -> set[Hint]:
        """What one token and its two neighbours are."""
        a = self.annotations
        code = int(a.codes[ordinal])
        hints: set[Hint] = {("here", code)}
        for relation in ("after 1", "before"):
            place = int(a.related(relation, np.array([ordinal]))[0])
            if place >= 0:
                hints.add((relation, int(a.codes[place])))
        hints |= {("shape", bit) for bit in range(32) if int(a.shapes[ordinal]) >> bit & 1}
        contexts = int(a.contexts[ordinal])
        hints |= {("context", bit) for bit in range(len(CONTEXTS)) if contexts >> bit & 1}
        for grain in range(len(GRAINS)):
            if (branch := int(self.branches[grain, code])) >= 0:
                hints.add((f"branch {grain}", branch))
        return hints

    def hints(self, ordinal: int) -> dict[Hint, float]:
        """What a window holds, with the weight of each hint."""
        common = float(np.log(1 + len(self.rarity)))
        out = {hint: self.rarity.get(hint, common) for hint in self._token_hints(ordinal)}
        a, row = self.annotations, self.row_of[ordinal]
        first, past = max(0, ordinal - BEFORE), min(len(a), ordinal + AFTER + 1)
        for place in range(first, past):
            text = a.lexemes[a.codes[place]]
            if self.row_of[place] == row and len(text) >= TOPICAL and text.isalpha():
                code = int(a.codes[place])
                width = float(np.log(BEFORE + AFTER + 1))  # any of so many tokens may hold it
                out["around", code] = max(self.rarity.get(("here", code), common) - width, 0.0)
        return out

    def find(self, places: Sequence[int]) -> np.ndarray:
        """(SHOWN,) probability that each window is picked: the one that shares least, or a tie."""
        held = [self.hints(place) for place in places]
        shared = np.zeros(len(held))
        for i in range(len(held)):
            for j in range(i):
                both = sum(held[i][hint] for hint in held[i].keys() & held[j].keys())
                shared[i] += both
                shared[j] += both
        least = np.isclose(shared, shared.min())
        return least / least.sum()


# ---------------------------------------------------------------- the stage


def score_intruder(context: Context, features: list[int]) -> Scored:
    """Score features, by rules where all labels of the set are rules, else by an LLM."""
    density = context.postings.n_firings / context.postings.n_tokens
    drawer = Drawer(context.prepare().examples, density, context.seed)
    drawn = list(
        progress(
            map_in_workers(drawer.draw, features, chunk=CHUNK),
            "windows", total=len(features), unit="feat",
        )
    )  # fmt: skip
    info: dict[str, Any] = {}
    if context.asker is None:
        pool = context.examples.pool("test")
        rng = np.random.default_rng([context.seed, 9])
        sampled = rng.choice(pool, min(20_000, len(pool)), replace=False)
        judge = Judge.build(context.annotations, sampled)
        found = list(
            progress(
                map_in_workers(partial(judge_all, judge), drawn, chunk=CHUNK),
                "strangers", total=len(drawn), unit="feat",
            )
        )  # fmt: skip
    else:
        found, info = ask_all(context, drawn)
    pairs = [score_one(context, d, f) for d, f in zip(drawn, found, strict=True)]
    columns = {name: [values.get(name, NAN) for _, values in pairs] for name in STRATUM_COLUMNS}
    scores = [score for score, _ in pairs]
    return Scored(scores, list_failures(scores), columns, info)


def judge_all(judge: Judge, drawn: Drawn) -> list[float]:
    """For each trial of a feature, the probability that the judge picks the stranger."""
    return [float(judge.find(trial.places)[trial.right]) for trial in drawn.trials]


def ask_all(context: Context, drawn: list[Drawn]) -> tuple[list[list[float]], dict[str, Any]]:
    """For each trial 1 where the LLM picks the stranger, 0 where not, NaN without an answer.

    All trials of one feature and stratum make one request. Null trials are not asked.
    """
    assert context.asker is not None, "score opens a session where labels are in free words"
    asked: dict[tuple[int, str], list[int]] = {}
    for number, d in enumerate(drawn):
        for place, trial in enumerate(d.trials):
            if not trial.is_null:
                asked.setdefault((number, trial.stratum), []).append(place)
    questions = {
        key: prompts.intruder_messages(
            [[write_place(context, o) for o in drawn[key[0]].trials[i].places] for i in places]
        )
        for key, places in asked.items()
    }
    most = {key: len(places) for key, places in asked.items()}
    answers = ask_until_read(
        questions,
        lambda key, reply: read_whole(partial(prompts.parse_picks, count=most[key]))(key, reply),
        partial(context.asker.ask, form=FIND),
    )
    found = [[NAN] * len(d.trials) for d in drawn]
    for (number, stratum), picks in answers.values.items():
        for place, pick in zip(asked[number, stratum], picks, strict=True):
            right = drawn[number].trials[place].right
            found[number][place] = NAN if pick is None else float(pick == right)
    return found, {"prompt": prompts.INTRUDER_PROMPT, "trials": TRIALS}


def write_place(context: Context, ordinal: int) -> str:
    """The window around one decisive token as the prompt shows it, the token marked."""
    row_first, row_past = (int(side[0]) for side in context.examples.window(np.array([ordinal])))
    first, past = max(row_first, ordinal - BEFORE), min(row_past, ordinal + AFTER + 1)
    return prompts.marked_text(list(context.tokens.spell(first, past)), {ordinal - first})


def score_one(context: Context, drawn: Drawn, found: list[float]) -> tuple[Score, Values]:
    """(score of one feature, values of STRATUM_COLUMNS)."""
    feature, n_documents = drawn.feature, drawn.n_documents
    if not drawn.trials:
        why = f"fires in {n_documents} held-out documents; {RARE_DOCUMENTS} are needed"
        rare = Undefined("too_rare", why)
        return undefined_score(context, KIND, feature, rare, 0, n_documents), {}
    values: Values = {}
    results = list(zip(drawn.trials, found, strict=True))
    for stratum in STRATA:
        own = [f for t, f in results if t.stratum == stratum and not t.is_null and not np.isnan(f)]
        null = [f for t, f in results if t.stratum == stratum and t.is_null and not np.isnan(f)]
        if own:
            values[stratum] = float(np.mean(own))
            span = wilson(values[stratum], len(own))
            values[f"low_{stratum}"], values[f"high_{stratum}"] = span
        if null:
            values[f"null_{stratum}"] = float(np.mean(null))
    if "all" not in values:
        unread = Undefined("unparsable", "no answer could be read")
        return undefined_score(context, KIND, feature, unread, 0, n_documents), {}
    name, chance = context.label_set, values.get("null_all")
    n = SHOWN * len(results)
    span = values["low_all"], values["high_all"]
    return Score(feature, name, KIND, values["all"], None, *span, chance, n, n_documents), values

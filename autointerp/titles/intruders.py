"""The intruder test: whether a title tells members of its cluster from an outsider.

Four members and an outsider from another cluster of the level are shown; a judge who sees their
labels and the title finds the outsider one time in five by chance. Without an LLM the judge takes
the label with fewest marks of the title, ties shared, and titles for the test are made from the
other half of each cluster, so that no label is judged by a title that it helped to make.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from autointerp.clusters.unit import level_column, level_columns
from autointerp.llm.session import Ask, ask_until_read, read_whole
from autointerp.statistics import wilson
from autointerp.titles import contrast, naming
from autointerp.titles.members import list_members, list_parents

LEAST_TESTED = 8  # members of a tested cluster: half of them name it, four of the others are shown

Trial = tuple[naming.Key, list[int], int]  # (cluster, five features, index of the outsider)


def split_members(alive: pd.DataFrame, seed: int) -> dict[naming.Key, list[int]]:
    """{(level, cluster): half of its members, kept from naming it}, for clusters of at least 8."""
    rng, halves = np.random.default_rng([seed, 7]), {}
    for level in range(len(level_columns(alive))):
        for cluster, part in list_members(alive, level).items():
            if len(part) >= LEAST_TESTED:
                halves[level, cluster] = rng.permutation(part)[: len(part) // 2].tolist()
    return halves


def draw_trials(alive: pd.DataFrame, halves: dict[naming.Key, list[int]], seed: int) -> list[Trial]:
    """One trial for each cluster of `halves`, in random order of the five features.

    The members are drawn from the cluster's half, the outsider from the members of the other
    clusters of the level. Clusters without enough of either have no trial.
    """
    rng, trials = np.random.default_rng([seed, 6]), []
    for (level, cluster), pool in sorted(halves.items()):
        own = alive[level_column(level)]
        others = alive.loc[(own >= 0) & (own != cluster), "feature"].to_numpy()
        if len(pool) < 4 or not len(others):
            continue
        drawn = [*rng.choice(pool, 4, replace=False).tolist(), int(rng.choice(others))]
        order = rng.permutation(5)
        outsider = int(np.flatnonzero(order == 4)[0])
        trials.append(((level, cluster), [drawn[i] for i in order], outsider))
    return trials


def find_by_marks(alive: pd.DataFrame, marks: dict[int, set[contrast.Mark]], seed: int) -> dict:
    """How often the label with fewest marks of the title is the outsider's."""
    halves = split_members(alive, seed)
    named: dict[naming.Key, set[contrast.Mark]] = {}
    for level in range(len(level_columns(alive))):
        held = {f for key, part in halves.items() if key[0] == level for f in part}
        rest = alive[~alive["feature"].isin(held)]
        evidence = contrast.gather_evidence(
            list_members(rest, level),
            list_parents(rest, level),
            {f: marks[f] for f in rest["feature"]},
        )
        titles = contrast.make_titles(evidence)
        named |= {(level, cluster): set(t.marks) for cluster, t in titles.items()}
    hits, trials = 0.0, [t for t in draw_trials(alive, halves, seed) if named.get(t[0])]
    for key, shown, outsider in trials:
        n_marks = np.array([len(named[key] & marks[feature]) for feature in shown])
        fewest = n_marks == n_marks.min()
        hits += float(fewest[outsider]) / fewest.sum()
    return to_share(hits, len(trials))


def find_by_llm(
    frame: pd.DataFrame, alive: pd.DataFrame, labels: pd.DataFrame, ask: Ask, seed: int
) -> dict:
    """How often the LLM finds the outsider from the title and five labels.

    An answer that cannot be read counts as wrong.
    """
    text = dict(zip(labels["feature"], labels["text"], strict=True))
    named = frame[(frame["title"] != "") & (frame["why"] == "")]
    keys = zip(named["layer"].tolist(), named["group"].tolist(), strict=True)
    title_of = dict(zip(keys, named["title"].tolist(), strict=True))
    known = alive[alive["feature"].isin(text.keys())]
    halves = {key: part for key, part in split_members(known, seed).items() if key in title_of}
    trials = draw_trials(known, halves, seed)
    questions = {
        key: naming.intruder_messages(title_of[key], [text[f] for f in shown])
        for key, shown, _ in trials
    }
    picked = ask_until_read(questions, read_whole(naming.read_outsider), ask).values
    hits = sum(picked.get(key) == outsider + 1 for key, _, outsider in trials)
    return to_share(hits, len(trials))


def to_share(hits: float, n: int) -> dict:
    """The share of n trials with Wilson's interval, beside chance."""
    low, high = wilson(hits / max(n, 1), n)
    return {
        "share": round(hits / n, 4) if n else None,
        "low": round(low, 4),
        "high": round(high, 4),
        "n": n,
        "chance": 0.2,
    }

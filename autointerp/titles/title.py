"""Stage `title`: a short name for every family and every cluster, and how much names are worth.

Names are made of words that members have and other features, above all siblings, lack (`contrast`,
`families`), or by an LLM (`naming`, `family_naming`). "mixed" is an answer. A cluster of which less
than half comes back in subsamples (Jaccard below 0.5) stays unnamed: its title is empty, and the
title that it would have got is stored as `tentative`. `unit` describes the files.

The stage measures how well labels agree inside clusters, and runs intruder tests (`intruders`,
`family_intruders`).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from autointerp.clusters import unit as clusters
from autointerp.clusters.similarity import similarity_within
from autointerp.clusters.validation import DISSOLVED
from autointerp.labels.unit import read_labels
from autointerp.llm.session import AnswerFormat, Ask, open_session
from autointerp.settings import TitleSettings
from autointerp.titles import contrast, family_intruders, family_naming, naming, unit
from autointerp.titles.families import (
    marks_without,
    name_families,
    summarise_names,
    take_llm_names,
)
from autointerp.titles.family_groups import FamilyGroups
from autointerp.titles.intruders import find_by_llm, find_by_marks
from autointerp.titles.members import list_members, list_parents
from core.effects.unit import read_effects
from core.firings.postings import Postings
from core.records import Failure
from core.run import Run
from core.training.unit import read_directions

NAME = AnswerFormat("title", max_tokens=1024, usual_tokens=30)
SHOWN = 10  # marks kept as evidence
COLUMNS = ["layer", "group", "title", "tentative", "why", "size", "evidence", "share"]


def title(run: Run, settings: TitleSettings, folder: Path) -> dict:
    """Write the files of the unit `title` into `folder`; returns the summary.

    Raises Stop when the LLM was only to be estimated or its requests to be written to a file.
    """
    table, records = clusters.read_clusters(run), clusters.read_records(run)
    assert table is not None
    alive = table[table["status"] != "dead"]
    labels = read_labels(run, settings.labels)
    effects = read_effects(run)
    promoted = pd.DataFrame({"feature": [], "promoted": []}) if effects is None else effects
    marks = contrast.mark_features(alive, labels, promoted)
    postings, seed = Postings(run.folder("index"), run.folder("capture")), run.settings.seed
    density = postings.n_firings / postings.n_tokens
    agreement = measure_agreement(alive, labels, density, seed)
    frame = titles_by_contrast(alive, records, marks)
    failures: list[Failure] = []
    llm: dict = {}
    names = name_families(alive, clusters.read_families(run), marks)
    groups = FamilyGroups.from_table(alive, read_directions(run))
    text = dict(zip(labels["feature"].tolist(), labels["text"].tolist(), strict=True))
    held = groups.hold_out(text, seed)
    trials = family_intruders.draw_trials(groups, held, text, seed)
    if settings.by == "words":
        intruder = find_by_marks(alive, marks, seed)
        without = marks_without(alive, marks, held) if trials else {}
        tested = family_intruders.judge_by_marks(trials, without, marks)
    else:
        with open_session(run, settings) as asker:
            ask = partial(asker.ask, form=NAME)
            frame, failures = titles_by_llm(frame, alive, records, labels, ask)
            shown = labels_to_name(groups, held, text)
            batches = groups.batches(family_naming.TOGETHER)
            named, unnamed = family_naming.name_by_llm(batches, shown, ask)
            names, failures = take_llm_names(names, named), failures + unnamed
            tested = family_intruders.judge_by_llm(trials, named, text, ask)
            intruder = find_by_llm(frame, alive, labels, ask, seed)
            llm = {"prompt": f"{naming.TITLE_PROMPT}, {family_naming.FAMILY_PROMPT}"}
            llm |= asker.summary()
    unit.write_family_names(folder, names)
    proof = {"agreement": agreement, "intruder": intruder, "family_intruders": tested}
    unit.write_titles(folder, frame, failures, proof)
    summary = summarise_names(names) | summarise_trials(tested)
    return summary | summarise(frame, failures, agreement, intruder) | llm


def labels_to_name(
    groups: FamilyGroups, held: dict[int, int], text: dict[int, str]
) -> dict[int, list[str]]:
    """The labels of each family's members, without the member that is kept for the test."""
    return {
        family: [text[f] for f in part if f in text and f != held.get(family)]
        for family, part in enumerate(groups.members)
    }


def summarise_trials(tested: dict[str, dict]) -> dict:
    """The intruder test of families in the summary: share, low, high, n, near and far."""
    return {
        f"family_intruder_{distance}_{name}": found[name]
        for distance, found in tested.items()
        for name in ("share", "low", "high", "n")
    }


def summarise(
    frame: pd.DataFrame, failures: list[Failure], agreement: dict | None, intruder: dict
) -> dict:
    """The summary of the unit `title`."""
    counts = frame["why"].value_counts()
    share = frame["share"].median() if len(frame) else np.nan
    summary = {
        "groups": len(frame),
        "named": int(counts.get("", 0)),
        "mixed": int(counts.get("mixed", 0)),
        "unstable": int(counts.get("unstable", 0)),
        "failures": len(failures),
        "median_share": None if np.isnan(share) else round(float(share), 3),
    }
    summary |= {f"intruder_{name}": intruder[name] for name in ("share", "low", "high", "n")}
    return summary | {
        f"agreement_{name}": agreement[name] if agreement else None
        for name in ("value", "null", "z", "p")
    }


def measure_agreement(
    alive: pd.DataFrame, labels: pd.DataFrame, density: np.ndarray, seed: int
) -> dict | None:
    """Mean cosine of the words of labels inside clusters of the finest level.

    Compared with shuffles within density strata. Labels never saw the clusters. None where no label
    has a word or no two labelled features share a cluster.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    text = labels.set_index("feature")["text"]
    known = alive[alive["feature"].isin(text.index)]
    words = TfidfVectorizer(token_pattern=r'"(?:[^"\\]|\\.)*"|\w+', lowercase=False)
    try:
        rows = words.fit_transform(text[known["feature"]])
    except ValueError:  # no label has a word
        return None
    return similarity_within(rows, known["group"].to_numpy(), density[known["feature"]], seed)


# ------------------------------------------------------------ titles


def titles_by_contrast(
    alive: pd.DataFrame, records: list[dict], marks: dict[int, set[contrast.Mark]]
) -> pd.DataFrame:
    """The titles of every level, from words.

    Fine levels come first: what names a part well would name the whole badly, so no cluster gets a
    title that is shown for a cluster inside it.
    """
    rows, record_of = [], {(r["layer"], r["group"]): r for r in records}
    shown: dict[naming.Key, list[str]] = {}  # titles that are shown for clusters inside a cluster
    for level in reversed(range(len(clusters.level_columns(alive)))):
        members = list_members(alive, level)
        evidence = contrast.gather_evidence(members, list_parents(alive, level), marks)
        inside = {cluster: shown.get((level, cluster), []) for cluster in members}
        titles = contrast.make_titles(evidence, inside)
        for cluster, part in members.items():
            record, (text, used) = record_of[level, cluster], astuple(titles[cluster])
            own = [] if has_dissolved(record) else [text]
            shown.setdefault((level - 1, record["parent"]), []).extend(own + inside[cluster])
            best = {contrast.render_marks([m]): n for m, n, _ in evidence[cluster].ranked[:SHOWN]}
            share = float(np.mean([bool(used & marks[feature]) for feature in part]))
            listed = json.dumps(best, ensure_ascii=False)
            rows.append((level, cluster, text, len(part), listed, share))
    frame = pd.DataFrame(rows, columns=["layer", "group", "tentative", "size", "evidence", "share"])
    return add_status(frame.sort_values(["layer", "group"], ignore_index=True), records)


def astuple(made: contrast.Title) -> tuple[str, set[contrast.Mark]]:
    return made.text, set(made.marks)


def add_status(frame: pd.DataFrame, records: list[dict]) -> pd.DataFrame:
    """The table with `why` and `title`, which is empty for clusters that have dissolved."""
    record_of = {(r["layer"], r["group"]): r for r in records}
    keys = zip(frame["layer"], frame["group"], strict=True)
    dissolved = np.array([has_dissolved(record_of.get(key, {})) for key in keys], bool)
    mixed = np.array([t.startswith(contrast.MIXED) for t in frame["tentative"]], bool)
    why = np.select([dissolved, mixed], ["unstable", "mixed"], "").astype(object)
    titles = np.where(dissolved, "", frame["tentative"])
    return frame.assign(why=why, title=titles)[COLUMNS]


def has_dissolved(record: dict) -> bool:
    """Whether less than half of a cluster comes back in subsamples; False where none were tried."""
    return record.get("jaccard") is not None and record["jaccard"] < DISSOLVED


def titles_by_llm(
    frame: pd.DataFrame,
    alive: pd.DataFrame,
    records: list[dict],
    labels: pd.DataFrame,
    ask: Ask,
) -> tuple[pd.DataFrame, list[Failure]]:
    """The table with titles by an LLM for every cluster that is not unstable.

    A cluster without an answer keeps an empty title and is a Failure.
    """
    stable = frame[frame["why"] != "unstable"]
    keys = list(zip(stable["layer"].tolist(), stable["group"].tolist(), strict=True))
    titles, failures = naming.name_clusters(make_cases(keys, alive, records, labels), ask)
    tentative = [
        titles.get((level, cluster), old if why == "unstable" else "")
        for level, cluster, old, why in zip(
            frame["layer"], frame["group"], frame["tentative"], frame["why"], strict=True
        )
    ]
    named = frame.assign(tentative=tentative, share=np.nan)
    return add_status(named.drop(columns=["title", "why"]), records), failures


def make_cases(
    keys: list[naming.Key], alive: pd.DataFrame, records: list[dict], labels: pd.DataFrame
) -> list[naming.Case]:
    """The labels to show for each cluster: of its members, central ones first, and of siblings."""
    text = dict(zip(labels["feature"], labels["text"], strict=True))
    central = {(r["layer"], r["group"]): r["exemplars"] for r in records}
    cases = []
    for level, cluster in keys:
        part = set(list_members(alive, level)[cluster])
        order = dict.fromkeys([*central.get((level, cluster), []), *sorted(part)])
        siblings = [f for f in list_parents(alive, level).get(cluster, []) if f not in part]
        spread = siblings[:: max(1, len(siblings) // naming.OTHERS)]
        own, others = ([text[f] for f in features if f in text] for features in (order, spread))
        cases.append(naming.Case((level, cluster), own, others))
    return cases

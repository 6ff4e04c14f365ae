"""Stage `title`: a short name for every group of every layer, from its members' labels; how well labels agree inside groups; an intruder test.

Names are made of words that members have and other features, siblings first of all, have not (`contrast.py`), or by an LLM (`naming.py`). "mixed" is
an answer. A group of which less than half comes back in subsamples (Jaccard below 0.5) stays unnamed: its title is empty, and what it would have been
called stands beside it as `tentative`.

The intruder test: four members and an outsider from another group of the layer; who sees their labels and the title finds the outsider one time in
five by chance. Without an LLM the judge counts which label has fewest marks of the title, ties shared, and titles for the test are made from the
other half of each group, so that no label is judged by a title that it helped to make.

Files: titles.parquet with layer, group, title, tentative, why (unstable, mixed or empty), size, evidence (JSON: the marks that stand out most, with
how many members have each) and share (of the members that have at least one mark of the title; NaN for titles by an LLM); failures.parquet.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from autointerp.clusters.similarity import likeness
from autointerp.clusters.validation import DISSOLVED
from autointerp.llm.session import AnswerFormat, Ask, DryRun, asked_twice, open_session
from autointerp.settings import TitleSettings
from autointerp.statistics import wilson
from autointerp.titles import contrast, naming
from core.files import read_json, write_json, write_table
from core.firings.postings import Postings
from core.records import Failure, Manifest
from core.run import Run, Work

UNIT, VERSION = "title", 3
NAME = AnswerFormat("title", max_tokens=1024, usual_tokens=30)
SHOWN = 10  # marks kept as evidence
LEAST_TESTED = 8  # members of a group that is tested: half of them name it, four of the others stand against the outsider
COLUMNS = ["layer", "group", "title", "tentative", "why", "size", "evidence", "share"]


def title(run: Run, settings: TitleSettings, redo: bool = False) -> Manifest:
    """Make the unit `title`."""
    work = run.begin(UNIT, VERSION, settings, ["cluster", f"label/{settings.set}", "effects"], redo)
    if work is None:
        return run.manifest(UNIT)
    features = pd.read_parquet(run.folder("cluster") / "features.parquet")
    records = read_json(run.folder("cluster") / "groups.json")
    labels = pd.read_parquet(run.folder(f"label/{settings.set}") / "labels.parquet")
    promoted = run.folder("effects") / "effects.parquet"
    effects = (
        pd.read_parquet(promoted)
        if promoted.exists()
        else pd.DataFrame({"feature": [], "promoted": []})
    )
    postings = Postings(run.folder("index"), run.folder("capture"))
    live = features[features["status"] != "dead"]
    marks = contrast.marks_of(live, labels, effects, settings)
    frame = titles_by_contrast(live, records, marks, settings)
    agreement = label_agreement(
        live, labels, postings.n_firings / postings.n_tokens, run.settings.seed
    )
    if settings.by == "words":
        test = intruders_by_marks(live, records, marks, settings, run.settings.seed)
        return commit(work, frame, [], {"agreement": agreement, "intruder": test}, {})
    with open_session(run, settings) as asker:
        ask = partial(asker.ask, form=NAME)
        try:
            frame, failures = titles_by_llm(frame, live, records, labels, ask)
            test = intruders_by_llm(frame, live, labels, ask, run.settings.seed)
        except DryRun:  # an estimate or a batch file leaves no partial unit behind
            shutil.rmtree(work.folder)
        else:
            manifest = commit(
                work, frame, failures, {"agreement": agreement, "intruder": test}, asker.summary()
            )
    return manifest


def commit(
    work: Work, frame: pd.DataFrame, failures: list[Failure], proof: dict, by_llm: dict
) -> Manifest:
    write_table(work.folder / "titles.parquet", frame)
    write_table(
        work.folder / "failures.parquet",
        pd.DataFrame([asdict(f) for f in failures], columns=list(Failure.__annotations__)),
    )
    write_json(work.folder / "proof.json", proof)
    return work.commit(summary(frame, failures, proof["agreement"], proof["intruder"]) | by_llm)


def summary(
    frame: pd.DataFrame, failures: list[Failure], agreement: dict | None, test: dict
) -> dict:
    counts = {why or "named": int(n) for why, n in frame["why"].value_counts().items()}
    share = frame["share"].median() if len(frame) else np.nan
    out = {
        "groups": len(frame),
        "named": counts.get("named", 0),
        "mixed": counts.get("mixed", 0),
        "unstable": counts.get("unstable", 0),
    }
    figures = {f"intruder_{name}": test[name] for name in ("share", "low", "high", "n")}
    agreed = {
        f"agreement_{name}": agreement[name] if agreement else None
        for name in ("value", "null", "z", "p")
    }
    return (
        out
        | {
            "failures": len(failures),
            "median_share": None if np.isnan(share) else round(float(share), 3),
        }
        | figures
        | agreed
    )


# ------------------------------------------------------------ names


def layers_of(live: pd.DataFrame) -> list[str]:
    return sorted(c for c in live if c.startswith("layer_"))


def members_of(live: pd.DataFrame, column: str) -> dict[int, list[int]]:
    """{group: features} of one layer."""
    return {int(g): part.tolist() for g, part in live[live[column] >= 0].groupby(column)["feature"]}


def parents_of(live: pd.DataFrame, layer: int) -> dict[int, list[int]]:
    """{group: features of the group that it lies in}; nothing for groups of the coarsest layer or outside every group of the one above."""
    if layer == 0:
        return {}
    above, here = members_of(live, f"layer_{layer - 1}"), live[live[f"layer_{layer}"] >= 0]
    first = here.drop_duplicates(f"layer_{layer}")
    return {
        int(g): above[int(p)]
        for g, p in zip(first[f"layer_{layer}"], first[f"layer_{layer - 1}"], strict=True)
        if p >= 0
    }


def titles_by_contrast(
    live: pd.DataFrame, records: list[dict], marks: dict, settings: TitleSettings
) -> pd.DataFrame:
    """The titles table of every layer, from words. Fine layers first: what names a part well would name the whole badly, so a group gets no title that is
    shown for a group inside it."""
    rows, lines = [], {(r["layer"], r["group"]): r for r in records}
    inside: dict[tuple[int, int], list[str]] = {}  # titles that are shown for groups inside a group
    for layer, column in reversed(list(enumerate(layers_of(live)))):
        members = members_of(live, column)
        found = contrast.evidence(members, parents_of(live, layer), marks)
        titles = contrast.group_titles(
            found, settings, {g: inside.get((layer, g), []) for g in members}
        )
        for group in members:
            own = [] if dissolved(lines[layer, group]) else [titles[group].text]
            inside.setdefault((layer - 1, lines[layer, group]["parent"]), []).extend(
                own + inside.get((layer, group), [])
            )
        for group, part in members.items():
            chosen = set(titles[group].marks)
            share = float(np.mean([bool(chosen & marks[f]) for f in part]))
            shown = {contrast.phrase([m]): n for m, n, _ in found[group].ranked[:SHOWN]}
            rows.append(
                (
                    layer,
                    group,
                    titles[group].text,
                    len(part),
                    json.dumps(shown, ensure_ascii=False),
                    share,
                )
            )
    frame = pd.DataFrame(rows, columns=["layer", "group", "tentative", "size", "evidence", "share"])
    return with_status(frame.sort_values(["layer", "group"], ignore_index=True), records)


def with_status(frame: pd.DataFrame, records: list[dict]) -> pd.DataFrame:
    """The table with `why` and `title`: empty for groups that have dissolved in subsamples."""
    lines = {(r["layer"], r["group"]): r for r in records}
    lost = [
        dissolved(lines.get(key, {})) for key in zip(frame["layer"], frame["group"], strict=True)
    ]
    is_mixed = (
        frame["tentative"].str.startswith(contrast.MIXED) if len(frame) else np.zeros(0, bool)
    )
    why = (
        np.select([np.array(lost, bool), np.asarray(is_mixed, bool)], ["unstable", "mixed"], "")
        if len(frame)
        else np.zeros(0, object)
    )
    return frame.assign(why=why, title=np.where(why == "unstable", "", frame["tentative"]))[COLUMNS]


def dissolved(record: dict) -> bool:
    """Whether less than half of a group comes back in subsamples; not known without a proof."""
    return record.get("jaccard") is not None and record["jaccard"] < DISSOLVED


def titles_by_llm(
    frame: pd.DataFrame, live: pd.DataFrame, records: list[dict], labels: pd.DataFrame, ask: Ask
) -> tuple[pd.DataFrame, list[Failure]]:
    """The table with names by an LLM for every group that is not unstable; one that got none keeps an empty title and is a Failure."""
    text = dict(zip(labels["feature"], labels["text"], strict=True))
    central = {(r["layer"], r["group"]): r["exemplars"] for r in records}
    cases = []
    for row in frame[frame["why"] != "unstable"].itertuples():
        part = set(members_of(live, f"layer_{row.layer}")[row.group])
        order = [*central.get((row.layer, row.group), []), *sorted(part)]
        near = [f for f in parents_of(live, row.layer).get(row.group, []) if f not in part]
        said = lambda features: [text[f] for f in dict.fromkeys(features) if f in text]
        cases.append(
            naming.Case(
                (row.layer, row.group),
                said(order),
                said(near[:: max(1, len(near) // naming.OTHERS)]),
            )
        )
    titles, failures = naming.name_groups(cases, ask)
    keys = list(zip(frame["layer"], frame["group"], strict=True))
    named = frame.assign(
        tentative=[
            titles.get(k, t if w == "unstable" else "")
            for k, t, w in zip(keys, frame["tentative"], frame["why"], strict=True)
        ],
        share=np.nan,
    )
    return with_status(named.drop(columns=["title", "why"]), records), failures


# ------------------------------------------------------------ what the names are worth


def label_agreement(
    live: pd.DataFrame, labels: pd.DataFrame, density: np.ndarray, seed: int
) -> dict | None:
    """Mean cosine of the words of labels inside groups of the finest layer, against shuffles within density strata; labels never saw the groups."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    text = labels.set_index("feature")["text"]
    known = live[live["feature"].isin(text.index)]
    try:
        rows = TfidfVectorizer(
            token_pattern=r'"(?:[^"\\]|\\.)*"|\w+', lowercase=False
        ).fit_transform(text[known["feature"]])
    except ValueError:  # no label has a word
        return None
    return likeness(rows, known["group"].to_numpy(), density[known["feature"]], seed)


def trials(
    live: pd.DataFrame, halves: dict[tuple[int, int], list[int]], seed: int
) -> list[tuple[tuple[int, int], list[int], int]]:
    """((layer, group), four members and an outsider in random order, place of the outsider), one for each group of `halves`.

    The members are drawn from the group's half, the outsider from the members of the other groups of the layer.
    """
    rng, out = np.random.default_rng([seed, 6]), []
    for (layer, group), pool in sorted(halves.items()):
        others = live.loc[
            (live[f"layer_{layer}"] >= 0) & (live[f"layer_{layer}"] != group), "feature"
        ].to_numpy()
        if len(pool) < 4 or not len(others):
            continue
        chosen = [*rng.choice(pool, 4, replace=False).tolist(), int(rng.choice(others))]
        order = rng.permutation(5)
        out.append(((layer, group), [chosen[i] for i in order], int(np.flatnonzero(order == 4)[0])))
    return out


def held_half(live: pd.DataFrame, seed: int) -> dict[tuple[int, int], list[int]]:
    """{(layer, group): the half of its members that is kept from naming it}, for groups of at least eight."""
    rng, out = np.random.default_rng([seed, 7]), {}
    for layer, column in enumerate(layers_of(live)):
        for group, part in members_of(live, column).items():
            if len(part) >= LEAST_TESTED:
                out[layer, group] = rng.permutation(part)[: len(part) // 2].tolist()
    return out


def result(hits: float, n: int) -> dict:
    low, high = wilson(hits / max(n, 1), n)
    return {
        "share": round(hits / n, 4) if n else None,
        "low": round(low, 4),
        "high": round(high, 4),
        "n": n,
        "chance": 0.2,
    }


def intruders_by_marks(
    live: pd.DataFrame, records: list[dict], marks: dict, settings: TitleSettings, seed: int
) -> dict:
    """How often the label with fewest marks of the title is the outsider's: over groups that can be named, titles made from the other half."""
    tested = held_half(live, seed)
    named: dict[tuple[int, int], set] = {}
    for layer, column in enumerate(layers_of(live)):
        held = {f for key, part in tested.items() if key[0] == layer for f in part}
        rest = live[~live["feature"].isin(held)]
        found = contrast.evidence(
            members_of(rest, column),
            parents_of(rest, layer),
            {f: marks[f] for f in rest["feature"]},
        )
        named |= {
            (layer, g): set(t.marks) for g, t in contrast.group_titles(found, settings).items()
        }
    hits, asked = 0.0, [t for t in trials(live, tested, seed) if named.get(t[0])]
    for key, shown, place in asked:
        fits = np.array([len(named[key] & marks[f]) for f in shown])
        hits += float(fits[place] == fits.min()) / (fits == fits.min()).sum()
    return result(hits, len(asked))


def intruders_by_llm(
    frame: pd.DataFrame, live: pd.DataFrame, labels: pd.DataFrame, ask: Ask, seed: int
) -> dict:
    """How often the LLM finds the outsider from the title and five labels; an answer that cannot be read counts as wrong."""
    text = dict(zip(labels["feature"], labels["text"], strict=True))
    name = {
        (row.layer, row.group): row.title for row in frame.itertuples() if row.title and not row.why
    }
    known = live[live["feature"].isin(text.keys())]
    pools = {
        key: [f for f in part if f in text]
        for key, part in held_half(known, seed).items()
        if key in name
    }
    asked = {key: (shown, place) for key, shown, place in trials(known, pools, seed)}
    questions = {
        key: naming.intruder_messages(name[key], [text[f] for f in shown])
        for key, (shown, _) in asked.items()
    }
    answers, _ = asked_twice(questions, naming.read_outsider, ask)
    return result(
        sum(answers.get(key) == place + 1 for key, (_, place) in asked.items()), len(asked)
    )

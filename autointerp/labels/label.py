"""Stage `label`: snippets of the train split -> a label for each feature, as the set `rules`, `llm-<model>` or `hand`.

Sets live side by side. Labelling more features of a set adds rows to it; only --redo replaces any, with --features those alone. Every live feature gets a label or
a Failure. What an LLM answers is in the reply store before it is read, so nothing is asked, or paid for, twice.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from autointerp.features import Features
from autointerp.labels import prompt as prompts
from autointerp.labels.notes import read_notes
from autointerp.llm.endpoint import Endpoint
from autointerp.llm.session import ATTEMPTS, AnswerFormat, Asker, DryRun, open_session, slug
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.rules.fit import fit_rules
from autointerp.settings import LabelSettings, parse_features
from autointerp.tables import append_rows, keep_rows, table_of
from core.errors import NotReady
from core.files import canonical_hash, write_table
from core.progress import progress
from core.records import Failure, Label, Manifest
from core.run import Run, Work

VERSION = 3
SHOWN = {"top": 5, "strata": 1, "near_miss": 2}  # 12 snippets: about 700 tokens of prompt
LABEL = AnswerFormat("label", max_tokens=1024, usual_tokens=35, schema=prompts.LABEL_SCHEMA)


@dataclass(frozen=True)
class Earlier:
    """What the set holds already and keeps: labels, and failures of features that are not asked about now."""

    labels: pd.DataFrame
    failures: pd.DataFrame


def label(run: Run, settings: LabelSettings, redo: bool = False) -> Manifest:
    features = Features(run)
    live = np.flatnonzero(features.postings.n_firings > 0)
    name, inputs, decides = settings.set, ["index"], settings
    if settings.set == "llm":
        model = Endpoint(settings.llm_url).choose_model(settings.llm_model)
        settings = replace(settings, llm_model=model)
        name, inputs = (
            f"llm-{slug(model)}",
            ["index", "effects"] + (["label/rules"] if settings.evidence else []),
        )
    if settings.set == "hand":
        decides, redo = {"notes": canonical_hash(latest_notes(run))}, True
    unit = f"label/{name}"
    wanted = choose_features(settings, live, run.settings.seed)
    current = settings.set != "hand" and run.is_current(
        unit, VERSION, decides, inputs
    )  # notes are all read every time
    old, failed = (
        keep_rows(run.path / unit / f"{table}.parquet", current, wanted if redo else ())
        for table in ("labels", "failures")
    )
    missing = sorted(set(wanted) - set(old["feature"]))
    old = Earlier(old, failed[~failed["feature"].isin(missing)])
    asked_for_more = (
        bool(settings.features or settings.sample) or settings.set == "llm"
    )  # rules failed for good on what is missing
    work = run.begin(unit, VERSION, decides, inputs, redo, extend=bool(missing) and asked_for_more)
    if work is None:
        return run.manifest(unit)
    if settings.set == "llm":
        return label_with_llm(features, settings, work, old, missing, len(live))
    if settings.set == "rules":
        labels, failures = by_rules(features, missing, name, run.settings.seed)
    else:
        labels, failures = by_hand(run, name), []
    return commit(work, old, labels, failures, len(live), {})


def label_with_llm(
    features: Features,
    settings: LabelSettings,
    work: Work,
    old: Earlier,
    missing: list[int],
    live: int,
) -> Manifest:
    """Ask, and commit what came; an estimate or a batch file leaves no partial unit behind."""
    with open_session(features.run, settings) as asker:
        try:
            labels, failures = by_llm(
                features, missing, f"llm-{slug(asker.model)}", asker, settings.evidence
            )
        except DryRun:
            shutil.rmtree(work.folder)
        else:
            manifest = commit(
                work,
                old,
                labels,
                failures,
                live,
                {"prompt": prompts.LABEL_PROMPT} | asker.summary(),
            )
    return manifest


def commit(
    work: Work, old: Earlier, labels: list[Label], failures: list[Failure], live: int, by_llm: dict
) -> Manifest:
    table, failed = (
        append_rows(*pair)
        for pair in (
            (old.labels, table_of(labels, Label)),
            (old.failures, table_of(failures, Failure)),
        )
    )
    write_table(work.folder / "labels.parquet", table)
    write_table(work.folder / "failures.parquet", failed)
    return work.commit(summary(table, failed, live) | by_llm)


def choose_features(settings: LabelSettings, live: np.ndarray, seed: int) -> list[int]:
    """The features that the settings ask for; a sample of `sample` is the same whenever it is drawn."""
    wanted = parse_features(settings.features, live)
    if not 0 < settings.sample < len(wanted):
        return wanted
    return sorted(
        np.random.default_rng(seed).choice(wanted, settings.sample, replace=False).tolist()
    )


def summary(table: pd.DataFrame, failures: pd.DataFrame, live: int) -> dict:
    return {
        "labels": len(table), "live": live, "unclear": int(table["text"].str.startswith(rules.UNCLEAR).sum()),
        "kinds": {k: int(v) for k, v in table["kind"].value_counts().items()},
        "median_confidence": round(float(table["confidence"].median()), 4) if len(table) else None,
        "median_words": float(table["text"].str.split().str.len().median()) if len(table) else None,
        "median_characters": float(table["text"].str.len().median()) if len(table) else None,
        "failures": dict(Counter(failures["kind"])),
    }  # fmt: skip


# ---------------------------------------------------------------- three labellers


def by_rules(
    features: Features, wanted: list[int], name: str, seed: int
) -> tuple[list[Label], list[Failure]]:
    """Rules fitted with the postings; a feature that never fires in train is too_rare."""
    corpus = Annotations.from_tokens(features.tokens)
    labels = []
    with progress(total=len(wanted), label="label", unit="feat") as bar:
        fitted = fit_rules(
            features.postings,
            features.tokens,
            corpus,
            wanted,
            progress=lambda done: bar.update(done - bar.n),
            seed=seed,
            workers=0,
        )
        labels = [
            Label(f.feature, name, f.text, f.confidence, f.kind, evidence=f.n_firings)
            for f in fitted
        ]
    found = {label.feature for label in labels}
    return labels, [
        Failure("label", f, "too_rare", "it never fires in the train split")
        for f in wanted
        if f not in found
    ]


def latest_notes(run: Run) -> dict[int, str]:
    """The last note on each feature; raises NotReady when there are none."""
    latest = {n["feature"]: n["text"] for n in read_notes(run.path)}
    if not latest:
        raise NotReady(
            "There are no notes to make labels of.",
            f'Write one: python main.py note {run.name} 12 "what it is"',
        )
    return latest


def by_hand(run: Run, name: str) -> list[Label]:
    """Notes as labels; those in the language of rules are simulated by their rule."""
    return [
        Label(f, name, text[:200], 1.0, "rule" if rules.is_rule(text) else "free")
        for f, text in sorted(latest_notes(run).items())
    ]


def by_llm(
    features: Features, wanted: list[int], name: str, asker: Asker, evidence: bool = False
) -> tuple[list[Label], list[Failure]]:
    """Labels from replies. One that cannot be read is asked for once more, as another repetition, and is a Failure after that."""
    labels: dict[int, Label] = {}
    failures: dict[int, Failure] = {}
    patterns = rule_labels(features) if evidence else {}
    asked = {
        f: messages_for(features, f, patterns.get(f, ""))
        for f in progress(wanted, "prompts", unit="feat")
    }
    questions, seen = ({f: pair[i] for f, pair in asked.items()} for i in (0, 1))
    left = wanted
    for attempt in range(ATTEMPTS):
        replies = asker.ask([questions[f] for f in left], attempt, LABEL)
        for feature, (key, reply) in zip(left, replies, strict=True):
            found = reply.error or prompts.parse_label(reply.text)
            if isinstance(found, str):
                failures[feature] = Failure(
                    "label",
                    feature,
                    found,
                    reply.message or f"reply of {len(reply.text or '')} characters",
                    key,
                )
            else:
                failures.pop(feature, None)
                labels[feature] = Label(
                    feature, name, found[0], found[1], "free", key, seen[feature]
                )
        left = [
            f for f, (_, reply) in zip(left, replies, strict=True) if f in failures and reply.raw
        ]  # where nothing came, `answer` has tried
        if not left:
            break
    return [labels[f] for f in sorted(labels)], [failures[f] for f in sorted(failures)]


def rule_labels(features: Features) -> dict[int, str]:
    """The rule label of each feature that has one the labeller trusts."""
    table = pd.read_parquet(features.run.folder("label/rules") / "labels.parquet")
    return {
        f: t
        for f, t in zip(table["feature"], table["text"], strict=True)
        if not t.startswith(rules.UNCLEAR)
    }


def messages_for(features: Features, feature: int, pattern: str = "") -> tuple[list[dict], int]:
    """The question about one feature, and how many firings of the train split its snippets were drawn from. It holds snippets, output tokens,
    density, and a rule as evidence where one is given."""
    firings = features.postings.firings(feature)
    stats, drawn_from = (
        features.stats(feature, firings),
        len(features.examples.firings_in(firings, "train")[0]),
    )
    snippets = features.examples.snippets(
        feature,
        "train",
        SHOWN,
        np.random.default_rng([features.run.settings.seed, feature]),
        firings,
    )
    promoted, suppressed = [], []
    if features.effects is not None:
        row = features.effects.loc[feature]
        promoted, suppressed = list(row["promoted"][:10]), list(row["suppressed"][:5])
    return prompts.label_messages(
        snippets, promoted, suppressed, stats.density, stats.max, pattern
    ), drawn_from

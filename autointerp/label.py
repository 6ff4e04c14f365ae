"""Stage `label`: snippets of the explain split -> a label for each feature, as the set `rules`, `llm-<model>` or `hand`.

Sets live side by side. Labelling more features of a set adds rows to it; only --redo replaces any. Every live feature gets a label or
a Failure. What an LLM answers is in the reply store before it is read, so nothing is asked, or paid for, twice.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from autointerp import prompts, rules
from autointerp.contexts import Corpus
from autointerp.features import Features, read_notes
from autointerp.llm import Endpoint, answer
from autointerp.replies import Reply, ReplyStore, Request
from autointerp.rule_fitting import fit_rules
from autointerp.selection import parse_features
from autointerp.settings import LabelSettings
from core.errors import NotReady
from core.files import canonical_hash, write_table
from core.progress import progress, say
from core.records import Failure, Label, Manifest
from core.run import Run

VERSION = 1
Ask = Callable[[list[list[dict]], int], list[tuple[str, Reply]]]  # (conversations, repetition) -> (key, reply) of each
SHOWN = {"top": 5, "strata": 1, "near_miss": 2}  # 12 snippets: about 700 tokens of prompt
JSON = {"type": "json_object"}  # dropped by itself where an endpoint refuses it
ATTEMPTS = 2  # a reply that cannot be read is asked for once more


def label(run: Run, settings: LabelSettings, redo: bool = False) -> Manifest:
    features = Features(run)
    live = np.flatnonzero(features.postings.n_firings > 0)
    endpoint = model = None
    name, inputs, decides = settings.set, ["index"], settings
    if settings.set == "llm":
        endpoint = Endpoint(settings.llm_url)
        model = endpoint.choose_model(settings.llm_model)
        name, inputs = f"llm-{slug(model)}", ["index", "effects"]
    if settings.set == "hand":
        decides, redo = {"notes": canonical_hash(latest_notes(run))}, True
    unit = f"label/{name}"
    old = pd.DataFrame() if redo or run.find(unit) is None else pd.read_parquet(run.path / unit / "labels.parquet")
    missing = sorted(set(chosen(settings, live, run.settings.seed)) - set(old.get("feature", [])))
    asked_for_more = bool(settings.features or settings.sample) or settings.set == "llm"  # rules failed for good on what is missing
    work = run.begin(unit, VERSION, decides, inputs, redo, extend=bool(missing) and asked_for_more)
    if work is None:
        return run.manifest(unit)
    if settings.set == "rules":
        labels, failures = by_rules(features, missing, name, run.settings.seed)
    elif settings.set == "hand":
        labels, failures = by_hand(run, name), []
    else:
        with ReplyStore(reply_path(run, settings.replies)) as store:
            labels, failures = by_llm(features, missing, name, ask_with(endpoint, model, store, settings.concurrency))
    table = pd.concat([old, table_of(labels, Label)], ignore_index=True).sort_values("feature")
    write_table(work.folder / "labels.parquet", table)
    write_table(work.folder / "failures.parquet", table_of(failures, Failure))
    return work.commit(summary(table, failures, len(live), model))


def chosen(settings: LabelSettings, live: np.ndarray, seed: int) -> list[int]:
    """The features that the settings ask for; a sample of `sample` is the same whenever it is drawn."""
    wanted = parse_features(settings.features, live)
    if not 0 < settings.sample < len(wanted):
        return wanted
    return sorted(np.random.default_rng(seed).choice(wanted, settings.sample, replace=False).tolist())


def table_of(records: list, kind) -> pd.DataFrame:
    return pd.DataFrame([asdict(r) for r in records], columns=list(kind.__annotations__))


def summary(table: pd.DataFrame, failures: list[Failure], live: int, model: str | None) -> dict:
    out = {
        "labels": len(table), "live": live, "unclear": int(table["text"].str.startswith(rules.UNCLEAR).sum()),
        "kinds": {k: int(v) for k, v in table["kind"].value_counts().items()},
        "median_confidence": round(float(table["confidence"].median()), 4) if len(table) else None,
        "median_characters": float(table["text"].str.len().median()) if len(table) else None,
        "failures": dict(Counter(f.kind for f in failures)),
    }  # fmt: skip
    return out | ({"model": model, "prompt": prompts.LABEL_PROMPT} if model else {})


def slug(model: str) -> str:
    """The model's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.") or "model"


def reply_path(run: Run, shared: str) -> Path:
    path = Path(shared) if shared else run.path / "llm" / "replies.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ---------------------------------------------------------------- three labellers


def by_rules(features: Features, wanted: list[int], name: str, seed: int) -> tuple[list[Label], list[Failure]]:
    """Rules fitted with the postings; a feature that never fires in explain is too_rare."""
    corpus = Corpus.from_tokens(features.tokens)
    labels = []
    with progress(total=len(wanted), label="label", unit="feat") as bar:
        fitted = fit_rules(
            features.postings, features.tokens, corpus, wanted, progress=lambda done: bar.update(done - bar.n), seed=seed, workers=os.cpu_count() or 1
        )
        labels = [Label(f.feature, name, f.text, f.confidence, f.kind) for f in fitted]
    found = {label.feature for label in labels}
    return labels, [Failure("label", f, "too_rare", "it never fires in the explain split") for f in wanted if f not in found]


def latest_notes(run: Run) -> dict[int, str]:
    """The last note on each feature; raises NotReady when there are none."""
    latest = {n["feature"]: n["text"] for n in read_notes(run.path)}
    if not latest:
        raise NotReady("There are no notes to make labels of.", f'Write one: python main.py note {run.name} 12 "what it is"')
    return latest


def by_hand(run: Run, name: str) -> list[Label]:
    """Notes as labels; those in the language of rules are simulated by their rule."""
    return [Label(f, name, text[:200], 1.0, "rule" if rules.is_rule(text) else "free") for f, text in sorted(latest_notes(run).items())]


def by_llm(features: Features, wanted: list[int], name: str, ask: Ask) -> tuple[list[Label], list[Failure]]:
    """Labels from replies. One that cannot be read is asked for once more, as another repetition, and is a Failure after that."""
    labels: dict[int, Label] = {}
    failures: dict[int, Failure] = {}
    left = wanted
    for attempt in range(ATTEMPTS):
        replies = ask([messages_for(features, f) for f in left], attempt)
        for feature, (key, reply) in zip(left, replies, strict=True):
            found = reply.error or prompts.parse_label(reply.text)
            if isinstance(found, str):
                failures[feature] = Failure("label", feature, found, reply.message or f"reply of {len(reply.text or '')} characters", key)
            else:
                failures.pop(feature, None)
                labels[feature] = Label(feature, name, found[0], found[1], "free", key)
        left = sorted(failures)
        if not left:
            break
    return [labels[f] for f in sorted(labels)], [failures[f] for f in sorted(failures)]


def messages_for(features: Features, feature: int) -> list[dict]:
    """The question about one feature: snippets of the explain split, output tokens, density."""
    stats = features.stats(feature)
    snippets = features.examples.snippets(feature, "explain", SHOWN, np.random.default_rng([features.run.settings.seed, feature]))
    promoted, suppressed = [], []
    if features.effects is not None:
        row = features.effects.loc[feature]
        promoted, suppressed = list(row["promoted"][:10]), list(row["suppressed"][:5])
    return prompts.label_messages(snippets, promoted, suppressed, stats.density, stats.max)


def ask_with(endpoint: Endpoint, model: str, store: ReplyStore, concurrency: int):
    """A function (conversations, repetition) -> [(key, Reply)] that asks `model`, with progress and a count of tokens."""

    def ask(conversations: list[list[dict]], repetition: int) -> list[tuple[str, Reply]]:
        requests = [endpoint.request(model, m, repetition, temperature=0.0, max_tokens=1024, response_format=JSON) for m in conversations]
        return asked(requests, store, endpoint, concurrency)

    return ask


def asked(requests: list[Request], store: ReplyStore, endpoint: Endpoint, concurrency: int) -> list[tuple[str, Reply]]:
    """Replies in the order of the requests; the tokens that were paid for are told."""
    counted = Counter()
    with progress(total=len({r.key for r in requests}), label="llm", unit="req") as bar:

        def seen(reply: Reply) -> None:
            counted.update(tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
            bar.set_postfix_str(f"{counted['tokens_in']:,} tokens in, {counted['tokens_out']:,} out", refresh=False)
            bar.update()

        replies = answer(requests, store, endpoint, concurrency=concurrency, on_progress=seen)
    say(f"llm: {len(replies)} replies, {counted['tokens_in']:,} tokens in, {counted['tokens_out']:,} out")
    return [(r.key, replies[r.key]) for r in requests]

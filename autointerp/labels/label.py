"""Stage `label`: text from the train split -> a label for each feature, as a set of labels.

    rules         rules fitted with the index: no LLM, no GPU
    llm-<model>   an LLM reads snippets of text
    hand          the last note that a person wrote on each feature

Sets stand beside one another. Labelling more features of a set adds rows; only --redo replaces any
(see `grow`). Every alive feature gets a label or a Failure. The reply store keeps each answer of an
LLM before it is read, so that nothing is asked, or paid for, twice.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from autointerp.evidence import Evidence, strata
from autointerp.examples import Firings
from autointerp.grow import GrowingUnit, Growth, grow
from autointerp.labels import prompt as prompts
from autointerp.labels import windows
from autointerp.labels.notes import read_notes
from autointerp.labels.refine import count_requests, refine
from autointerp.labels.rule_names import name_rules
from autointerp.labels.unit import (
    FAILURES,
    HAND,
    LABELS,
    RULES,
    read_texts,
    unit_of,
    write_labels,
)
from autointerp.llm.fleet import open_fleet
from autointerp.llm.replies import Reply
from autointerp.llm.session import (
    AnswerFormat,
    Asker,
    Unread,
    ask_until_read,
    open_session,
    slug,
)
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from autointerp.rules.fit import fit_rules
from autointerp.settings import LabelSettings, parse_features
from core.errors import NotReady
from core.files import canonical_hash
from core.progress import progress, say
from core.records import Failure, Label, Manifest
from core.run import Run
from core.workers import PROCESSES, Engine

VERSION = 6  # of the units label/<set>
PROMOTED, SUPPRESSED = 8, 0  # output tokens in the prompt
LABEL = AnswerFormat("label", max_tokens=1024, usual_tokens=35, schema=prompts.LABEL_SCHEMA)

Labelled = tuple[list[Label], list[Failure]]


def label(run: Run, settings: LabelSettings, redo: bool = False) -> Manifest:
    """Make or extend the label set that the settings name; returns its manifest.

    Raises NotReady where an input is missing, UsageError for an unknown feature, and Stop where the
    settings ask for an estimate or a batch file.
    """
    evidence = Evidence(run)
    wanted = choose_features(settings, evidence.alive, run.settings.seed)
    if settings.labels == "hand":
        return label_by_hand(run, evidence)
    if settings.labels == "llm":
        return label_by_llm(evidence, settings, wanted, redo)
    return label_by_rules(evidence, settings, wanted, redo)


def choose_features(settings: LabelSettings, alive: np.ndarray, seed: int) -> list[int]:
    """Return the features that the settings ask for, ascending.

    A sample of a given size holds the same features whenever it is drawn.
    """
    wanted = parse_features(settings.features, alive)
    if not 0 < settings.sample < len(wanted):
        return wanted
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(wanted, settings.sample, replace=False).tolist())


def write(
    growth: Growth, labels: list[Label], failures: list[Failure], n_alive: int
) -> dict[str, Any]:
    """Write a set's tables, kept rows included; returns the summary of the whole set."""
    kept = growth.kept[LABELS], growth.kept[FAILURES]
    return summarise(*write_labels(growth.folder, labels, failures, kept), n_alive)


def summarise(table: pd.DataFrame, failures: pd.DataFrame, n_alive: int) -> dict[str, Any]:
    """Return the key figures of a label set; medians are None where it is empty."""
    empty = not len(table)
    return {
        "labels": len(table),
        "alive": n_alive,
        "unclear": int(table["text"].str.startswith(rules.UNCLEAR).sum()),
        "kinds": {k: int(v) for k, v in table["kind"].value_counts().items()},
        "median_confidence": None if empty else round(float(table["confidence"].median()), 4),
        "median_words": None if empty else float(table["text"].map(_count_words).median()),
        "median_characters": None if empty else float(table["text"].map(len).median()),
        "failures": dict(Counter(failures["kind"])),
    }


def _count_words(text: str) -> int:
    return len(text.split())


# ---------------------------------------------------------------- rules


def label_by_rules(
    evidence: Evidence, settings: LabelSettings, wanted: list[int], redo: bool
) -> Manifest:
    """Make or extend the set of rules."""
    unit = GrowingUnit(unit_of(RULES), VERSION, settings, ("index",), (LABELS, FAILURES))
    asked_for = bool(settings.features or settings.sample)
    by_llm = settings.names == "llm"
    with open_session(evidence.run, settings) if by_llm else contextlib.nullcontext() as asker:

        def make(growth: Growth) -> dict[str, Any]:
            engine = Engine.choose(settings, evidence.run, auto="processes")
            labels, failures = fit_labels(evidence, growth.missing, engine)
            more: dict[str, Any] = {}
            if asker is not None:
                labels, more = name_rules(evidence, labels, asker)
                more |= asker.summary()
            return write(growth, labels, failures, len(evidence.alive)) | more

        # A feature without a rule gets none by trying again: only those asked for are tried again.
        manifest = grow(evidence.run, unit, wanted, make, redo, extend=asked_for)
    assert manifest is not None, "a session ends a dry run with Stop"
    return manifest


def fit_labels(evidence: Evidence, wanted: list[int], engine: Engine = PROCESSES) -> Labelled:
    """Fit a rule for each feature; a feature that never fires in the train split is too_rare."""
    annotations = Annotations.from_tokens(evidence.tokens)
    with progress(total=len(wanted), label="label", unit="feat") as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        fitted = fit_rules(
            evidence.postings,
            evidence.tokens,
            annotations,
            wanted,
            progress=show,
            seed=evidence.run.settings.seed,
            engine=engine,
        )
        labels = [
            Label(f.feature, RULES, f.text, f.confidence, f.kind, evidence=f.n_firings)
            for f in fitted
        ]
    reason = "it never fires in the train split"
    missing = sorted(set(wanted) - {label.feature for label in labels})
    return labels, [Failure("label", f, "too_rare", reason) for f in missing]


# ---------------------------------------------------------------- notes of people


def label_by_hand(run: Run, evidence: Evidence) -> Manifest:
    """Make the set of notes; all notes are read every time."""
    notes = latest_notes(run)
    decides = {"notes": canonical_hash(notes)}
    unit = unit_of(HAND)
    if run.find(unit) and run.is_current(unit, VERSION, decides, ["index"]):
        return run.manifest(unit)
    work = run.begin(unit_of(HAND), VERSION, decides, ["index"], redo=True)
    assert work is not None, "with redo a unit is always begun"
    labels = [
        Label(feature, HAND, text[:200], 1.0, "rule" if rules.is_rule(text) else "free")
        for feature, text in sorted(notes.items())
    ]
    return work.commit(summarise(*write_labels(work.folder, labels, []), len(evidence.alive)))


def latest_notes(run: Run) -> dict[int, str]:
    """Return the last note on each feature; raises NotReady when there are none."""
    latest = {n["feature"]: n["text"] for n in read_notes(run.path)}
    if not latest:
        raise NotReady(
            "There are no notes to make labels of.",
            f'Write one: python main.py note {run.name} 12 "what it is"',
        )
    return latest


# ---------------------------------------------------------------- an LLM


@dataclass(frozen=True)
class Question:
    """The question about one feature, and the number of train firings behind its snippets."""

    messages: list[dict]
    n_firings: int


def label_by_llm(
    evidence: Evidence, settings: LabelSettings, wanted: list[int], redo: bool
) -> Manifest:
    """Make or extend the set of the model that the settings name."""
    model = open_fleet(settings).choose_model(settings.llm_model)
    label_set = f"llm-{slug(model)}"
    settings = replace(settings, llm_model=model)
    inputs = ("index", "effects", *([unit_of(RULES)] if settings.evidence else []))
    unit = GrowingUnit(unit_of(label_set), VERSION, settings, inputs, (LABELS, FAILURES))
    with open_session(evidence.run, settings) as asker:

        def make(growth: Growth) -> dict[str, Any]:
            patterns = rule_labels(evidence.run) if settings.evidence else {}
            missing = progress(growth.missing, "prompts", unit="feat")
            questions = {f: ask_about(evidence, f, patterns.get(f, "")) for f in missing}
            if settings.refine:
                say(count_requests(len(questions), settings.refine))
            labels, failures = read_labels(questions, label_set, asker)
            more: dict[str, Any] = {}
            if settings.refine:
                asked = {f: question.messages for f, question in questions.items()}
                labels, more = refine(evidence, asked, labels, asker, settings.refine)
            summary = write(growth, labels, failures, len(evidence.alive))
            return summary | {"prompt": prompts.LABEL_PROMPT} | more | asker.summary()

        manifest = grow(evidence.run, unit, wanted, make, redo)
    assert manifest is not None, "a session ends a dry run with Stop"
    return manifest


def rule_labels(run: Run) -> dict[int, str]:
    """Return the rule label of each feature, without labels that say `unclear`."""
    texts = read_texts(run, RULES)
    pairs = zip(texts.index.tolist(), texts.tolist(), strict=True)
    return {f: text for f, text in pairs if not text.startswith(rules.UNCLEAR)}


def ask_about(evidence: Evidence, feature: int, pattern: str = "") -> Question:
    """Write the question about one feature.

    `pattern` is the feature's rule label, shown as what counting suggests.
    """
    firings = evidence.postings.firings(feature)
    messages = prompts.label_messages(show_feature(evidence, feature, firings, pattern))
    return Question(messages, len(evidence.examples.firings_in(firings, "train")[0]))


def show_feature(
    evidence: Evidence, feature: int, firings: Firings, pattern: str = ""
) -> prompts.Shown:
    """Choose what the labeller sees of one feature; all of its text is of the train split."""
    stats = evidence.stats(feature, firings)
    rng = np.random.default_rng([evidence.run.settings.seed, feature])
    examples = evidence.examples
    drawn = examples.snippets(feature, "train", windows.DRAWN, rng, firings)
    return prompts.Shown(
        windows.choose_windows(drawn, windows.WANTED),
        windows.draw_contrasts(examples, feature, firings, rng),
        windows.rate_tokens(examples, firings),
        stats.density,
        stats.max,
        strata(firings[1]),
        [e.token for e in (evidence.measured(feature) or evidence.promoted(feature))[:PROMOTED]],
        [effect.token for effect in evidence.suppressed(feature)[:SUPPRESSED]],
        pattern,
    )


def read_labels(questions: dict[int, Question], label_set: str, asker: Asker) -> Labelled:
    """Ask, and read a label from each reply.

    A reply that cannot be read is asked for once more; the feature has a Failure after that.
    """
    conversations = {feature: question.messages for feature, question in questions.items()}
    answers = ask_until_read(conversations, _read_label, partial(asker.ask, form=LABEL))
    labels = [
        Label(
            feature,
            label_set,
            text,
            confidence,
            kind,
            answers.reply_keys[feature],
            questions[feature].n_firings,
        )
        for feature, (text, confidence, kind) in sorted(answers.values.items())
    ]
    return labels, list_failures(answers.failures)


def _read_label(_: int, reply: Reply) -> tuple[str, float, str] | Unread:
    """Return (label, confidence, kind), or why there is none."""
    read = reply.error or prompts.parse_label(reply.text)
    return Unread(read) if isinstance(read, str) else (*read, prompts.parse_kind(reply.text))


def list_failures(unread: dict[int, Unread]) -> list[Failure]:
    """Return a Failure for each feature without a readable reply, ascending."""
    return [
        Failure("label", feature, why.kind, why.message, why.reply_key)
        for feature, why in sorted(unread.items())
    ]

"""The settings of each stage of autointerp: flags, help and manifest entries come from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.settings import ParallelSettings, setting


@dataclass(frozen=True)
class ClusterSettings:
    """cluster: decoder directions -> neighbours, levels of clusters, a map."""

    decorrelate: float = setting(
        0.5,
        "share of the covariance of all directions that is removed before clustering: 0 to 1",
    )
    nulls: int = setting(
        4,
        "proof: clouds of random directions with the same mean and covariance; a verdict needs at "
        "least 3",
    )
    seeds: int = setting(1, "proof: repetitions of the clustering with another random seed")
    subsamples: int = setting(8, "proof: repetitions of the clustering on 80 % of the features")


@dataclass(frozen=True)
class RelateSettings:
    """relate: neighbours, firings and labels -> duplicates, probable splitting and absorption."""

    labels: str = setting(
        "rules",
        "label set that says where a parent should fire; only labels in the language of rules can",
    )


@dataclass(frozen=True)
class LLMSettings:
    """How an LLM is asked: which one, how fast, at what price. title, label and score share it."""

    llm_model: str = setting(
        "", "llm: name of the model; default: the endpoint's only one", in_key=False
    )
    llm_url: str = setting(
        "",
        "llm: base URL of the endpoint, such as http://127.0.0.1:8000/v1; given several times, "
        "requests go to the endpoint with the shortest queue",
        in_key=False,
        several=True,
    )
    concurrency: int = setting(16, "llm: requests in flight at one endpoint", in_key=False)
    rpm: float = setting(
        0.0, "llm: requests a minute to one endpoint, at most; 0 is no limit", in_key=False
    )
    tpm: float = setting(
        0.0, "llm: tokens a minute to one endpoint, at most; 0 is no limit", in_key=False
    )
    llm_timeout: float = setting(300.0, "llm: seconds for one attempt", in_key=False)
    price_in: float = setting(0.0, "llm: price of a million input tokens", in_key=False)
    price_out: float = setting(0.0, "llm: price of a million output tokens", in_key=False)
    budget: float = setting(
        0.0, "llm: spend at most this much in one command; 0 is no limit", in_key=False
    )
    estimate: bool = setting(
        False,
        "llm: print how many requests are left and what they would cost, then stop",
        in_key=False,
    )
    batch_out: str = setting(
        "",
        "llm: write the requests to this file, in the Batch API format, and send nothing",
        in_key=False,
    )
    batch_in: str = setting(
        "", "llm: read answers from these files (commas, patterns) and send nothing", in_key=False
    )
    probe: bool = setting(False, "llm: test again what the endpoint can do", in_key=False)
    replies: str = setting(
        "", "llm: a reply store to share between runs; default: the run's own", in_key=False
    )


@dataclass(frozen=True)
class TitleSettings(LLMSettings):
    """title: labels and promoted tokens of a cluster's members -> a short name for each cluster."""

    by: str = setting(
        "words",
        "words (contrast of label words and promoted tokens) or llm",
        choices=("words", "llm"),
    )
    labels: str = setting("rules", "label set that titles are made from")


@dataclass(frozen=True)
class LabelSettings(LLMSettings, ParallelSettings):
    """label: text of the train split -> a label for each feature."""

    labels: str = setting(
        "rules",
        "who labels: rules (fitted, no LLM), llm (any OpenAI-compatible endpoint) or "
        "hand (your notes)",
        choices=("rules", "llm", "hand"),
        in_key=False,
    )
    features: str = setting(
        "", "which features: 1,2,5-9 or @FILE; default: all alive features", in_key=False
    )
    sample: int = setting(
        0, "label a random sample of this many of them; 0 labels all", in_key=False
    )
    evidence: bool = setting(False, "llm: also show the rule label of each feature", in_key=False)
    names: str = setting(
        "classes",
        "rules: who names them: classes of words, morphology and the subject's tree over words "
        "(classes), or also an LLM, which names those that are left in one batch (llm)",
        choices=("classes", "llm"),
    )
    refine: int = setting(
        0,
        "llm: show each label its mistakes on val and have it rewritten, so many times; the better "
        "one on other windows of val stays; at most 1 + 2 N more requests a label",
    )


@dataclass(frozen=True)
class ScoreSettings(LLMSettings, ParallelSettings):
    """score: labels -> how well they predict activations in documents unseen by the labeller."""

    labels: str = setting(
        "rules", "which label set to score: rules, hand, llm-<model>", in_key=False
    )
    kind: str = setting(
        "",
        "kinds of score, with commas: simulation, simulation-corpus, coverage, detection, fuzzing, "
        "intruder, effect, effect-choice, generation; default: the kinds that suit the labels",
        in_key=False,
    )
    features: str = setting(
        "", "which features: 1,2,5-9 or @FILE; default: all labelled features", in_key=False
    )
    effort: str = setting(
        "standard",
        "how many windows of text each label is tried on: quick takes half as many",
        choices=("quick", "standard"),
    )
    simulate: int = setting(
        200,
        "llm: without --features, simulate a sample of this many features, drawn evenly over "
        "densities; 0 simulates all",
        in_key=False,
    )
    simulate_by: str = setting(
        "auto",
        "llm: how simulation asks: digits (read with their log-probabilities), prompt (read from "
        "the log-probabilities of the prompt) or list (of the tokens that fire); auto takes the "
        "first that the endpoint can do",
        choices=("auto", "digits", "prompt", "list"),
    )


@dataclass(frozen=True)
class ReportSettings:
    """report: everything that is committed -> report.md and its figures."""

    control: str = setting(
        "",
        "further runs to compare scores with, with commas; the run's own controls are always there",
    )
    features: str = setting(
        "", "features shown in full: 1,2,5-9; default: some with high, middling and low scores"
    )
    compare: str = setting(
        "", "other runs on the same site and text, for the figure of L0 and FVU: a,b"
    )
    readme: str = setting(
        "",
        "also write the figures, and Markdown that a readme can include, into this folder",
        in_key=False,
    )


def parse_features(text: str, known: Iterable[int]) -> list[int]:
    """Feature numbers, ascending, each once. Raises UsageError for one not in `known`."""
    every = {int(f) for f in known}
    if not text.strip():
        return sorted(every)
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{text[1:]} cannot be read: {error.strerror}.",
                "Give --features @FILE with numbers in it, or --features 1,2,5-9.",
            ) from None
    chosen: set[int] = set()
    for part in re.split(r"[\s,]+", text.strip()):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found:
            raise UsageError(
                f"{part!r} is not a feature number.", "Write --features 1,2,5-9, or @FILE."
            )
        chosen |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    if unknown := sorted(chosen - every):
        raise UsageError(
            f"Feature {unknown[0]} does not exist here, or never fires, or has no label.",
            "List those that do: python main.py list RUN",
        )
    return sorted(chosen)

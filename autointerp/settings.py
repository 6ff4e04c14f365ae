"""The settings of each stage of autointerp, in the standard library only: flags, help and manifest entries come from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.settings import setting


@dataclass(frozen=True)
class ClusterSettings:
    """cluster: decoder directions -> neighbours, groups, a map."""

    neighbours: int = setting(
        15, "nearest directions that UMAP looks at, itself included; at most a third of them"
    )
    decorrelate: float = setting(
        0.5,
        "how much of the covariance that all directions share is taken out before groups are sought: 0 to 1",
    )
    dimensions: int = setting(
        10, "dimensions of the UMAP space in which HDBSCAN finds groups, 5 to 15"
    )
    min_size: int = setting(0, "smallest group of the finest layer that is considered; 0 takes 5")
    spread: float = setting(0.15, "smallest distance between points of the map (UMAP's min_dist)")
    nulls: int = setting(
        5,
        "proof: clouds of random directions with the same mean and covariance; at least 3 for a verdict",
    )
    seeds: int = setting(3, "proof: times that the groups are sought with another seed")
    subsamples: int = setting(8, "proof: times that they are sought among 80 % of the features")
    tokens: int = setting(
        2_000_000, "tokens, at most, on which pairs of features that fire together are counted"
    )


@dataclass(frozen=True)
class RelateSettings:
    """relate: neighbours, firings and labels -> duplicates, probable splitting and absorption."""

    set: str = setting(
        "rules",
        "the label set whose labels say where a parent should fire; only labels in the language of rules can",
    )
    tokens: int = setting(
        100_000, "tokens of the test split, at most, on which labels are held against firings"
    )


@dataclass(frozen=True)
class LLMSettings:
    """How an LLM is asked: which one, how fast, at what price. Inherited, so that title, label and score have the same flags."""

    llm_model: str = setting(
        "", "llm: name of the model; the endpoint's only one when empty", in_key=False
    )
    llm_url: str = setting(
        "", "llm: base URL of the endpoint, such as http://127.0.0.1:8000/v1", in_key=False
    )
    concurrency: int = setting(16, "llm: requests in flight", in_key=False)
    rpm: float = setting(0.0, "llm: requests a minute, at most; 0 is no limit", in_key=False)
    tpm: float = setting(0.0, "llm: tokens a minute, at most; 0 is no limit", in_key=False)
    llm_timeout: float = setting(300.0, "llm: seconds for one attempt", in_key=False)
    price_in: float = setting(0.0, "llm: price of a million tokens in", in_key=False)
    price_out: float = setting(0.0, "llm: price of a million tokens out", in_key=False)
    budget: float = setting(
        0.0, "llm: spend no more than this in one command; 0 is no limit", in_key=False
    )
    estimate: bool = setting(
        False, "llm: say what is left to ask and what it would cost, then stop", in_key=False
    )
    batch_out: str = setting(
        "",
        "llm: write the requests to this file, in the Batch format, instead of asking",
        in_key=False,
    )
    batch_in: str = setting(
        "", "llm: take answers from these files (commas, patterns); nothing is asked", in_key=False
    )
    probe: bool = setting(False, "llm: find out anew what the endpoint can do", in_key=False)
    replies: str = setting(
        "", "llm: a reply store to share between runs; nothing takes the run's own", in_key=False
    )


@dataclass(frozen=True)
class TitleSettings(LLMSettings):
    """title: labels and promoted tokens of a group's members -> a short name for every group of every layer."""

    by: str = setting(
        "words",
        "words (contrast of label words and promoted tokens) or llm",
        choices=("words", "llm"),
    )
    set: str = setting("rules", "the label set that names are made from")
    words: int = setting(3, "words: words in a title, at most")
    promoted: int = setting(
        5, "words: promoted tokens of each feature that count as evidence beside its label"
    )
    min_share: float = setting(
        0.2, "words: share of the members that must have a word for it to stand in the title"
    )


@dataclass(frozen=True)
class LabelSettings(LLMSettings):
    """label: snippets of the train split -> a label for each feature."""

    set: str = setting(
        "rules",
        "rules (embedded), llm (any OpenAI-compatible endpoint), hand (your notes)",
        choices=("rules", "llm", "hand"),
        in_key=False,
    )
    features: str = setting(
        "", "which features: 1,2,5-9 or @file; nothing takes every live one", in_key=False
    )
    sample: int = setting(
        0, "label only this many of them, drawn at random; 0 takes all", in_key=False
    )
    evidence: bool = setting(False, "llm: show it the rule label of each feature too", in_key=False)


@dataclass(frozen=True)
class ScoreSettings(LLMSettings):
    """score: labels -> how well their text predicts activations on documents that the labeller never saw."""

    set: str = setting("rules", "the label set: rules, hand, llm-<model>", in_key=False)
    kind: str = setting(
        "",
        "kinds, with commas: simulation, simulation-corpus, detection, fuzzing, effect, effect-choice, generation; nothing takes those that suit the labels",
        in_key=False,
    )
    features: str = setting(
        "", "which features: 1,2,5-9 or @file; nothing takes every labelled one", in_key=False
    )
    simulate: int = setting(
        200,
        "llm: without --features, simulate this many, evenly over densities; 0 takes all",
        in_key=False,
    )
    simulate_by: str = setting(
        "auto",
        "llm: simulation asks for digits (read with their log-probabilities), for a list of tokens that fire, or reads the log-probabilities of the prompt; "
        "auto takes what the endpoint can do",
        choices=("auto", "digits", "prompt", "list"),
    )
    top: int = setting(10, "simulation: windows around the largest activations")
    strata: int = setting(
        6, "simulation: windows from each of the five quantile strata of the non-zero activations"
    )
    random: int = setting(30, "simulation: windows anywhere")
    windows: int = setting(
        20,
        "detection, fuzzing: windows that fire, as many random ones that do not, and as many hard ones",
    )


def parse_features(text: str, known: Iterable[int]) -> list[int]:
    """Feature numbers, ascending, each once; raises UsageError for one that is not among `known`."""
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

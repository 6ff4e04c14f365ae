"""This project's own report: what the runs of its plan hold; computes only shares and medians."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autointerp.clamps import is_found_again, works
from autointerp.clusters.unit import read_proof
from autointerp.features import Features
from autointerp.labels.agreement import agreement
from core.clamps.experiments import Experiment, experiments
from core.effects.unit import read_changes, read_effects
from core.files import read_json
from core.run import Run
from core.training.unit import read_matches, read_metrics
from figures.report.cluster_text import proof_rows

SITES = {
    "early": "results-early",
    "middle": "results-middle",
    "late": "results-late",
    "MLP output": "results-mlp",
}
SNIPPETS = {"top": 4, "strata": 1}
ARCHITECTURES = {"tied_l1": "tied L1", "l1": "L1", "topk": "TopK"}
SITE_KINDS = ("simulation", "detection", "effect")  # kinds of score of every site

Hand = dict[str, Any]  # feature, name, reading, fails, card, scores, texts, same


class Units:
    """The summaries of a run's units by name: units["evaluate"]["fvu"].

    Raises NotReady for a unit that has not been made.
    """

    def __init__(self, name: str):
        self.run = Run.open(name)
        self.settings = self.run.settings

    def __getitem__(self, unit: str) -> dict:
        return self.run.manifest(unit).summary

    def seconds(self) -> float:
        """What all units of the run took together."""
        return sum(self.run.manifest(unit).seconds for unit in self.run.committed())


@dataclass(frozen=True)
class TestedClamp(Experiment):
    """A kept experiment with doses, and what the two tests say of it."""

    works: bool = False  # the text has the feature's own tokens
    found_again: bool = False  # the unclamped subject finds the feature in the text


class Numbers:
    """Every number that the report and the readme say, read when it is first used.

    `folder` holds hand.json: what was written by hand of the features that were read.
    """

    def __init__(self, folder: Path):
        self.read = read_json(folder / "hand.json")
        self.main = Units("results")
        self.control, self.random = Units("results-control"), Units("results-random")
        self.sites = {name: Units(run) for name, run in SITES.items()}
        self.plain, self.prompts = Units("results-plain"), Units("results-prompts")
        self.features = Features(self.main.run)

    # ------------------------------------------------------------ sites

    @cached_property
    def site_rows(self) -> list[dict]:
        """Each site's fidelity, label scores, kinds of label and effect of clamps."""
        return [site_row(name, units) for name, units in self.sites.items()]

    # ------------------------------------------------------------ data

    def match(self, other: str) -> dict:
        """Summary of the comparison of the plain run with another."""
        return self.plain[f"compare/{other}"]

    def match_arrays(self) -> dict[str, np.ndarray]:
        """Best cosines (F,) of the plain run's features in three other sets of directions."""
        return {
            "another seed, the same text": read_matches(self.plain.run, "results-seed"),
            "prompts with continuations": read_matches(self.plain.run, "results-prompts"),
            "random directions of like covariance": read_matches(
                self.plain.run, "results-prompts", "null"
            ),
        }

    # ------------------------------------------------------------ autoencoders

    @cached_property
    def sizes(self) -> list[dict]:
        """Rows of the sweep over architectures and sizes, then of that over penalties."""
        rows = [sweep_row(r, "x") for r in self.main["sweep/sizes"]["table"]]
        return rows + [sweep_row(r, "penalty") for r in self.main["sweep/penalties"]["table"]]

    @cached_property
    def stopping(self) -> dict:
        """The sweep row of the training that may stop early, with the rows of metrics.jsonl."""
        [row] = self.main["sweep/stopping"]["table"]
        folder = self.main.run.folder("sweep/stopping") / row["sae"]
        return row | {"rows": read_metrics(folder)}

    # ------------------------------------------------------------ features by hand

    @cached_property
    def hand(self) -> list[Hand]:
        """What was written by hand of each feature, with its card and its scores by set and kind.

        `same` is the correlation of what the hand label and the rules' label predict.
        """
        same = agreement(self.main.run, "hand", "rules").set_index("feature")["correlation"]
        rows = []
        for entry in self.read:
            card = self.features.card(entry["feature"], SNIPPETS)
            scores, texts = {}, {}
            for label in card.labels:
                scores[label["set"]] = {s["kind"]: s["value"] for s in label["scores"]}
                texts[label["set"]] = label["text"]
            agreed = same.get(entry["feature"], np.nan)
            more = {"card": card, "scores": scores, "texts": texts}
            rows.append(entry | more | {"same": None if np.isnan(agreed) else float(agreed)})
        return rows

    def hand_median(self, name: str) -> float:
        """Median simulation score of a set's labels over the features that both sets score."""
        both = [
            h["scores"]
            for h in self.hand
            if all(h["scores"][s].get("simulation") is not None for s in ("hand", "rules"))
        ]
        return float(np.median([scores[name]["simulation"] for scores in both]))

    @cached_property
    def clamps(self) -> list[TestedClamp]:
        """Kept experiments with doses, and what the two tests say of them."""
        return [judge_clamp(kept) for kept in experiments(self.main.run) if kept.doses is not None]

    @property
    def by_hand(self) -> list[TestedClamp]:
        """The experiments on features that were read by hand."""
        wanted = {entry["feature"] for entry in self.read}
        return [r for r in self.clamps if r.features[0] in wanted]

    @property
    def gallery(self) -> list[TestedClamp]:
        """The experiments that the gallery found."""
        return [r for r in self.clamps if r not in self.by_hand]

    # ------------------------------------------------------------ the subject, the groups, the cost

    @property
    def layers(self) -> int:
        """Blocks of the subject, by its own config."""
        return read_json(Path(self.main.settings.subject) / "config.json")["n_layer"]

    def proof_rows(self) -> list[list[str]]:
        """What the verdict on the clusters rests on."""
        return proof_rows(self.main["cluster"], read_proof(self.main.run) or {})

    def check_every(self) -> int:
        """Steps between measurements of val in the training that may stop early."""
        steps = [row["step"] for row in self.stopping["rows"] if "val_fvu" in row]
        return steps[1] - steps[0] if len(steps) > 1 else steps[0]

    def minutes(self) -> float:
        """What the stages of all runs of the plan took together."""
        names = ("results-early", "results-late", "results-mlp", "results-seed")
        runs = [self.main, self.control, self.random, self.plain, self.prompts]
        runs += [self.sites["middle"], *map(Units, names)]
        return sum(units.seconds() for units in runs) / 60


def judge_clamp(kept: Experiment) -> TestedClamp:
    """Judge an experiment with doses on the prompts that its doses were not chosen on."""
    found_again = is_found_again(kept.useful_found)
    return TestedClamp(**vars(kept), works=works(kept.useful), found_again=found_again)


def site_row(name: str, units: Units) -> dict:
    """Fidelity, label scores, kinds of label and effect of clamps at one site."""
    labels, row = units["label/rules"], {"name": name, "site": units.settings.site}
    row |= {key: units["evaluate"][key] for key in ("fvu", "recovered_mean", "ce_increase")}
    row |= {kind: units[f"score/rules/{kind}"]["median"] for kind in SITE_KINDS}
    row |= {kind: labels["kinds"].get(kind, 0) / labels["labels"] for kind in ("token", "unclear")}
    return row | {"rise": median_rise(units.run)}


def sweep_row(row: dict, by: str) -> dict:
    """One SAE of a sweep, whose name is such as l1-8x-l1_0.01, as the figure wants it.

    architecture, series, name (of the point), order (in its series), l0, fvu, dead_share,
    recovered_mean. A series varies the size, or with `by` "penalty" the penalty.
    """
    architecture, size, *more = row["sae"].split("-")
    called = ARCHITECTURES[architecture]
    value, name, series = float(size.removesuffix("x")), size, f"{called} by size"
    if by == "penalty":
        value = float(more[0].split("_")[1])
        name, series = f"{value:g}", f"{called}, {size} by penalty"
    measured = {k: row[k] for k in ("l0", "fvu", "dead_share", "recovered_mean")}
    about = {"architecture": architecture, "series": series, "name": name, "order": value}
    return about | measured


def median_rise(run: Run) -> float:
    """How much a clamp raises the mean log-probability (nats) of a feature's ten promoted tokens.

    The median over the features whose clamp changes anything.
    """
    table, changes = read_effects(run), read_changes(run)
    assert table is not None and changes is not None  # the plan measures both
    pairs = zip(table["feature"], table["promoted_id"], strict=True)
    rises = np.array([float(changes[f][np.asarray(ids[:10])].mean()) for f, ids in pairs])
    return float(np.median(rises[np.abs(rises) > 0]))

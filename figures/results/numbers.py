"""What the runs of the plan hold, gathered for the report: summaries of units, rows of tables, nothing computed anew but shares and medians."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from autointerp.clamps import found_again, works
from autointerp.features import Features
from autointerp.labels.agreement import agreement
from core.clamps.experiments import experiments
from core.files import read_array, read_json, read_lines
from core.run import Run
from figures.report.report import proof_rows

SITES = {
    "early": "results-early",
    "middle": "results-middle",
    "late": "results-late",
    "MLP output": "results-mlp",
}
SHOWN = {"top": 4, "strata": 1}


class Units:
    """The summaries of a run's units by name: units["evaluate"]["fvu"]. Raises NotReady for a unit that has not been made."""

    def __init__(self, name: str):
        self.run = Run.open(name)
        self.settings = self.run.settings

    def __getitem__(self, unit: str) -> dict:
        return self.run.manifest(unit).summary

    def seconds(self) -> float:
        return sum(self.run.manifest(unit).seconds for unit in self.run.committed())


class Numbers:
    """Everything that the report and the readme say, by the runs of the plan and what was written by hand in `folder`."""

    def __init__(self, folder: Path):
        self.read = read_json(folder / "hand.json")
        self.main, self.control, self.random = (
            Units("results"),
            Units("results-control"),
            Units("results-random"),
        )
        self.sites = {name: Units(run) for name, run in SITES.items()}
        self.plain, self.prompts = Units("results-plain"), Units("results-prompts")
        self.features = Features(self.main.run)

    # ------------------------------------------------------------ sites

    @cached_property
    def site_rows(self) -> list[dict]:
        """Each site's fidelity, label scores, kinds of label and effect of clamps."""
        rows = []
        for name, units in self.sites.items():
            kinds, labels = units["label/rules"]["kinds"], units["label/rules"]["labels"]
            rows.append(
                {
                    "name": name,
                    "site": units.settings.site,
                    **{k: units["evaluate"][k] for k in ("fvu", "recovered_mean", "ce_increase")},
                }
                | {
                    kind: units[f"score/rules/{kind}"]["median"]
                    for kind in ("simulation", "detection", "effect")
                }
                | {
                    "token": kinds.get("token", 0) / labels,
                    "unclear": kinds.get("unclear", 0) / labels,
                    "rise": promoted_rise(units.run),
                }
            )
        return rows

    # ------------------------------------------------------------ data

    def match(self, other: str) -> dict:
        """Summary of the comparison of the plain run with another."""
        return self.plain[f"compare/{other}"]

    def match_arrays(self) -> dict[str, np.ndarray]:
        """Best cosines of the plain run's features in another seed's, in the prompts' dictionary, and in random directions."""
        read = lambda other, name: np.asarray(
            read_array(self.plain.run.folder(f"compare/{other}") / f"{name}.npy")
        )
        return {
            "another seed, the same text": read("results-seed", "match_there"), "prompts with continuations": read("results-prompts", "match_there"),
            "random directions of like covariance": read("results-prompts", "null_there"),
        }  # fmt: skip

    # ------------------------------------------------------------ autoencoders

    @cached_property
    def sizes(self) -> list[dict]:
        """Rows of the sweep over architectures and sizes, then of that over penalties, as the figure wants them."""
        rows = [sweep_row(r, "x") for r in self.main["sweep/sizes"]["table"]]
        return rows + [sweep_row(r, "penalty") for r in self.main["sweep/penalties"]["table"]]

    @cached_property
    def stopping(self) -> dict:
        """The training that was to stop early: its sweep row, with the curves of metrics.jsonl."""
        [row] = self.main["sweep/stopping"]["table"]
        curves = read_lines(self.main.run.folder("sweep/stopping") / row["sae"] / "metrics.jsonl")
        return row | {
            "steps": [r for r in curves if "l0" in r],
            "checks": [r for r in curves if "val_fvu" in r],
        }

    # ------------------------------------------------------------ features by hand

    @cached_property
    def hand(self) -> list[dict]:
        """What was read by hand of each feature, beside its card, its scores by set and kind, and what the two labels have in common."""
        same = agreement(self.main.run, "hand", "rules").set_index("feature")
        out = []
        for entry in self.read:
            feature = entry["feature"]
            card = self.features.card(feature, SHOWN)
            scores = {
                label["set"]: {s["kind"]: s["value"] for s in label["scores"]}
                for label in card["labels"]
            }
            texts = {label["set"]: label["text"] for label in card["labels"]}
            agreed = same["correlation"].get(feature, np.nan)
            out.append(
                entry
                | {
                    "card": card,
                    "scores": scores,
                    "texts": texts,
                    "same": None if np.isnan(agreed) else float(agreed),
                }
            )
        return out

    def hand_median(self, name: str) -> float:
        """Median simulation score of a set's labels over the features read by hand for which both sets have one."""
        known = [
            h["scores"]
            for h in self.hand
            if all(h["scores"][s].get("simulation") is not None for s in ("hand", "rules"))
        ]
        return float(np.median([scores[name]["simulation"] for scores in known]))

    @cached_property
    def clamps(self) -> list[dict]:
        """Kept experiments with doses, each with `works` and `found_again`."""
        return [
            r | {"works": works(r), "found_again": found_again(r)}
            for r in experiments(self.main.run)
            if "doses" in r
        ]

    @property
    def by_hand(self) -> list[dict]:
        """The experiments on features that were read by hand."""
        wanted = {entry["feature"] for entry in self.read}
        return [r for r in self.clamps if r["features"][0] in wanted]

    @property
    def gallery(self) -> list[dict]:
        """The experiments that the gallery found."""
        return [r for r in self.clamps if r not in self.by_hand]

    # ------------------------------------------------------------ the subject, the groups, the cost

    @property
    def layers(self) -> int:
        """Blocks of the subject, by its own config."""
        return read_json(Path(self.main.settings.subject) / "config.json")["n_layer"]

    def proof_rows(self) -> list[list[str]]:
        """What the verdict on the groups rests on."""
        return proof_rows(
            self.main["cluster"], read_json(self.main.run.folder("cluster") / "proof.json")
        )

    def check_every(self) -> int:
        """Steps between measurements of val in the training that may stop early."""
        steps = [r["step"] for r in self.stopping["checks"]]
        return steps[1] - steps[0] if len(steps) > 1 else steps[0]

    def minutes(self) -> float:
        """Of all runs of the plan together, stages only."""
        others = ("results-early", "results-late", "results-mlp", "results-seed")
        known = [
            self.main,
            self.control,
            self.random,
            self.plain,
            self.prompts,
            self.sites["middle"],
            *(Units(name) for name in others),
        ]
        return sum(units.seconds() for units in known) / 60


def sweep_row(row: dict, by: str) -> dict:
    """architecture, series, name of the point, order in its series, l0, fvu, recovered of one SAE of a sweep, whose name is such as l1-8x-l1_0.01."""
    architecture, size, *more = row["sae"].split("-")
    value = float(more[0].split("_")[1]) if by == "penalty" else float(size.removesuffix("x"))
    called = {"tied_l1": "tied L1", "l1": "L1", "topk": "TopK"}[architecture]
    series = f"{called}, {size} by penalty" if by == "penalty" else f"{called} by size"
    name = f"{value:g}" if by == "penalty" else size
    return {"architecture": architecture, "series": series, "name": name, "order": value} | {
        k: row[k] for k in ("l0", "fvu", "dead_share", "recovered_mean")
    }


def promoted_rise(run: Run) -> float:
    """Median over live features of how much a clamp raises the mean log-probability (nats) of the ten tokens that the feature's direction promotes."""
    folder = run.folder("effects")
    table, clamped = pd.read_parquet(folder / "effects.parquet"), read_array(folder / "clamped.npy")
    rises = [
        float(clamped[f][np.asarray(ids[:10])].mean())
        for f, ids in zip(table["feature"], table["promoted_id"], strict=True)
    ]
    live = [abs(r) > 0 for r in rises]
    return float(np.median(np.array(rises)[live]))

"""Families as names need them: members, how alike families are, and a member kept from naming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEAST_NAMING = 3  # members from which a name is made, at least


@dataclass(frozen=True)
class FamilyGroups:
    """The families of a run: row i is family i."""

    members: list[list[int]]  # features of each, ascending
    alike: np.ndarray  # (n, n) float32 cosines of mean directions; the diagonal is -1

    @classmethod
    def from_table(cls, alive: pd.DataFrame, directions: np.ndarray) -> FamilyGroups:
        """The families in the `family` column of the live features; `directions` are (F, D)."""
        inside = alive[alive["family"] >= 0]
        parts = {int(f): part.tolist() for f, part in inside.groupby("family")["feature"]}  # type: ignore[arg-type]
        members = [parts[family] for family in sorted(parts)]
        means = np.zeros((len(members), directions.shape[1]), np.float32)
        for i, part in enumerate(members):
            rows = np.asarray(directions[part], np.float32)
            means[i] = (rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)[:, None]).mean(0)
        means -= means.mean(0) if len(means) else 0
        means /= np.maximum(np.linalg.norm(means, axis=1), 1e-12)[:, None]
        alike = means @ means.T
        np.fill_diagonal(alike, -1)
        return cls(members, alike)

    def nearest(self, family: int) -> int:
        """The family whose mean direction is nearest."""
        return int(np.argmax(self.alike[family]))

    def far(self, family: int) -> np.ndarray:
        """The half of the other families whose mean directions are farthest."""
        order = np.argsort(self.alike[family], kind="stable")
        order = order[order != family]
        return order[: (len(order) + 1) // 2]

    def batches(self, size: int) -> list[list[int]]:
        """All families in sets of at most `size`, each one of the first left and its nearest."""
        left = np.ones(len(self.members), bool)
        made = []
        for family in range(len(self.members)):
            if left[family]:
                left[family] = False
                order = np.argsort(-self.alike[family], kind="stable")
                others = order[left[order]][: size - 1].tolist()
                left[others] = False
                made.append([family, *others])
        return made

    def hold_out(self, known: Mapping[int, object], seed: int) -> dict[int, int]:
        """{family: one of its `known` features, kept from naming it}, where three others are."""
        rng, held = np.random.default_rng([seed, 22]), {}
        for family, part in enumerate(self.members):
            labelled = [feature for feature in part if feature in known]
            if len(labelled) > LEAST_NAMING:
                held[family] = int(rng.choice(labelled))
        return held

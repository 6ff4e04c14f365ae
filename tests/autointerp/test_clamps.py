"""What a clamp is measured on, and when it counts as working."""

import numpy as np
import pytest

from autointerp.clamps import (
    DoseBudget,
    find_like_density,
    is_found_again,
    read_held_out_prompts,
    read_held_out_rows,
    works,
)
from autointerp.features import Features
from core.records import SPLITS
from core.run import Run


@pytest.fixture(scope="module")
def features(job):
    return Features(Run.open(str(job)))


def test_rows_and_prompts_are_held_out(features):
    """Every row is a stretch of one test document; every prompt stands in one."""
    tokens, score = features.tokens, SPLITS.index("test")
    rows, prompts = (
        read_held_out_rows(features.evidence),
        read_held_out_prompts(features.evidence, DoseBudget(prompts=5, prompt_tokens=6)),
    )
    texts = [tokens.text(d) for d in range(len(tokens.names)) if tokens.split[d] == score]
    stored = [
        tokens.ids[a:b].tolist()
        for a, b, d in zip(
            tokens.row_offsets[:-1], tokens.row_offsets[1:], tokens.row_document, strict=True
        )
        if tokens.split[d] == score
    ]
    assert all(any(row[: rows.shape[1]] == kept.tolist() for row in stored) for kept in rows)
    assert len(prompts) == len(set(prompts)) == 5 and all(
        any(p in t for t in texts) for p in prompts
    )


def test_control_features_fire_about_as_often(features):
    n = features.postings.n_firings
    feature = int(np.argsort(n)[len(n) // 2])
    others = find_like_density(features.evidence, feature)
    assert (
        others
        and feature not in others
        and all(n[feature] / 2 <= n[o] <= 2 * n[feature] for o in others)
    )


@pytest.mark.parametrize(
    ("useful", "expected"),
    [
        ({"dose": None}, False),
        (
            {
                "dose": 2.0,
                "own_low": 0.3,
                "random_own": 0.1,
                "feature_own": 0.2,
                "unclamped_own": 0.0,
            },
            True,
        ),
        (
            {
                "dose": 2.0,
                "own_low": 0.15,
                "random_own": 0.1,
                "feature_own": 0.2,
                "unclamped_own": 0.0,
            },
            False,
        ),
        (
            {
                "dose": 2.0,
                "own_low": None,
                "random_own": 0.0,
                "feature_own": 0.0,
                "unclamped_own": 0.0,
            },
            False,
        ),
    ],
)
def test_a_clamp_works_when_it_beats_every_control_beyond_its_interval(useful, expected):
    assert works(useful) is expected


def test_found_again_is_the_same_test_on_another_measure():
    beyond = {
        "dose": 2.0,
        "found_low": 0.3,
        "random_found": 0.1,
        "feature_found": 0.2,
        "unclamped_found": 0.0,
    }
    assert is_found_again(beyond)
    assert not is_found_again(beyond | {"unclamped_found": 0.5})
    assert not is_found_again(None), "it was not measured"

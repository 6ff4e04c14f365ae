"""Matches of two dictionaries against brute force, and the null that stands beside them."""

import numpy as np
import pytest
import torch

from core.errors import UsageError
from core.run import Run
from core.settings import RunSettings, TrainSettings
from core.training.compare import best_cosines, compare, matched_noise
from tests.support.stages import train
from tests.support.tiny import planted_run

pytestmark = [pytest.mark.numeric, pytest.mark.slow]


def test_best_cosines_by_brute_force():
    a, b = torch.randn(7, 5), torch.randn(9, 5)
    a[3] = 0
    found = best_cosines(a, b)
    for i in (0, 1, 2, 4, 5, 6):
        each = [float(a[i] @ row / (a[i].norm() * row.norm())) for row in b]
        assert float(found[i]) == pytest.approx(max(each), abs=1e-6)
    assert torch.isnan(found[3])


def test_random_directions_have_mean_and_covariance_of_the_real_ones():
    wanted = torch.nn.functional.normalize(
        torch.randn(40_000, 4) * torch.tensor([3.0, 1.0, 1.0, 0.2]) + torch.tensor([1.0, 0, 0, 0]),
        dim=1,
    )
    made = matched_noise(wanted, 0)
    assert torch.allclose(made.mean(0), wanted.mean(0), atol=0.02) and torch.allclose(
        torch.cov(made.T), torch.cov(wanted.T), atol=0.02
    )


def test_a_planted_dictionary_is_found_by_two_seeds_and_chance_is_below(tmp_path):
    runs = [planted_run(tmp_path / name).run for name in ("a", "b")]
    for run, epochs in zip(runs, (8.0, 10.0), strict=True):
        train(run, TrainSettings(expansion=2.0, k=3, batch_size=256, epochs=epochs, warmup=10))
    summary = compare(*runs).summary
    assert summary["there"]["mean"] > summary["there"]["null"]["mean"] + 0.1
    folder = runs[0].folder(next(u for u in runs[0].committed() if u.startswith("compare/")))
    assert np.load(folder / "match_there.npy").shape == (summary["there"]["n"],)
    own = summary["fidelity"]["here"]
    assert own["own"]["fvu"] < 1 and own["guest"]["fvu"] < 1
    assert (
        compare(*runs).key
        == runs[0].manifest(next(u for u in runs[0].committed() if u.startswith("compare/"))).key
    )


def test_other_sites_are_refused(tmp_path):
    one, two = (
        Run.create(str(tmp_path / "one"), RunSettings()),
        Run.create(str(tmp_path / "two"), RunSettings(site="resid_post.1")),
    )
    with pytest.raises(UsageError, match="different sites"):
        compare(one, two)

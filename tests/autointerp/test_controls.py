"""What labels gain over controls, by density."""

import numpy as np
import pytest

from autointerp.controls import LIKE, UNTRAINED, Control, find_controls, gains
from core.run import Run
from core.settings import RunSettings


class Scored(Control):
    """A control with given densities and coverages."""

    covered = None

    def __init__(self, name, density, coverage):
        object.__setattr__(self, "name", name)
        order = np.argsort(density)
        object.__setattr__(self, "covered", (density[order], coverage[order]))


def test_a_gain_is_over_features_of_like_density():
    rng = np.random.default_rng(0)
    density = 10 ** rng.uniform(-4, -1, 400)
    control = Scored("random directions", density, np.log10(density) / 10 + 0.5)
    at = np.array([2e-4, 2e-3, 2e-2])
    found = gains([control], at, np.full(3, 0.6))
    expected = 0.6 - (np.log10(at) / 10 + 0.5)
    np.testing.assert_allclose(found["random directions"], expected, atol=0.02)


def test_a_control_with_few_or_no_scores():
    one = Scored("few", np.array([0.1]), np.array([0.3]))
    assert gains([one], np.array([0.001, 0.5]), np.array([0.5, 0.2]))["few"] == pytest.approx(
        [0.2, -0.1]
    )
    none = Scored("none", np.zeros(0), np.zeros(0))
    assert gains([none], np.array([0.1]), np.array([0.5])) == {}
    assert LIKE > 1


def test_controls_lie_beside_their_run(tmp_path):
    about = RunSettings(subject="s", site="resid_post.1", corpus="c")
    run = Run.create(str(tmp_path / "mine"), about)
    Run.create(
        str(tmp_path / "mine-control"),
        RunSettings(subject="s", site="resid_post.1", corpus="c", weights="random"),
    )
    Run.create(
        str(tmp_path / "mine-other"),
        RunSettings(subject="t", site="resid_post.1", corpus="c", weights="random"),
    )
    Run.create(str(tmp_path / "mine-again"), about)
    made = Run.create(str(tmp_path / "mine-random"), about)
    work = made.begin("train", 1, {}, [])
    work.commit({"untrained": "random"})
    (tmp_path / "mine-broken").mkdir()
    (tmp_path / "mine-broken" / "run.json").write_text("{}")
    found = find_controls(run)
    assert [(c.name, c.run.path.name) for c in found] == [
        (UNTRAINED, "mine-control"), ("random directions", "mine-random"),
    ]  # fmt: skip
    assert all(not len(c.covered[0]) for c in found)

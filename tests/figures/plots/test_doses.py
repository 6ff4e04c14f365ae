"""The dose figure: two panels, one palette, no band of a share outside 0 to 1."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from core.clamps.experiments import Experiment
from figures.plots.doses import dose_curves
from figures.style import DARK, LIGHT

KEYS = ("target", "own", "found", "kl")


def record(**above):
    """Doses 1 and 2; the measures in `above` rise over their controls at dose 2."""
    rows = []
    for dose in (1.0, 2.0):
        row = {"dose": dose}
        for prefix in ("", "random_", "feature_"):
            for key in KEYS:
                value = above.get(key, 0.01) if dose == 2 and not prefix else 0.01
                row |= {prefix + key: value, f"{prefix}{key}_low": value - 0.02}
                row |= {f"{prefix}{key}_high": value + 0.02}
        rows.append(row)
    return Experiment(
        ("set 7=1x",), (7,), ("a",), ("b",), ("c",), labels={7: "cats"}, doses=tuple(rows)
    )


@pytest.mark.parametrize(
    ("above", "title"),
    [
        ({"own": 0.5, "found": 0.5}, "Its own tokens in what it writes"),
        ({"found": 0.5}, "Found again in what it writes"),
        ({"kl": 0.5}, "KL to the unclamped subject"),
        ({}, "Its own tokens in what it writes"),
    ],
)
def test_the_second_panel_is_one_in_which_something_is_seen(above, title):
    figure = dose_curves(record(**above))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Log-probability of its own tokens", title]
    assert figure.get_figwidth() * 100 == 900


@pytest.mark.parametrize(("dark", "theme"), [(False, LIGHT), (True, DARK)])
def test_curves_have_the_colours_of_the_page_and_bands_stay_shares(dark, theme):
    figure = dose_curves(record(own=0.995), dark)
    own = figure.axes[1]
    colours = [to_hex(line.get_color()).upper() for line in own.lines]
    assert colours == [theme[name] for name in ("own", "direction", "other")]
    bands = np.concatenate([c.get_paths()[0].vertices[:, 1] for c in own.collections])
    assert bands.min() >= 0 and bands.max() <= 1
    assert own.xaxis.label.get_fontsize() >= 10

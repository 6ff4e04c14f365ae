"""What goes into the figures about groups can be read back from their artists; labels keep apart."""

import numpy as np
import pytest

from figures.plots.clusters import nulls_figure, sizes_figure, together_figure
from figures.plots.placement import overlap
from figures.plots.scores import score_curves, scores_by_density
from figures.plots.training import sweep_figure
from figures.plots.tree import SOLID, find_parent, place_boxes, tree_figure
from figures.style import DARK, LIGHT, contrast


def mixed(colour, page, share):
    """The colour of a box of that opacity on the page."""
    parts = [
        share * int(colour[i : i + 2], 16) + (1 - share) * int(page[i : i + 2], 16)
        for i in (1, 3, 5)
    ]
    return "#" + "".join(f"{round(p):02x}" for p in parts)


NO_PARENT = {"hue": -1, "jaccard": 0.9, "jaccard_seeds": 0.8}


def records():
    """Two coarse groups; three fine ones, of which two lie in the first and one in none."""
    return [
        {
            "layer": 0,
            "group": 0,
            "size": 60,
            "path": [],
            "hue": 0,
            "jaccard": 0.9,
            "jaccard_seeds": 0.8,
        },
        {
            "layer": 0,
            "group": 1,
            "size": 20,
            "path": [],
            "hue": 1,
            "jaccard": 0.3,
            "jaccard_seeds": None,
        },
        {
            "layer": 1,
            "group": 0,
            "size": 30,
            "path": [0],
            "hue": 0,
            "jaccard": 0.8,
            "jaccard_seeds": 0.7,
        },
        {"layer": 1, "group": 1, "size": 20, "path": [-1], **NO_PARENT},
        {
            "layer": 1,
            "group": 2,
            "size": 10,
            "path": [0],
            "hue": 0,
            "jaccard": None,
            "jaccard_seeds": None,
        },
    ]


TITLES = {
    (0, 0): "operators",
    (1, 0): '"$" in a line',
    (1, 1): "a title that is much too long to fit into the box of a group of that size " * 2,
}


def test_boxes_stand_inside_their_parents_and_apart():
    spans = place_boxes(records(), 100)
    assert spans[0, 0] == (0, 0.6) and spans[0, 1] == pytest.approx((0.6, 0.8))
    assert (
        spans[1, 0] == (0, 0.3)
        and spans[1, 2] == pytest.approx((0.3, 0.4))
        and spans[1, 1] == pytest.approx((0.8, 1.0))
    )
    assert (
        find_parent({"path": [2, -1]}) == (0, 2)
        and find_parent({"path": [-1, -1]}) is None
        and find_parent({"path": [1, 4]}) == (1, 4)
    )
    deep = [
        *records(),
        {"layer": 2, "group": 0, "size": 9, "path": [0, 0], **NO_PARENT},
        {"layer": 2, "group": 1, "size": 40, "path": [0, -1], **NO_PARENT},
    ]
    both = sorted(span for key, span in place_boxes(deep, 100).items() if key[0] == 2)
    assert both[0][1] <= both[1][0]


@pytest.mark.parametrize("dark", [False, True])
def test_the_tree_names_what_fits_and_pales_what_has_dissolved(dark):
    figure = tree_figure(records(), TITLES, 100, dark)
    axes = figure.axes[0]
    figure.canvas.draw()
    assert [t.get_text() for t in axes.texts] == ["operators", '"\\$" in a line']
    boxes = [np.r_[b.min, b.max] for b in (t.get_window_extent() for t in axes.texts)]
    assert not overlap(*boxes)
    alphas = [p.get_alpha() for p in axes.patches]
    assert len(alphas) == 5 and alphas[1] < 0.5 * min(alphas[0], *alphas[2:])
    theme = DARK if dark else LIGHT
    for hue in [*theme["palette"], theme["faint"]]:
        assert contrast(theme["ink"], mixed(hue, theme["page"], SOLID)) >= 4.5
    assert alphas[0] == SOLID
    assert len(tree_figure([], {}, 5).axes) == 1


def test_sizes_stand_beside_what_comes_back():
    left, right = sizes_figure(records(), TITLES, 1).axes[:2]
    assert [bar.get_width() for bar in left.patches] == [30, 20, 10]
    names = [t.get_text() for t in left.get_yticklabels()]
    assert names[0] == '"\\$" in a line' and names[1].endswith("…") and names[2] == "(no name)"
    found = {
        c.get_label(): [round(float(v), 2) for v in c.get_offsets()[:, 0]]
        for c in right.collections
        if len(c.get_offsets())
    }
    assert found == {"other seeds": [0.7, 0.8], "80 % subsamples": [0.8, 0.9]}
    many = [{"layer": 0, "group": g, "size": 50 - g, "path": [], **NO_PARENT} for g in range(40)]
    assert len(sizes_figure(many, {}, 0).axes[0].patches) == 20


def test_nulls_stand_beside_the_real_value():
    clouds = {
        "Gaussian, same mean and covariance": [1.0, 2.0, 3.0],
        "columns shuffled": [0.0],
        "uniform": [0.0],
    }
    figure = nulls_figure(
        [("cohesion", 5.0, clouds), ("isolated", 0.0, {k: [0.0] for k in clouds})]
    )
    heights = [sorted(c.get_offsets()[:, 1]) for c in figure.axes[0].collections]
    assert heights == [[5], [1, 2, 3], [0], [0]]
    low, high = figure.axes[0].get_ylim()
    assert low < 0 and high > 5


def test_firing_together_shows_every_shuffle():
    entry = {
        "value": 0.3,
        "between": 0.01,
        "shuffled": [0.0, 0.02, 0.01],
        "z": 30.0,
        "p": 0.005,
        "n_pairs": 1234,
    }
    figure = together_figure([entry, None, entry | {"value": 0.4, "z": None, "p": 0.2}])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["finest", "coarsest"]
    assert sorted(len(c.get_offsets()) for c in axes.collections) == [1, 1, 1, 1, 3, 3]
    assert (
        "z = 30" in axes.texts[1].get_text()
        and "1,234 pairs" in axes.texts[1].get_text()
        and "p = 0.200" in axes.texts[0].get_text()
    )
    assert together_figure([None]) is None


def test_score_figures_state_their_numbers():
    rng = np.random.default_rng(0)
    figure = score_curves(rng.random(2000), rng.random(2000) - 0.5, None, 2500)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert (
        "n = 2,000" in lines[0].get_label()
        and lines[0].get_ydata()[0] == pytest.approx(0.8)
        and len(lines[0].get_xdata()) <= 400
    )
    assert "5 features" in scores_by_density(np.full(5, 0.01), rng.random(5)).axes[0].get_title(
        loc="left"
    )
    assert "400 features" in scores_by_density(rng.random(400), rng.random(400)).axes[0].get_title(
        loc="left"
    )


def test_a_sweep_names_every_point():
    axes = sweep_figure([("this", 32.0, 0.13), ("other", 26.0, 0.39)]).axes[0]
    assert [t.get_text() for t in axes.texts] == ["this", "other"] and axes.get_ylim()[0] == 0

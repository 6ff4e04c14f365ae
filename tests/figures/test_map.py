"""The map and its companion: artists are read back, never pixels."""

import numpy as np
import pytest

from figures.clusters import group_figure
from figures.map import MOST_TITLES, WARNING, Caption, cluster_map, overlap
from figures.style import COLOURS, DARK, LIGHT, PALETTE, plain, save, themed

CAPTION = Caption(live=330, dead=7, groups=30, noise=30, isolated=2, recall=0.42, null_groups=5)


def cloud(n_groups=30):
    """Ten points for each group on a lattice, then thirty without a group."""
    rng = np.random.default_rng(0)
    group = np.r_[np.repeat(np.arange(n_groups), 10), np.full(30, -1)]
    centre = np.c_[group % 6, group // 6] * 3.0
    x, y = (centre + rng.normal(size=(len(group), 2)) * 0.4).T
    return x, y, group


def titles_of(figure):
    return [t for t in figure.axes[0].texts]


def test_every_point_is_drawn_noise_first_and_grey():
    x, y, group = cloud()
    figure = cluster_map(x, y, group, {}, CAPTION)
    drawn = figure.axes[0].collections
    assert drawn[0].get_label() == "noise" and len(drawn[0].get_offsets()) == 30
    assert np.allclose(drawn[0].get_facecolor()[0, :3], [int(LIGHT["noise"][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert sum(len(c.get_offsets()) for c in drawn) == len(x) and len(drawn) == 31
    assert drawn[0].get_sizes()[0] < drawn[1].get_sizes()[0]


def test_groups_of_a_family_share_its_colour():
    x, y, group = cloud()
    figure = cluster_map(x, y, group, {}, CAPTION, family={g: g % 3 for g in range(30)})
    colours = {tuple(c.get_facecolor()[0]) for c in figure.axes[0].collections[1:]}
    assert len(colours) == 3


def test_titles_do_not_overlap_and_stay_inside():
    x, y, group = cloud()
    figure = cluster_map(x, y, group, {g: f"a title of group {g}" for g in range(30)}, CAPTION)
    figure.canvas.draw()
    boxes = [np.r_[b.min, b.max] for b in (t.get_window_extent() for t in titles_of(figure))]
    assert 10 <= len(boxes) <= MOST_TITLES
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    frame = figure.axes[0].get_window_extent()
    assert all(b[0] >= frame.x0 and b[2] <= frame.x1 and b[1] >= frame.y0 and b[3] <= frame.y1 for b in boxes)


def test_largest_groups_are_named_first():
    x, y, group = cloud(3)
    group[group == 2] = 1  # the largest is 1
    figure = cluster_map(x, y, group, {0: "small", 1: "large"}, CAPTION)
    assert [t.get_text() for t in titles_of(figure)] == ["large", "small"]


def test_titles_with_dollars_are_never_mathematics():
    x, y, group = cloud(2)
    figure = cluster_map(x, y, group, {0: '"$x$", "$"', 1: r'"\frac$" after "{$"'}, CAPTION)
    figure.canvas.draw()
    for text in titles_of(figure):
        assert text._preprocess_math(text.get_text())[1] is False
    assert titles_of(figure)[0]._preprocess_math(titles_of(figure)[0].get_text())[0] == '"$x$", "$"'
    assert plain("a\n$\t") == "a↵\\$⇥"


def test_caption_states_what_the_map_is_worth():
    x, y, group = cloud()
    shown = [t.get_text() for t in cluster_map(x, y, group, {}, CAPTION).texts]
    assert WARNING in shown
    for part in ("330 live", "7 dead", "30 groups (5 in a random cloud)", "9 % noise", "2 isolated", "keeps 42 % of 15 neighbours"):
        assert part in shown[0]
    assert "neighbours" not in str(Caption(live=0, dead=0, groups=0, noise=0, isolated=0, recall=None))


def test_no_groups_and_unknown_titles_still_draw():
    rng = np.random.default_rng(0)
    figure = cluster_map(*rng.normal(size=(2, 20)), np.full(20, -1), {3: "gone"}, CAPTION, dark=True)
    assert not titles_of(figure) and figure.get_facecolor()[:3] == pytest.approx([int(DARK["page"][i : i + 2], 16) / 255 for i in (1, 3, 5)])


def test_equal_figures_are_equal_bytes(tmp_path):
    x, y, group = cloud(4)
    for name in ("a.svg", "b.svg"):
        save(cluster_map(x, y, group, {0: "first"}, CAPTION), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_theme_ends_with_its_block():
    import matplotlib as mpl

    before = mpl.rcParams["text.color"]
    with themed(dark=True) as theme:
        assert mpl.rcParams["text.color"] == theme["ink"] == DARK["ink"]
    assert mpl.rcParams["text.color"] == before
    assert len(PALETTE) == len(DARK["palette"]) == 9 and set(COLOURS) == {"score", "null", "control", "noise", "baseline", "clamped"}


def test_group_figure_shows_sizes_and_nulls():
    figure = group_figure({0: 9, 1: 40, 2: 3}, {1: "$big$"}, [("groups", 3, 8), ("share of noise", 0.0, 0.0)])
    sizes, *pairs = figure.axes
    assert [bar.get_width() for bar in sizes.patches] == [40, 9, 3]
    assert [t.get_text() for t in sizes.get_yticklabels()] == ["\\$big\\$", "group 0", "group 2"]
    assert [bar.get_width() for bar in pairs[0].patches] == [3, 8] and len(pairs) == 2
    assert [t.get_text() for t in pairs[0].texts] == ["3", "8"]
    assert len(group_figure({}, {}, []).axes) == 1

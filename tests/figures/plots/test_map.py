"""The map: artists are read back, never pixels."""

import numpy as np
import pytest

from figures.plots.map import MOST_TITLES, WARNING, Caption, NamedCluster, cluster_map, find_middle
from figures.plots.placement import overlap
from figures.style import (
    COLOURS,
    DARK,
    LIGHT,
    MOST_BYTES,
    PALETTE,
    contrast,
    escape_text,
    save,
    use_theme,
)

CAPTION = Caption(
    alive=330,
    dead=7,
    levels=(5, 30),
    noise=30,
    isolated=2,
    recall=0.42,
    null_clusters=(4, 6, 5),
    kept=0.8,
    ari=0.61,
    verdict="The groups are more than noise.",
)


def cloud(n_groups=30, each=10, noise=30):
    """(x, y, hue, grouped, groups): points for each group on a lattice, five coarse groups of six,
    then points without a group.
    """
    rng = np.random.default_rng(0)
    group = np.r_[np.repeat(np.arange(n_groups), each), np.full(noise, -1)]
    centre = np.c_[group % 6, group // 6] * 3.0
    x, y = (centre + rng.normal(size=(len(group), 2)) * 0.4).T
    hue = np.where(group >= 0, group // 6, -1)
    fine = [
        NamedCluster(f'a "title" of group {g}', 1, m := np.flatnonzero(group == g), int(m[0]))
        for g in range(n_groups)
    ]
    tops = [np.flatnonzero(hue == h) for h in range(hue.max() + 1)]
    coarse = [
        NamedCluster(f"all of row {h}", 0, m, find_middle(np.c_[x, y], m), h)
        for h, m in enumerate(tops)
    ]
    return x, y, hue, group >= 0, coarse + fine


def drawn(groups=None, dark=False, **given):
    x, y, hue, grouped, own = cloud(**given)
    return cluster_map(np.c_[x, y], hue, grouped, own if groups is None else groups, CAPTION, dark)


def titles_of(figure):
    return list(figure.axes[0].texts)


def scatters(figure):
    return [
        c
        for c in figure.axes[0].collections
        if len(c.get_offsets()) > 1 or c.get_label() == "noise"
    ]


def test_every_point_is_drawn_noise_first_and_grey():
    points = scatters(drawn(groups=[]))
    assert points[0].get_label() == "noise" and len(points[0].get_offsets()) == 30
    assert np.allclose(
        points[0].get_facecolor()[0, :3],
        [int(LIGHT["noise"][i : i + 2], 16) / 255 for i in (1, 3, 5)],
    )
    assert sum(len(c.get_offsets()) for c in points) == 330
    assert points[0].get_sizes()[0] < points[-1].get_sizes()[0]
    assert (
        len({tuple(c.get_facecolor()[0, :3]) for c in points[1:]}) == 5
    )  # as many hues as coarse groups


def test_members_of_coarse_groups_only_are_pale_and_of_fine_groups_alone_are_not_coloured():
    x, y, hue, grouped, _ = cloud()
    grouped[:10], hue[10:20] = False, -1
    points = {
        c.get_label(): c for c in scatters(cluster_map(np.c_[x, y], hue, grouped, [], CAPTION))
    }
    assert (
        len(points["_pale"].get_offsets()) == 10
        and points["_pale"].get_alpha() < points["0"].get_alpha()
    )
    assert len(points["alone"].get_offsets()) == 10


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "given",
    [{"n_groups": 1, "each": 5, "noise": 0}, {}, {"n_groups": 30, "each": 500, "noise": 1000}],
)
def test_titles_do_not_overlap_stay_inside_and_can_be_read(given, dark):
    figure = drawn(dark=dark, **given)
    figure.canvas.draw()
    titles = titles_of(figure)
    boxes = [np.r_[b.min, b.max] for b in (t.get_window_extent() for t in titles)]
    assert min(2, given.get("n_groups", 10)) <= len(boxes) <= MOST_TITLES
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    frame = figure.axes[0].get_window_extent()
    assert all(
        b[0] >= frame.x0 and b[2] <= frame.x1 and b[1] >= frame.y0 and b[3] <= frame.y1
        for b in boxes
    )
    page = (DARK if dark else LIGHT)["page"]
    assert all(contrast(t.get_color(), page) >= 4.5 for t in titles + figure.texts)
    width = figure.get_window_extent().width
    assert all(t.get_window_extent().x1 <= width for t in figure.texts)  # the caption fits
    assert all(
        t.get_fontsize() * 200 / 72 * 830 / 1600 >= 9.9 for t in titles + figure.texts
    )  # pixels at the width of a readme


def test_coarse_titles_come_first_and_are_larger():
    titles = titles_of(drawn())
    assert (
        titles[0].get_text().startswith("all of row")
        and titles[0].get_fontsize() > titles[-1].get_fontsize()
    )


def test_hulls_hold_most_of_their_group_and_only_coarse_groups_have_one():
    figure = drawn()
    hulls = [c for c in figure.axes[0].collections if c.__class__.__name__ == "QuadContourSet"]
    assert len(hulls) == 10  # a line and a fill for each of five
    from matplotlib.path import Path

    x, y, hue, *_ = cloud()
    fill = hulls[0]
    inside = (
        sum(Path(p.vertices, p.codes).contains_points(np.c_[x, y]) for p in fill.get_paths()) > 0
    )
    assert inside[hue == 0].mean() >= 0.7 and inside[hue >= 2].mean() < 0.1


def test_titles_with_dollars_are_never_mathematics():
    x, y, hue, grouped, _ = cloud(2)
    figure = cluster_map(
        np.c_[x, y],
        hue,
        grouped,
        [
            NamedCluster('"$x$", "$"', 1, np.arange(10), 0),
            NamedCluster(r'"\frac$" after "{$"', 1, np.arange(10, 20), 10),
        ],
        CAPTION,
    )
    figure.canvas.draw()
    for text in titles_of(figure):
        assert text._preprocess_math(text.get_text())[1] is False
    assert titles_of(figure)[0]._preprocess_math(titles_of(figure)[0].get_text())[0] == '"$x$", "$"'
    assert escape_text("a\n$\t") == "a↵\\$⇥"


def test_caption_states_what_the_map_is_worth():
    shown = " ".join(t.get_text() for t in drawn().texts)
    for part in (
        WARNING, "330 alive", "7 dead", "5 > 30 clusters (same cut of 3 Gaussian clouds: 4 to 6)", "9 % noise", "2 isolated", "42 % of 15 neighbours", "80% of the finest",
        "ARI 0.61", "more than noise",
    ):  # fmt: skip
        assert part in shown
    first, second = Caption(alive=0, dead=0, levels=(), noise=0, isolated=0, recall=None).lines()
    assert "no clusters" in first and second == ""


def test_equal_figures_are_equal_bytes_and_small_enough_for_a_readme(tmp_path):
    for name in ("a.svg", "b.svg"):
        save(drawn(n_groups=6), tmp_path / name)
    save(drawn(each=500, noise=1000), tmp_path / "c.png")
    assert all(path.stat().st_size < MOST_BYTES for path in tmp_path.iterdir())
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_theme_ends_with_its_block():
    import matplotlib as mpl

    before = mpl.rcParams["text.color"]
    with use_theme(dark=True) as theme:
        assert mpl.rcParams["text.color"] == theme["ink"] == DARK["ink"]
    assert mpl.rcParams["text.color"] == before
    assert len(PALETTE) == len(DARK["palette"]) == 9 and set(COLOURS) == {
        "score",
        "null",
        "control",
        "noise",
        "baseline",
        "clamped",
    }


def test_contrast_by_hand():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21) and contrast(
        "#777777", "#FFFFFF"
    ) == pytest.approx(4.48, abs=0.01)

"""The map: artists are read back, never pixels."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from figures.plots.map import (
    PRINT,
    README,
    WARNING,
    Look,
    MapText,
    Name,
    cluster_map,
    find_middle,
    shorten,
)
from figures.plots.map_colours import Categories, Values, norm_of, paint, spread_hues
from figures.plots.placement import cross_boxes, cross_lines, overlap
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

pytestmark = pytest.mark.slow  # the file as a whole

TEXT = MapText("330 features", ("5 families come back.", "Grey names do not."), "30 isolated")


def cloud(n_groups=30, each=10, noise=30, isolated=30):
    """(points, family, isolated, names): families on a lattice, points in none, a strip below."""
    rng = np.random.default_rng(0)
    family = np.r_[np.repeat(np.arange(n_groups), each), np.full(noise + isolated, -1)]
    centre = np.c_[family % 6, family // 6] * 3.0
    points = centre + rng.normal(size=(len(family), 2)) * 0.4
    is_isolated = np.arange(len(family)) >= len(family) - isolated
    points[is_isolated] = np.c_[np.linspace(0, 15, isolated), np.full(isolated, -6.0)]
    names = [
        Name(f'a "title" of family {g}', np.flatnonzero(family == g), g % 3 > 0)
        for g in range(n_groups)
    ]
    return points, family, is_isolated, names


def drawn(names=None, dark=False, sheet=README, colour=None, contours=True, **given):
    points, family, isolated, own = cloud(**given)
    colour = Categories(family) if colour is None else colour
    look = Look(dark, sheet, contours)
    names = own if names is None else names
    return cluster_map(points, family >= 0, isolated, colour, names, TEXT, look)


def names_on(figure):
    """The names, without the line over the strip."""
    return [t for t in figure.axes[0].texts if t.get_text() != TEXT.isolated]


def lines_on(figure, label):
    """(n, 4) x0, y0, x1, y1 in pixels of the lines with this label."""
    axes = figure.axes[0]
    own = [line for line in axes.lines if line.get_label() == label]
    ends = [axes.transData.transform(np.c_[line.get_xdata(), line.get_ydata()]) for line in own]
    return np.array(ends).reshape(-1, 4)


def boxes_of(texts):
    return np.array([np.r_[b.min, b.max] for b in (t.get_window_extent() for t in texts)])


def test_every_point_is_drawn_and_those_of_families_are_larger():
    axes = drawn(names=[], contours=False).axes[0]
    weak, strong = axes.collections
    assert len(weak.get_offsets()) == 60 and len(strong.get_offsets()) == 300
    assert weak.get_sizes()[0] < strong.get_sizes()[0]
    assert np.allclose(weak.get_facecolor()[:, :3], to_rgba(LIGHT["noise"])[:3])
    assert len(np.unique(strong.get_facecolor(), axis=0)) == 9


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("sheet", [README, PRINT])
@pytest.mark.parametrize(
    "given",
    [{"n_groups": 1, "each": 5, "noise": 0, "isolated": 0}, {"each": 60, "noise": 1000}],
)
def test_names_lie_on_no_name_and_no_line_stay_inside_and_can_be_read(given, sheet, dark):
    figure = drawn(dark=dark, sheet=sheet, **given)
    figure.canvas.draw()
    names = names_on(figure)
    boxes, lines = boxes_of(names), lines_on(figure, "_leader")
    assert given["n_groups"] == len(boxes) if "n_groups" in given else len(boxes) > 15
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not cross_boxes(lines, boxes + np.array([1, 1, -1, -1])).any()
    assert not cross_lines(lines, lines).any()
    frame = figure.axes[0].get_window_extent()
    assert (boxes[:, :2] >= [frame.x0, frame.y0]).all()
    assert (boxes[:, 2:] <= [frame.x1, frame.y1]).all()
    page = (DARK if dark else LIGHT)["page"]
    assert all(contrast(t.get_color(), page) >= 4.5 for t in names + figure.texts)
    width = figure.get_window_extent().width
    assert all(t.get_window_extent().x1 <= width for t in figure.texts)  # the caption fits
    if sheet is README:  # pixels at the width of a readme
        assert all(t.get_fontsize() * 200 / 72 * 830 / 1600 >= 9.9 for t in names + figure.texts)


def test_a_name_that_had_to_move_has_a_line_to_its_members():
    points, family, isolated, names = cloud(n_groups=6, each=300, noise=0)
    many = [Name(f"name {i} of one crowd", part) for i, part in enumerate(
        np.array_split(np.flatnonzero(family == 0), 12))]  # fmt: skip
    figure = cluster_map(points, family >= 0, isolated, Categories(family), many, TEXT)
    lines = lines_on(figure, "_leader")
    middles = [points[find_middle(points, name.members)] for name in many]
    anchors = figure.axes[0].transData.transform(middles)
    assert len(lines) >= 3
    starts = lines[:, :2]
    assert all(np.abs(anchors - start).sum(1).min() < 1e-6 for start in starts)


def test_solid_names_come_first_and_large_ones_before_them():
    points, family, isolated, names = cloud()
    over = Name("all of one row", np.arange(60), over=True)
    shown = names_on(drawn(names=[*names, over]))
    assert shown[0].get_text() == "all of one row" and shown[0].get_fontweight() == "bold"
    assert shown[0].get_fontsize() > shown[1].get_fontsize()
    solid = [t.get_color() == LIGHT["ink"] for t in shown]
    assert solid == sorted(solid, reverse=True) and 0 < sum(solid) < len(solid)


def test_a_sheet_has_names_of_three_sizes_the_largest_families_first():
    assert [size for _, size in PRINT.beside] == sorted((s for _, s in PRINT.beside), reverse=True)
    sheet = replace(PRINT, beside=((3, 8.0), (4, 6.0), (100, 4.0)))
    points, family, isolated, _ = cloud(n_groups=20, noise=0)
    names = [Name(f"n{i}", np.arange(10 * i, 10 * i + 10 - i // 3)) for i in range(20)]
    look = Look(sheet=sheet, contours=False)
    figure = cluster_map(points, family >= 0, isolated, Categories(family), names, TEXT, look)
    sizes = {t.get_text(): t.get_fontsize() for t in names_on(figure)}
    assert [sizes[f"n{i}"] for i in range(20)] == [8.0] * 3 + [6.0] * 4 + [4.0] * 13


def test_isolated_points_stand_under_a_line_that_says_so():
    figure = drawn(names=[])
    assert TEXT.isolated in [t.get_text() for t in figure.axes[0].texts]
    y = lines_on(figure, "_strip")[0, 1]
    points, _, isolated, _ = cloud()
    heights = figure.axes[0].transData.transform(points)[:, 1]
    assert heights[isolated].max() < y < heights[~isolated].min()
    without = drawn(names=[], isolated=0)
    assert TEXT.isolated not in [t.get_text() for t in without.axes[0].texts]


def test_contours_hold_the_crowd_and_can_be_left_out():
    kinds = [c.__class__.__name__ for c in drawn(names=[]).axes[0].collections]
    assert kinds.count("QuadContourSet") >= 3
    plain = drawn(names=[], contours=False).axes[0].collections
    assert "QuadContourSet" not in [c.__class__.__name__ for c in plain]


def test_names_with_dollars_are_never_mathematics():
    names = [
        Name('"$x$", "$"', np.arange(10)),
        Name(r'"\frac$" after "{$"', np.arange(10, 20)),
    ]
    figure = drawn(names=names)
    figure.canvas.draw()
    for text in names_on(figure):
        assert text._preprocess_math(text.get_text())[1] is False
    assert names_on(figure)[0]._preprocess_math(names_on(figure)[0].get_text())[0] == '"$x$", "$"'
    assert escape_text("a\n$\t") == "a↵\\$⇥"


def test_long_names_are_cut_between_words():
    assert shorten("one two three", 100) == "one two three"
    assert shorten('"one", "two", three', 12) == '"one"…'
    figure = drawn(names=[Name("word " * 40, np.arange(10))])
    assert names_on(figure)[0].get_text().replace("\n", " ").endswith("word…")


def test_the_caption_says_the_verdict_and_what_distances_mean():
    figure = drawn()
    shown = " ".join(t.get_text() for t in figure.texts)
    for part in (TEXT.heading, *TEXT.sentences, WARNING):
        assert part in shown


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_large_values_stand_out_most_and_none_is_grey(theme):
    colour = Values(np.array([np.nan, 0.0, 0.5, 1.0]), "score")
    painted = paint(colour, theme)
    hexes = ["#" + "".join(f"{round(255 * c):02X}" for c in row[:3]) for row in painted]
    assert hexes[0] == theme["noise"]
    against = [contrast(h, theme["page"]) for h in hexes[1:]]
    assert against == sorted(against) and against[-1] > 8


def test_values_that_are_one_number_or_none_have_a_scale():
    for values in ([0.5, 0.5], [np.nan, np.nan], [0.0, 0.0]):
        for log in (False, True):
            assert np.isfinite(paint(Values(np.array(values), "v", log), LIGHT)).all()
    norm = norm_of(Values(np.r_[1e-6, np.geomspace(1e-4, 1e-2, 198), 1.0], "density", log=True))
    # the rarest and the densest do not set the scale
    assert norm(1e-6) == 0 and norm(0.1) == pytest.approx(1)


def test_keys_name_categories_and_the_ends_of_a_scale():
    n = len(cloud()[0])
    kinds = Categories(np.arange(n) % 3 - 1, ("synonyms", "alternatives"), "neither")
    key = drawn(names=[], colour=kinds).legends[0]
    assert [t.get_text() for t in key.get_texts()] == ["synonyms", "alternatives", "neither"]
    values = Values(np.linspace(0, 1, n), "share of $", none="none")
    texts = [t.get_text() for t in drawn(names=[], colour=values).texts]
    assert any("share of \\$" in t and "grey: none" in t for t in texts) and "0.98" in texts


def test_near_sets_have_different_hues():
    centres = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
    hues = spread_hues(centres, 9)
    away = np.abs(centres[:, None] - centres[None]).sum(-1)
    near = (away > 0) & (away <= 1)
    assert not (near & (hues[:, None] == hues[None])).any()
    assert set(hues) == set(range(9))
    assert len(spread_hues(np.zeros((0, 2)), 9)) == 0 and spread_hues(np.zeros((1, 2)), 9) == [0]


# ---------------------------------------------------------------- files and themes


def test_equal_figures_are_equal_bytes_and_small_enough_for_a_readme(tmp_path):
    for name in ("a.svg", "b.svg"):
        save(drawn(n_groups=6), tmp_path / name)
    save(drawn(each=100, noise=1000), tmp_path / "c.png")
    save(drawn(n_groups=6), tmp_path / "d.PDF", (72,))
    assert all(path.stat().st_size < MOST_BYTES for path in tmp_path.iterdir())
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "d.PDF").read_bytes().startswith(b"%PDF")


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

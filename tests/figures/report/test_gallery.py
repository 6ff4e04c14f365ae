"""The gallery: what differs is marked, hostile text stays text, and the figure is drawn."""

from dataclasses import replace

from core.clamps.experiments import Experiment
from figures.report.gallery import (
    choose_pair,
    mark_differences,
    render_page,
    split_words,
    write_gallery,
)

EVIL = "<script>alert(1)</script> \u202e & \x1b[31m"
MEASURES = {
    f"{p}{m}{e}": 0.5
    for p in ("", "random_", "feature_", "unclamped_")
    for m in ("own", "kl", "target")
    for e in ("", "_low", "_high")
}
RECORD = Experiment.from_dict({
    "clamps": ["set 7=2x"], "features": [7], "labels": {"7": EVIL}, "prompts": [EVIL, "the cat"], "baseline": ["sat on the mat", "ran"], "clamped": [EVIL, "ran ran ran"], "seeds": [0, 0],
    "promoted": [" ran", "<b>"], "useful": MEASURES | {"dose": 2.0}, "doses": [{"dose": d, **MEASURES} for d in (1.0, 2.0)],
})  # fmt: skip


def test_only_what_the_other_lacks_differs():
    a, b = mark_differences("the cat sat on", "the dog sat on it")
    assert [t for t, new in a if new] == ["cat"] and [t for t, new in b if new] == [
        "dog",
        " ",
        "it",
    ]
    assert "".join(t for t, _ in b) == "the dog sat on it"
    assert split_words("x = foo(1)\n  y") == ["x", " ", "=", " ", "foo", "(", "1", ")", "\n  ", "y"]


def test_hostile_text_is_escaped_in_the_page():
    page = render_page([RECORD], EVIL)
    assert "<script>" not in page and "\u202e" not in page and "\x1b" not in page
    assert "&lt;script&gt;" in page and "\\u202e" in page and page.count("<mark>") >= 1


def test_the_pair_that_repeats_itself_least_stands_in_the_figure():
    assert (
        choose_pair(replace(RECORD, clamped=("ran ran ran", "ran to see it"))) == 1
        and choose_pair(replace(RECORD, clamped=("a b c d e", "ran on"))) == 1
    )


def test_page_and_figures_are_written(tmp_path):
    folder = write_gallery([RECORD], tmp_path / "gallery", "subject")
    names = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert set(names) == {
        "gallery.html",
        "gallery.png",
        "gallery-dark.png",
        "dose-7.png",
        "dose-7-dark.png",
    } and all(size > 1000 for size in names.values())


def test_a_clamp_that_is_found_again_says_so():
    found = {
        f"{p}found{e}": 0.25
        for p in ("", "random_", "feature_", "unclamped_")
        for e in ("", "_low", "_high")
    } | {"dose": 4.0}
    page = render_page(
        [replace(RECORD, shown_by="useful_found", useful={"dose": None}, useful_found=found)],
        "subject",
    )
    assert "Set to 4 times its maximum" in page and "25% of its maximum is found again" in page

"""What is printed fits the terminal, keeps words whole, and says in sentences what is missing."""

import pytest
from rich.cells import cell_len

from figures.layout import fit_text, share_width, show_snippet, wrap_text
from figures.terminal import describe_score, format_seconds, runs_text, table_text, units_text

LABEL = "a long label of several words that goes on and on " * 4
UNIT = {"stage": "capture", "state": "done", "summary": {"documents": 12}, "seconds": 74.0}


@pytest.fixture(params=[80, 110, 160, 200])
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


def test_a_table_fits_the_terminal_with_whole_words(width):
    rows = [{"feature": 1, "label": LABEL, "score": 0.5}]
    head, line = table_text(rows, ["feature", "label", "score"]).splitlines()
    assert head.split() == ["feature", "label", "score"]
    assert cell_len(line) <= width
    shown = line.split("1  ", 1)[1].split("…")[0].split()
    assert shown == LABEL.split()[: len(shown)]
    assert line.endswith("0.50")


def test_narrow_and_very_wide_terminals_are_bounded(monkeypatch):
    rows = [{"label": LABEL * 3}]
    for columns, bound in (("20", 80), ("999", 200)):
        monkeypatch.setenv("COLUMNS", columns)
        widest = max(cell_len(line) for line in table_text(rows, ["label"]).splitlines())
        assert bound - 15 < widest <= bound


def test_text_is_cut_between_words_and_a_longer_word_inside():
    assert fit_text("one two three", 13) == "one two three"
    assert fit_text("one two three", 12) == "one two…"
    assert fit_text("abcdefgh", 5) == "abcd…"
    assert fit_text("字字字字", 5) == "字字…"
    assert wrap_text("a " + "b" * 30, 10) == ["a", "b" * 30]


def test_a_snippet_stays_around_its_peak_on_one_line():
    tokens = [f" {i:02}" for i in range(40)]
    values = [float(i == 20) for i in range(40)]
    for width in (12, 30, 31, 77):
        text = show_snippet(tokens, values, 1.0, 20, width, colour=False)
        assert cell_len(text) <= width
        assert "«« 20»»" in text
        assert text.startswith("…")
        assert text.endswith("…")
    assert "\n" not in show_snippet(["a\nb", "c"], [1.0, 0.0], 1.0, 0, 80, colour=False)
    whole = show_snippet(tokens, values, 1.0, 20, 1000, colour=False)
    assert whole.startswith(" 00")
    assert whole.endswith(" 39")


def test_units_stand_on_one_line_each_with_their_key_figures(width):
    absent = {"stage": "title", "state": "absent", "summary": {}, "seconds": None}
    stale = {"stage": "compare/other", "state": "stale", "summary": {"x": 1}, "seconds": 4000.0}
    lines = units_text([UNIT, absent, stale]).splitlines()
    assert len(lines) == 4
    assert "12 documents" in lines[1]
    assert "1:14 min" in lines[1]
    assert "not made" in lines[2]
    assert "out of date" in lines[3]
    assert max(map(cell_len, lines)) <= width


def test_runs_say_what_to_type_next(width):
    row = {"run": "mine", "subject": "models/tiny", "site": "resid_post.1", "bytes": 1_500_000}
    row |= {"made": 1.7e9, "next": "python main.py explore mine"}
    line = runs_text([row]).splitlines()[1]
    assert line.split()[:5] == ["mine", "tiny", "resid_post.1", "1.5", "MB"]
    assert "2023-11-1" in line
    assert cell_len(line) <= width
    assert line.endswith("python main.py explore mine")
    assert "main.py demo" in runs_text([])


def test_durations_by_hand():
    assert [format_seconds(s) for s in (3.4, 59.7, 200, 3900)] == [
        "3 s",
        "1:00 min",
        "3:20 min",
        "1:05 h",
    ]


def test_a_score_without_a_value_says_why():
    score = {"kind": "detection", "value": None, "undefined": "too_rare"}
    assert describe_score(score).endswith("no value: it fires in too few test documents")
    told = describe_score(score | {"undefined": "unparsable: no list in the reply"})
    assert told.endswith("no value: no list in the reply")


def test_columns_share_what_is_left_and_none_takes_more_than_it_needs():
    from figures.layout import Column

    columns = [Column("a"), Column("b", flexible=True), Column("c", flexible=True)]
    assert share_width(columns, [10, 100, 20], 80) == [10, 50, 20]
    assert share_width(columns, [10, 100, 100], 80) == [10, 35, 35]


@pytest.mark.parametrize(
    ("low", "documents", "said"),
    [(None, 27, "0.60 (an interval needs 30 documents), null"), (0.5, 40, "0.60 [0.50, 0.70], null"), (None, 0, "0.60, null")],
)  # fmt: skip
def test_a_score_without_an_interval_says_why(low, documents, said):
    score = {"kind": "simulation", "value": 0.6, "low": low, "high": 0.7, "null": 0.1, "n_documents": documents}  # fmt: skip
    assert said in describe_score(score)
    assert "null 0.00" in describe_score(score | {"null": -0.001})  # what rounds to 0 has no sign


def test_every_key_figure_that_a_stage_shows_has_words():
    from autointerp.pipeline import FIGURES, STAGES, brief

    for stage in STAGES.values():
        summary = dict.fromkeys(stage.shown, 2)
        assert {*stage.shown} <= {*FIGURES, "failures", "verdict_kind"}, stage.name
        assert "_" not in brief(stage, summary)

"""Text of a corpus in the report and in the terminal stays text."""

import re

from figures.layout import show_snippet, sparkline
from figures.markdown import code, table
from figures.terminal import table_text
from figures.text import to_line


def inside(span):
    """What CommonMark shows of a code span: the part between equal runs of backticks, one space
    stripped where both ends have one.
    """
    ticks = re.match("`+", span)[0]
    assert span.endswith(ticks) and ticks not in re.findall("`+", span[len(ticks) : -len(ticks)])
    content = span[len(ticks) : -len(ticks)]
    return content[1:-1] if content[0] == content[-1] == " " and content.strip() else content


def test_code_shows_exactly_the_text():
    for text in ("self", " self", "`", "``x`", "a ` b", "<script>", "*x*", " ` ", "$x$"):
        assert inside(code(text)) == text


def test_hostile_characters_become_visible():
    assert to_line("a\nb\tc") == "a↵b→c"
    assert (
        to_line("\x1b[31m") == "\\u001b[31m"
        and to_line("\u202egnp") == "\\u202egnp"
        and to_line("\udcff") == "\\udcff"
    )


def test_a_pipe_does_not_end_a_cell():
    assert table(["a"], [[code("x|y")]]).splitlines()[-1] == "| `x\\|y` |"


def test_highlighting_marks_the_peak_and_what_is_strong():
    assert show_snippet([" a", "b", "c"], [0.0, 1.0, 0.2], 1.0, 1, 80, colour=False) == " a««b»»c"
    shaded = show_snippet(["a", "b"], [0.0, 1.0], 1.0, 1, 80, colour=True)
    assert shaded.startswith("a\x1b[") and "48;5;" in shaded and shaded.endswith("\x1b[0m")


def test_an_empty_bin_is_blank_and_one_firing_is_not():
    assert sparkline([0, 1, 1000]) == " ▁█"


def test_tables_say_what_they_leave_out():
    rows = [{"feature": i, "score": None} for i in range(5)]
    assert table_text(rows, ["feature", "score"], 3).splitlines()[-1].startswith("... and 2 more")

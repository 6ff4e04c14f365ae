"""The figure of an attribution holds what was predicted and what was measured, for each firing."""

import dataclasses

import pytest

from figures.plots.why import LONGEST, draw_why, save_why_figure
from tests.figures.test_why_lines import made


@pytest.mark.parametrize("dark", [False, True])
def test_bars_are_the_predictions_and_the_measurements(dark):
    record = made()
    figure = draw_why(record, dark)
    left, right = figure.axes
    for axes, firings in ((left, record.firings[:2]), (right, [record.firings[2]])):
        predicted, measured = (
            [bar.get_width() for bar in container] for container in axes.containers
        )
        assert predicted == [-f.attribution for f in firings]
        assert measured == [f.change for f in firings]
        names = [tick.get_text() for tick in axes.get_yticklabels()]
        assert all(len(name) <= LONGEST + 4 for name in names) and len(names) == len(firings)
    assert "cities" in left.get_yticklabels()[0].get_text()
    assert "feature 7" in left.get_yticklabels()[1].get_text()
    assert "Francisco" in figure.get_suptitle() and "50%" in figure.get_suptitle()


def test_the_figure_and_its_dark_variant_are_written(tmp_path):
    record = dataclasses.replace(made(), prompt="a $cost$ of " * 30, against=" Diego")
    paths = save_why_figure(tmp_path / "why.svg", record)
    assert [path.name for path in paths] == ["why.svg", "why-dark.svg"]
    assert all(path.stat().st_size > 1000 for path in paths)

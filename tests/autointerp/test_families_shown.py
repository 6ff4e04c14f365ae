"""Families where people meet them: `list --family`, `show`, `find`, the report, the explorer."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from autointerp.clusters import unit as clusters
from autointerp.features import Features
from autointerp.titles import unit as titles
from core.errors import UsageError
from core.run import Run
from figures.cli.drawing import COLOURS, draw_map
from figures.cli.reading import list_features
from figures.explorer.shards import Shards
from figures.report.cluster_text import families_parts, tell_families
from figures.report.map_drawing import COLOURS as MAP_COLOURS
from figures.report.map_drawing import MapDrawing
from figures.style import LIGHT
from figures.terminal import feature_text

FAMILIES = pd.DataFrame(
    {
        "family": [0, 1],
        "size": [5, 4],
        "kind": ["alternatives", ""],
        "comes_back": [True, False],
        "jaccard": [0.9, 0.2],
        "null_jaccard": [0.1, 0.1],
        "medoid": [2, 7],
    }
)
NAMES = pd.DataFrame({"family": [0, 1], "title": ["days", "<b>hex"], "solid": [True, False]})
SUMMARY = {
    "families": 2,
    "family_cut": 0.8,
    "families_null": 0,
    "families_come_back": 0.5,
    "families_null_back": 0.0,
    "family_jaccard": 0.55,
    "family_null_jaccard": 0.1,
    "family_share": 0.2,
    "family_kinds": {"alternatives": 1},
}


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """The tiny run with two families: features 0 to 4 and 5 to 8."""
    path = tmp_path_factory.mktemp("shown") / "run"
    shutil.copytree(tiny_run.path, path)
    run = Run.open(str(path))
    n = len(np.load(run.folder("train") / "directions.npy"))
    work = run.begin("cluster", 1, {}, ["index"])
    family = np.r_[np.repeat([0, 1], [5, 4]), np.full(n - 9, -1)]
    columns = {"feature": range(n), "status": "alive", "x": 0.0, "y": 0.0, "family": family}
    table = pd.DataFrame(columns | {"group": -1, "layer_0": -1})
    rng = np.random.default_rng(0)
    table[["x", "y"]] = rng.normal(size=(n, 2)) + 9 * (family == 0)[:, None]
    clusters.write_tables(work.folder, table, [], {}, [])
    clusters.write_families(work.folder, FAMILIES)
    nothing = np.full((n, 1), -1, np.int32)
    clusters.write_neighbours(work.folder, clusters.Neighbours(nothing, nothing))
    clusters.write_partners(work.folder, clusters.Partners(nothing, nothing, nothing))
    work.commit(SUMMARY | {"alive": n, "recall": 0.4, "verdict": "", "layers": []})
    work = run.begin("title", 1, {}, ["cluster"])
    titles.write_family_names(work.folder, NAMES)
    empty = pd.DataFrame({"layer": [], "group": [], "title": []})
    titles.write_titles(work.folder, empty, [], {})
    work.commit({})
    return run


def test_members_and_names(run):
    known = Features(run)
    assert known.members(0) == [0, 1, 2, 3, 4] and known.members(1) == [5, 6, 7, 8]
    assert known.members(-1)[0] == 9
    assert known.families["title"].tolist() == ["days", "<b>hex"]
    assert known.families["solid"].tolist() == [True, False]
    with pytest.raises(UsageError, match="There are 2, 0 to 1"):
        known.members(2)


def test_a_card_shows_the_family(run):
    known = Features(run)
    card = known.card(6)
    assert card.family["family"] == 1 and not card.family["solid"]
    assert [m["feature"] for m in card.family["members"]] == [5, 6, 7, 8]
    text = feature_text(card)
    assert "1 <b>hex, does not come back" in text
    assert "0 days, alternatives" in feature_text(known.card(0))
    assert known.card(9).family is None and "family" not in feature_text(known.card(9))


def test_find_reaches_the_name(run):
    assert Features(run).find("days")["feature"].tolist() == [0, 1, 2, 3, 4]


def test_list_takes_a_family(run):
    shown = CliRunner().invoke(list_features, [str(run.path), "--family", "1", "--json"])
    assert shown.exit_code == 0
    assert shown.output.count('"feature"') == 4


def test_the_explorer_has_them(run):
    families = Shards(Features(run)).start()["families"]
    assert families["family"][:9] == [0] * 5 + [1] * 4
    assert families["titles"] == ["days", "<b>hex"] and families["solid"] == [True, False]


def test_the_report_begins_with_one_sentence(run):
    first, numbers, count, names = families_parts(Features(run), SUMMARY)
    assert first == (
        "**2 families of near directions hold 20% of the live features where a Gaussian cloud of "
        "the same mean and covariance has none, and 50% of them come back when a fifth of the "
        "features is left out.**"
    )
    assert "| 0.80 |" in numbers and "1 of alternatives" in numbers
    assert count.startswith("2 families have a name")
    assert "**days**" in names and "0, 1, 2, 3, 4" in names
    assert tell_families({"families": 0}).startswith("No families")
    assert families_parts(SimpleNamespace(), {}) == []  # made by an earlier version


# ---------------------------------------------------------------- the map


def test_the_map_names_families_and_says_what_they_are_worth(run):
    figure = MapDrawing(Features(run)).draw()
    names = {t.get_text(): t.get_color() for t in figure.axes[0].texts}
    assert names == {"days": LIGHT["ink"], "<b>hex": LIGHT["faint"]}
    shown = " ".join(t.get_text() for t in figure.texts)
    for part in ("2 families", "has none", "50% of them come", "keeps 40%", "Names in grey"):
        assert part in shown


def test_the_map_is_coloured_by_what_is_asked_for(run):
    drawing = MapDrawing(Features(run))
    family = drawing.colours("family").of
    assert len(set(family[:5])) == 1 and len(set(family[5:9])) == 1
    assert family[0] != family[5] and (family[9:] == -1).all()
    kind = drawing.colours("kind")
    assert kind.of[:9].tolist() == [1] * 5 + [-1] * 4 and kind.names[1] == "alternatives"
    density = drawing.colours("density")
    assert density.log and np.allclose(density.values, drawing.features.evidence.density)
    assert (drawing.colours("cluster").of == -1).all()
    for colour, command in (("score", "score"), ("coverage", "score"), ("label", "label")):
        with pytest.raises(UsageError, match=f"no {colour} to colour") as error:
            drawing.colours(colour)
        assert f"python main.py {command}" in error.value.next_step
    with pytest.raises(UsageError, match="no colour 'pink'"):
        drawing.colours("pink")


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_map_writes_the_file_that_is_asked_for(run, ending, tmp_path):
    file = tmp_path / f"map.{ending}"
    given = [str(run.path), str(file), "--dark", "--colour", "density", "--no-contours"]
    shown = CliRunner().invoke(draw_map, given)
    assert shown.exit_code == 0 and shown.output.strip() == str(file)
    assert file.stat().st_size > 5000


def test_map_needs_a_kind_of_picture_that_it_knows(run):
    shown = CliRunner().invoke(draw_map, [str(run.path), "map.gif"])
    assert isinstance(shown.exception, UsageError) and ".pdf" in shown.exception.next_step
    assert set(COLOURS) == set(MAP_COLOURS)

"""Growing units: rows that stay, features that are missing, and what a dry run leaves."""

import pandas as pd
import pytest

from autointerp.grow import GrowingUnit, grow
from autointerp.llm.session import DryRun
from core.errors import NotReady
from core.run import Run
from core.settings import RunSettings

MAIN, FAILED = "rows.parquet", "failures.parquet"


@pytest.fixture
def run(tmp_path):
    settings = RunSettings(subject="none", site="resid_post.0", corpus="none")
    return Run.create(str(tmp_path / "run"), settings)


def unit(version=1):
    return GrowingUnit("label/x", version, {}, (), (MAIN, FAILED))


def writer(by, fails=()):
    """Return a maker that writes a row by `by` for each missing feature, or a failure."""

    def make(growth):
        made = [f for f in growth.missing if f not in fails]
        new = {MAIN: made, FAILED: [f for f in growth.missing if f in fails]}
        for name, features in new.items():
            rows = pd.DataFrame({"feature": features, "by": [by] * len(features)})
            kept = growth.kept[name]
            table = pd.concat([kept, rows]) if len(kept) else rows
            table.sort_values("feature").to_parquet(growth.folder / name)
        return {"made": growth.missing}

    return make


def rows(run, name=MAIN):
    table = pd.read_parquet(run.folder("label/x") / name)
    return dict(zip(table["feature"], table["by"], strict=True))


def test_only_missing_features_are_made_and_the_others_stay(run):
    grow(run, unit(), [3, 1], writer("first"))
    manifest = grow(run, unit(), [1, 2, 3, 4], writer("second"))
    assert manifest.summary == {"made": [2, 4]}
    assert rows(run) == {1: "first", 2: "second", 3: "first", 4: "second"}


def test_a_unit_that_holds_all_wanted_features_stays_as_it_is(run):
    first = grow(run, unit(), [1, 2], writer("first"))
    again = grow(run, unit(), [2], writer("second"))
    assert again == first
    assert rows(run) == {1: "first", 2: "first"}


def test_redo_replaces_the_wanted_features_alone(run):
    grow(run, unit(), [1, 2, 3], writer("first", fails=(3,)))
    grow(run, unit(), [2], writer("second"), redo=True)
    assert rows(run) == {1: "first", 2: "second"}
    assert rows(run, FAILED) == {3: "first"}


def test_a_failed_feature_is_missing_and_its_failure_goes_when_it_succeeds(run):
    grow(run, unit(), [1, 2], writer("first", fails=(1, 2)))
    grow(run, unit(), [1], writer("second"))
    assert rows(run) == {1: "second"}
    assert rows(run, FAILED) == {2: "first"}


def test_without_extend_a_committed_unit_stays_as_it_is(run):
    first = grow(run, unit(), [1], writer("first"), extend=False)
    assert grow(run, unit(), [1, 2], writer("second"), extend=False) == first


def test_a_unit_made_in_another_way_needs_redo_and_keeps_nothing(run):
    grow(run, unit(), [1, 2], writer("first"))
    with pytest.raises(NotReady, match="differs"):
        grow(run, unit(version=2), [2], writer("second"))
    grow(run, unit(version=2), [2], writer("second"), redo=True)
    assert rows(run) == {2: "second"}


def test_a_dry_run_leaves_no_partial_unit_and_the_committed_one_alone(run):
    def ask(growth):
        (growth.folder / MAIN).write_bytes(b"half")
        raise DryRun

    assert grow(run, unit(), [1], ask) is None
    assert list(run.path.glob("label/*")) == []
    grow(run, unit(), [1], writer("first"))
    assert grow(run, unit(), [1, 2], ask) is None
    assert rows(run) == {1: "first"}
    assert [path.name for path in run.path.glob("label/*")] == ["x"]

"""Records become tables whose columns are those that files and JSON have always had."""

import numpy as np
import pandas as pd
import pytest

from autointerp.scores.unit import score_table
from autointerp.tables import RowIndex, append_rows, keep_rows, table_of, write_records
from core.records import Failure, Label, Score, Undefined

LABELS = [Label(1, "rules", "the word", 0.5, "token", evidence=7), Label(3, "hand", "x", 1.0)]


def test_a_label_set_is_the_column_set(tmp_path):
    write_records(tmp_path / "labels.parquet", LABELS, Label)
    table = pd.read_parquet(tmp_path / "labels.parquet")
    columns = ["feature", "set", "text", "confidence", "kind", "reply_key", "evidence"]
    assert list(table) == columns
    assert table["set"].tolist() == ["rules", "hand"]
    assert table["evidence"].tolist() == [7, 0]


def test_a_table_of_no_records_has_all_columns():
    assert list(table_of([], Failure)) == ["stage", "feature", "kind", "message", "reply_key"]


def test_a_score_without_a_value_has_its_reason_as_text():
    scores = [
        Score(1, "rules", "effect", 0.7, None, 0.6, 0.8, 0.5, 10, 4),
        Score(2, "rules", "effect", None, Undefined("too_rare", "few"), None, None, None, 3, 1),
    ]
    table = score_table(scores, {"auroc": [0.9, np.nan]})
    assert table["undefined"].tolist() == ["", "too_rare: few"]
    assert table["value"].isna().tolist() == [False, True]
    assert {str(table[c].dtype) for c in ("value", "low", "high", "null")} == {"float64"}
    assert list(table)[-1] == "auroc"


def test_rows_that_stay_are_those_of_a_current_unit_that_are_not_redone(tmp_path):
    path = tmp_path / "labels.parquet"
    write_records(path, LABELS, Label)
    assert keep_rows(path, True, [1])["feature"].tolist() == [3]
    assert not len(keep_rows(path, False, []))
    assert not len(keep_rows(tmp_path / "none.parquet", True, []))


def test_rows_are_appended_in_order_of_feature():
    old, new = table_of(LABELS, Label), table_of([Label(2, "rules", "y", 0.1)], Label)
    assert append_rows(old, new)["feature"].tolist() == [1, 2, 3]
    assert append_rows(old.head(0), new) is new


@pytest.mark.parametrize(("feature", "rows"), [(1, [0, 2]), (2, [0]), (3, [1]), (9, [])])
def test_rows_are_found_under_every_key(feature, rows):
    table = pd.DataFrame({"feature": [1, 3, 1], "other": [2, 3, 1], "x": [0.5, np.nan, 1.5]})
    index = RowIndex(table, ["x", "missing"], ("feature", "other"))
    values = [None if np.isnan(x) else x for x in table["x"]]
    assert index.of(feature) == [{"x": values[i], "missing": None} for i in rows]

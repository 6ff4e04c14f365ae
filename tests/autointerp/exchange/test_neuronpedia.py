"""Exports against schemas frozen here, and the way back: what both formats can hold comes home
unchanged.
"""

import csv
import gzip
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from autointerp.exchange.neuronpedia import SNIPPETS, export_neuronpedia, stratum_bounds
from autointerp.exchange.neuronpedia_import import import_neuronpedia, parse_index
from autointerp.exchange.tables import export_table, quote_formula
from autointerp.features import Features
from autointerp.labels.notes import add_note
from core.errors import UsageError
from core.run import Run

number = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)
share = lambda v: number(v) and 0 <= v <= 1
logit = {"token": str, "value": number}
# POST /api/feature/upload-batch, as its route read it in 2026; a name with ? may be missing
UPLOAD = {
    "modelId": lambda v: v == v.lower() and v, "source": lambda v: v == v.lower() and v,
    "features": [(1, 128), {
        "index": lambda v: isinstance(v, int) and 0 <= v <= 10_000_000, "density?": share, "topLogits?": [(0, 20), logit], "bottomLogits?": [(0, 20), logit],
        "explanations?": [(0, 99), {"text": lambda v: 1 <= len(v) <= 512, "methodName?": str, "modelName?": str}],
        "activations": [(1, 9999), {
            "tokens": [(1, 1024), str], "values": [(1, 1024), number], "quantileMax?": number, "quantileMin?": number, "quantileFraction?": share,
        }],
    }],
}  # fmt: skip
KEY = {"modelId": str, "layer": str, "index": lambda v: isinstance(v, str) and v.isdecimal()}
ROWS = {
    "features": KEY | {
        "maxActApprox": number, "frac_nonzero": share, "hasVector": bool, "vector": [(0, 0), number], "pos_str": [(0, 99), str], "pos_values": [(0, 99), number],
        "neg_str": [(0, 99), str], "neg_values": [(0, 99), number], "topkCosSimIndices": [(0, 99), int], "topkCosSimValues": [(0, 99), number],
        "freq_hist_data_bar_heights": [(1, 99), number], "freq_hist_data_bar_values": [(1, 99), number],
    },
    "activations": KEY | {
        "id": str, "creatorId": str, "tokens": [(1, 1024), str], "values": [(1, 1024), number], "maxValue": number, "minValue": number, "maxValueTokenIndex": int,
        "dataSource": str, "dataIndex": str, "binMin": number, "binMax": number, "binContains": number, "qualifyingTokenIndex": int,
    },
    "explanations": KEY | {"id": str, "authorId": str, "description": str, "typeName": str, "explanationModelName": lambda v: v is None or isinstance(v, str)},
}  # fmt: skip


def check(value, schema, where="$"):
    """Raise AssertionError, with the place, unless `value` has exactly the form of `schema`."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        known = {name.rstrip("?"): part for name, part in schema.items()}
        assert set(value) <= set(known), (where, set(value) - set(known))
        assert {n for n in schema if not n.endswith("?")} <= set(value), (
            where,
            set(schema) - set(value),
        )
        for name, part in value.items():
            check(part, known[name], f"{where}.{name}")
    elif isinstance(schema, list):
        (least, most), part = schema
        assert isinstance(value, list) and least <= len(value) <= most, (where, len(value))
        for i, one in enumerate(value):
            check(one, part, f"{where}[{i}]")
    else:
        assert isinstance(value, schema) if isinstance(schema, type) else schema(value), (
            where,
            value,
        )


def read_rows(path):
    return [
        json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line
    ]


@pytest.fixture(scope="module")
def exported(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange") / "out"
    export_neuronpedia(Features(Run.open(str(job))), folder, "Tiny")
    return folder


def test_the_schema_would_notice():
    good = {
        "modelId": "m",
        "source": "1-x",
        "features": [{"index": 0, "activations": [{"tokens": ["a"], "values": [1.0]}]}],
    }
    check(good, UPLOAD)
    for path, bad in (
        (("modelId",), "M"),
        (("features", 0, "index"), "0"),
        (("features", 0, "activations"), []),
        (("features", 0, "density"), 2.0),
    ):
        broken = json.loads(json.dumps(good))
        place = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = bad
        with pytest.raises(AssertionError):
            check(broken, UPLOAD)


def test_uploads_have_the_form_that_the_site_takes(exported, job):
    features, found = Features(Run.open(str(job))), []
    for path in sorted((exported / "upload").iterdir()):
        body = json.loads(path.read_text(encoding="utf-8"))
        check(body, UPLOAD)
        assert (body["modelId"], body["source"]) == (
            "tiny",
            f"1-res-{features.postings.n_features}",
        )
        found += body["features"]
    assert [f["index"] for f in found] == np.flatnonzero(features.postings.n_firings).tolist()
    for feature in found[::17]:
        for activation in feature["activations"]:
            assert (
                len(activation["tokens"]) == len(activation["values"])
                and max(activation["values"]) > 0
            )  # never an example of nothing
            assert (
                "quantileMin" not in activation
                or activation["quantileMin"] <= activation["quantileMax"]
            )


def test_the_bulk_folder_has_the_form_of_the_published_one(exported):
    [bulk] = (exported / "tiny").iterdir()
    for name, schema in ROWS.items():
        rows = read_rows(bulk / name / "batch-0.jsonl.gz")
        for row in rows:
            check(row, schema)
        assert rows and all((row["modelId"], row["layer"]) == ("tiny", bulk.name) for row in rows)
    for row in read_rows(bulk / "activations" / "batch-0.jsonl.gz"):
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert (row["binContains"] == -1) == (row["binMin"] == -1) and row["binMax"] > 0
    source = json.loads((bulk / "source.jsonl").read_text())
    assert (
        source["id"] == bulk.name
        and source["setName"] == json.loads((bulk / "sourceset.jsonl").read_text())["name"]
    )


def test_scores_stand_beside(exported, job):
    rows = [json.loads(line) for line in (exported / "scores.jsonl").read_text().splitlines()]
    features = Features(Run.open(str(job)))
    known = features.scores.set_index(["feature", "set", "kind"])["value"]
    assert {row["kind"] for row in rows} == set(features.scores["kind"])
    assert all(
        row["value"] is None
        or row["value"] == pytest.approx(known[int(row["index"]), row["set"], row["kind"]])
        for row in rows
    )


def test_bounds_of_strata_follow_one_another():
    card = SimpleNamespace(
        max=9.0,
        strata=[
            {"stratum": "q90", "low": 5.0, "firings": 0.1},
            {"stratum": "q70", "low": 3.0, "firings": 0.2},
        ],
    )
    assert [stratum_bounds(card, name) for name in ("q90", "q70", "top")] == [
        (5.0, 9.0, 0.1),
        (3.0, 5.0, 0.2),
        None,
    ]


def test_the_round_trip_loses_nothing(exported, job_copy):
    run = Run.open(str(job_copy))
    manifest = import_neuronpedia(run, exported, "back")
    features = Features(run)
    ours, back = (
        features.labels[features.labels["set"] == name].set_index("feature")["text"]
        for name in ("rules", "back")
    )
    assert back.to_dict() == ours[back.index].to_dict() and manifest.summary["skipped"] == {}
    kept = pd.read_parquet(run.folder("label/back") / "activations.parquet")
    for feature in back.index[::40]:
        expected = [
            (s["tokens"], s["activations"]) for s in features.card(int(feature), SNIPPETS).snippets
        ]
        rows = kept[kept["feature"] == feature]
        assert [
            (list(t), list(v)) for t, v in zip(rows["tokens"], rows["values"], strict=True)
        ] == expected
    again = job_copy.parent / "again"
    export_neuronpedia(features, again, "Tiny")
    read = lambda folder: {
        (r["index"], r["typeName"]): r
        for r in read_rows(next(folder.glob("tiny/*/explanations/batch-0.jsonl.gz")))
    }
    first, second = read(exported), read(again)
    assert {k: v for k, v in second.items() if k[1] == "rules"} == first and {
        k[0] for k in second if k[1] == "back"
    } == {k[0] for k in first}


def test_an_imported_set_is_scored_and_shown_like_any_other(exported, job_copy, call):
    code, out, err = call("import", job_copy, exported, "--from", "neuronpedia")
    assert code == 0 and "label/neuronpedia" in out, err
    assert call("score", job_copy, "--labels", "neuronpedia")[0] == 0
    card = json.loads(call("show", job_copy, 3, "--json")[1])
    scores = {label["set"]: label["scores"][0]["value"] for label in card["labels"]}
    assert scores["neuronpedia"] == scores["rules"] and card["labels"][0]["confidence"] is None
    assert call("show", job_copy, 3)[0] == 0


def test_other_peoples_files_are_not_trusted(job_copy, tmp_path):
    """Indices as text and as numbers, batches in any order, broken rows, a cut-off file, a token
    that is a line separator.
    """
    folder = tmp_path / "1-x" / "explanations-some-llm"
    folder.mkdir(parents=True)
    rows = ['{"index": 7, "description": "seven", "explanationModelName": "some-llm"}', '{"index": "3", "description": "three\u2028lines"}', "{broken", '{"index": "x", "description": "y"}',
            '{"index": true, "description": "y"}', '{"index": "4", "description": "  "}', '{"description": "no index"}', '["list"]', '{"index": "3", "description": "another"}']  # fmt: skip
    (folder / "batch-0.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "batch-1.jsonl.gz").write_bytes(
        gzip.compress(b'{"index": 5, "description": "five"}')[:-9]
    )
    activations = tmp_path / "1-x" / "activations"
    activations.mkdir()
    (activations / "batch-0.jsonl").write_text(
        '{"index": 3, "tokens": ["a"], "values": [1.5]}\n{"index": 3, "tokens": ["a"], "values": [1, 2]}\n',
        encoding="utf-8",
    )
    run = Run.open(str(job_copy))
    manifest = import_neuronpedia(run, tmp_path, "theirs")
    labels = pd.read_parquet(run.folder("label/theirs") / "labels.parquet").set_index("feature")[
        "text"
    ]
    assert (
        labels.to_dict() == {3: "three\u2028lines", 7: "seven"}
        and manifest.summary["explanations"] == 3
    )
    assert manifest.summary["skipped"] == {
        "row that cannot be read": 5,
        "explanation without a text": 1,
        "file that cannot be read": 1,
        "activation that cannot be read": 1,
    }
    assert (
        manifest.summary["activations"] == 1
        and manifest.summary["failures"]["none"] == manifest.summary["alive"] - 2
    )
    export_neuronpedia(Features(run), tmp_path / "out", "Tiny")
    rows = [
        r
        for r in read_rows(next((tmp_path / "out").glob("tiny/*/explanations/batch-0.jsonl.gz")))
        if r["typeName"] == "theirs"
    ]
    assert [(r["index"], r["description"], r["explanationModelName"]) for r in rows] == [
        ("3", "three\u2028lines", None), ("3", "another", None), ("7", "seven", "some-llm"),
    ]  # fmt: skip
    assert len({r["id"] for r in rows}) == 3


@pytest.mark.parametrize(
    ("row", "name", "said"),
    [
        ('{"index": 99999, "description": "x"}', "a", "feature 99999"),
        ('{"index": 1}', "a", "no explanations"),
        ('{"index": 1, "description": "x"}', "rules", "cannot be the name"),
    ],
)
def test_what_cannot_be_imported_is_an_error(tiny_run, tmp_path, row, name, said):
    (tmp_path / "explanations").mkdir()
    (tmp_path / "explanations" / "batch-0.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        import_neuronpedia(tiny_run, tmp_path, name)


def test_an_index_is_a_whole_number():
    assert parse_index("12") == parse_index(12) == 12
    for bad in (True, -1, 1.5, "1.5", "", None, "-3"):
        with pytest.raises(ValueError):
            parse_index(bad)


def test_tables_hold_every_feature(job, tmp_path):
    features = Features(Run.open(str(job)))
    [path] = export_table(features, tmp_path, "csv")
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(r["feature"]) for r in rows] == list(range(features.postings.n_features))
    assert all(r["label"] == quote_formula(features.label(int(r["feature"]))) for r in rows[::20])
    [path] = export_table(features, tmp_path, "jsonl")
    cards = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert cards[3] == json.loads(json.dumps(features.card(3, SNIPPETS).to_dict()))


def test_a_spreadsheet_computes_nothing():
    assert [quote_formula(v) for v in ("=1+1", "@x", "plain", 3, None)] == [
        "'=1+1",
        "'@x",
        "plain",
        3,
        None,
    ]


def test_notes_survive_in_jsonl(job, tmp_path):
    shutil.copytree(job, tmp_path / "run")
    add_note(tmp_path / "run", 2, "</script> \u202e note")
    [path] = export_table(Features(Run.open(str(tmp_path / "run"))), tmp_path, "jsonl")
    assert (
        json.loads(path.read_text(encoding="utf-8").split("\n")[2])["notes"][0]["text"]
        == "</script> \u202e note"
    )

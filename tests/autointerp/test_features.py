"""Evidence, tables and cards, on a run whose labels and scores are planted."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from autointerp.card import Card, histogram_svg
from autointerp.evidence import DENSE, Evidence, status_of
from autointerp.features import Features
from autointerp.labels import unit as label_unit
from autointerp.labels.notes import add_note, read_notes
from autointerp.scores import unit as score_unit
from core.errors import NotReady, UsageError
from core.records import SPLITS, Failure, Label, Score, Undefined
from core.run import Run

HOSTILE = '<script>alert(1)</script>" \x1b[31m \u202e'
KEYS = [
    "feature", "status", "density", "n_firings", "n_documents", "max", "labels", "measured", "promoted",
    "suppressed", "neighbours", "family", "cluster", "groups", "partners", "related", "isolated",
    "histogram", "strata", "notes", "failures", "snippets",
]  # fmt: skip


def plant_labels(run, label_set, texts, failed=()):
    work = run.begin(label_unit.unit_of(label_set), 1, {}, ["index"])
    labels = [Label(f, label_set, text, 0.5, "free") for f, text in texts.items()]
    failures = [Failure("label", f, "too_rare", "it never fires") for f in failed]
    label_unit.write_labels(work.folder, labels, failures)
    work.commit({})


def plant_scores(run, label_set, kind, values, misses=()):
    """A None value is undefined."""
    unit = score_unit.unit_of(label_set, kind)
    work = run.begin(unit, 1, {}, ["index", label_unit.unit_of(label_set)])
    why = Undefined("too_rare", "few documents")
    scores = [
        Score(f, label_set, kind, v, None if v is not None else why, None, None, 0.1, 9, 2)
        for f, v in values.items()
    ]
    failures = [Failure("score", f, why.kind, why.message) for f, v in values.items() if v is None]
    table, miss = score_unit.score_table(scores), score_unit.miss_table(list(misses))
    score_unit.write_scores(work.folder, table, failures, miss)
    work.commit({})


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """Three label sets, two kinds of score, a note."""
    path = tmp_path_factory.mktemp("features") / "run"
    shutil.copytree(tiny_run.path, path)
    run = Run.open(str(path))
    plant_labels(run, "rules", {0: "rule of 0", 1: "rule of 1", 2: HOSTILE}, failed=(3,))
    plant_labels(run, "llm-m", {1: "model of 1", 3: "model of 3"})
    plant_labels(run, "hand", {1: "person on 1"})
    plant_scores(run, "rules", "simulation", {0: 0.25, 1: 0.9, 2: None})
    plant_scores(run, "rules", "detection", {0: 0.75})
    plant_scores(run, "llm-m", "detection", {3: 0.5}, [(3, 5, "missed", 0.0)])
    plant_scores(run, "hand", "simulation", {1: 0.4})
    add_note(path, 2, "days of the week")
    return run


@pytest.fixture(scope="module")
def features(run):
    return Features(run)


# ---------------------------------------------------------------- evidence


def test_statistics_equal_a_count_by_hand(features):
    evidence, tokens = features.evidence, features.tokens
    for feature in range(0, evidence.n_features, 7):
        where, values = features.postings.firings(feature)
        documents = {tokens.locate(ordinal)[0] for ordinal in where.tolist()}
        held_out = sum(SPLITS[tokens.split[d]] == "test" for d in documents)
        stats = evidence.stats(feature)
        assert stats.n_firings == len(where)
        assert stats.n_documents == len(documents)
        assert stats.density == len(where) / len(tokens)
        assert stats.max == max(values.tolist(), default=0.0)
        assert stats.status == status_of(len(where), stats.density, held_out)


def test_one_visit_gives_statistics_histogram_and_strata(features):
    feature = int(features.postings.n_firings.argmax())
    values = features.postings.firings(feature)[1]
    one = features.evidence.of(feature)
    assert one.stats == features.evidence.stats(feature)
    assert one.counts.sum() == len(values)
    assert one.edges[-1] == pytest.approx(values.max())
    assert sum(stratum["firings"] for stratum in one.strata) == pytest.approx(1)


@pytest.mark.parametrize(
    ("n_firings", "density", "n_test", "status"),
    [(0, 0.0, 0, "dead"), (9, DENSE * 2, 9, "dense"), (9, 0.01, 4, "rare"), (9, 0.01, 5, "alive")],
)
def test_the_status_of_a_feature(n_firings, density, n_test, status):
    assert status_of(n_firings, density, n_test) == status


def test_evidence_knows_no_effects_before_their_stage(run):
    evidence = Evidence(run)
    assert evidence.effects is None
    assert evidence.promoted(0) == evidence.suppressed(0) == []
    assert evidence.alive.tolist() == np.flatnonzero(evidence.postings.n_firings).tolist()


def test_a_feature_that_does_not_exist_is_an_error(features):
    for feature in (-1, features.evidence.n_features):
        with pytest.raises(UsageError, match=f"no feature {feature}"):
            features.card(feature)


# ---------------------------------------------------------------- units


def test_label_sets_are_listed_and_read_by_name(run):
    assert label_unit.list_sets(run) == ["hand", "llm-m", "rules"]
    assert label_unit.read_texts(run, "llm-m").to_dict() == {1: "model of 1", 3: "model of 3"}
    assert label_unit.read_failures(run, "rules")["feature"].tolist() == [3]
    assert label_unit.read_explanations(run, "rules") is None
    with pytest.raises(NotReady, match="label/llm-x"):
        label_unit.read_labels(run, "llm-x")


def test_people_speak_before_models_and_models_before_rules(features):
    assert features.labels["set"].drop_duplicates().tolist() == ["hand", "llm-m", "rules"]
    assert [features.label(f) for f in range(5)] == [
        "rule of 0", "person on 1", HOSTILE, "model of 3", "",
    ]  # fmt: skip


def test_simulation_comes_first_and_failures_name_their_unit(features):
    assert features.scores["kind"].drop_duplicates().tolist() == ["simulation", "detection"]
    rows = features.failures.set_index("feature")["unit"]
    assert rows.to_dict() == {3: "label/rules", 2: "score/rules/simulation"}


def test_misses_exist_only_where_they_were_kept(run):
    assert score_unit.read_misses(run, "llm-m", "detection")["ordinal"].tolist() == [5]
    assert not len(score_unit.read_misses(run, "rules", "detection"))
    assert score_unit.read_all_misses(run)["set"].tolist() == ["llm-m"]
    assert score_unit.find_scores(run, "rules", "fuzzing") is None


# ---------------------------------------------------------------- tables


def test_the_table_has_the_best_label_and_its_own_score(features):
    table = features.table()
    columns = [
        "feature",
        "label",
        "coverage",
        "gain",
        "score",
        "null",
        "density",
        "cluster",
        "x",
        "y",
    ]
    assert list(table) == columns
    assert len(table) == features.evidence.n_features
    assert table["label"].tolist() == [features.label(f) for f in table["feature"]]
    np.testing.assert_equal(table["score"][:4].tolist(), [0.25, 0.4, np.nan, np.nan])
    np.testing.assert_equal(table["null"][:4].tolist(), [0.1, 0.1, 0.1, np.nan])
    assert set(table["cluster"]) == {-1}
    assert table[["x", "y"]].isna().all(axis=None)


def test_the_table_of_one_set_has_its_labels_alone(features):
    table = features.overview("rules")
    assert list(table) == ["feature", "label", "coverage", "gain", "score", "density", "cluster"]
    assert table["label"][:4].tolist() == ["rule of 0", "rule of 1", HOSTILE, ""]
    np.testing.assert_equal(table["score"][:4].tolist(), [0.25, 0.9, np.nan, np.nan])


def test_a_run_without_labels_has_a_table_too(tiny_run):
    table = Features(tiny_run).table()
    assert set(table["label"]) == {""}
    assert table["score"].isna().all()


def test_words_are_found_in_labels_and_notes(features):
    assert features.find("person RULE")["feature"].tolist() == [1]  # it holds both words
    assert 0 in features.find("zebra RULE")["feature"].tolist()  # nothing holds both
    assert features.find("week days")["feature"].tolist() == [2]
    assert not len(features.find("zebra"))
    with pytest.raises(UsageError, match="nothing to search"):
        features.find("  ")


def test_a_pair_counts_what_two_features_share(features):
    a, b = np.argsort(-features.postings.n_firings)[:2].tolist()
    pair = features.pair(a, b)
    shared = np.intersect1d(*(features.postings.firings(f)[0] for f in (a, b)))
    assert pair["n_ab"] == len(shared)
    assert pair["labels"] == {"a": features.label(a), "b": features.label(b)}
    assert features.pair(a, a)["cosine"] == pytest.approx(1)


# ---------------------------------------------------------------- cards


def test_a_card_has_the_keys_of_show_and_is_json(features):
    card = features.card(1)
    table = card.to_dict()
    assert list(table) == KEYS
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert [label["set"] for label in card.labels] == ["hand", "llm-m", "rules"]
    assert card.label == "person on 1"
    assert card.scores["simulation"]["value"] == 0.4
    assert Card(**table) == card


def test_undefined_scores_and_failures_stand_on_the_card(features):
    [score] = features.card(2).labels[0]["scores"]
    assert score["value"] is None
    assert score["undefined"] == "too_rare: few documents"
    [failure] = features.card(2).failures
    assert failure == {
        "unit": "score/rules/simulation",
        "kind": "too_rare",
        "message": "few documents",
    }


def test_a_walk_gives_the_cards_that_single_visits_give(features):
    counts = {"top": 2, "random": 1, "failing": 1}
    walk = list(features.cards.walk(counts, 1, 4))
    assert walk == [features.card(f, counts) for f in (1, 2, 3)]


def test_snippets_have_the_strata_and_the_split_that_were_asked_for(features):
    feature = int(features.postings.n_firings.argmax())
    snippets = features.card(feature, {"top": 3, "random": 2}, "train").snippets
    assert [s["stratum"] for s in snippets] == ["top"] * 3 + ["random"] * 2
    assert {s["split"] for s in snippets} == {"train"}
    assert features.card(feature, {}).snippets == []


class Reader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_a_notebook_shows_label_scores_histogram_and_snippets_as_text(features):
    card = features.card(2)
    reader = Reader()
    reader.feed(card._repr_html_())
    assert "<script>alert(1)</script>" in reader.text
    assert not reader.tags - {"p", "b", "code", "br", "small", "svg", "rect", "div", "span"}
    assert not set(reader.text) & {"\x1b", "\u202e"}
    assert "too_rare: few documents" in reader.text
    assert card._repr_html_().count("<div>") == len(card.snippets) > 0
    assert repr(card).startswith("Card(feature=2, ")


def test_every_bin_with_a_firing_is_a_bar():
    assert histogram_svg([0, 3, 1, 0]).count("<rect") == 2
    assert histogram_svg([]).count("<rect") == 0
    assert 'height="40.0"' in histogram_svg([0, 3, 1])


# ---------------------------------------------------------------- notes


def test_notes_are_appended_and_a_cut_line_is_skipped(tmp_path):
    add_note(tmp_path, 1, " first ")
    add_note(tmp_path, 1, "second")
    with open(tmp_path / "notes.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"feature": 2, "te')
    assert [note["text"] for note in read_notes(tmp_path)] == ["first", "second"]
    add_note(tmp_path, 1, "a line separator \u2028 in a note")
    assert read_notes(tmp_path)[2]["text"] == "a line separator \u2028 in a note"
    with pytest.raises(UsageError, match="empty"):
        add_note(tmp_path, 1, "  ")
